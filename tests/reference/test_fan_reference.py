"""Landmarks by FAN: files of the published form through the production loader, beside face-alignment's own call."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face_seer import pictures
from plain_layers import randomised

from concord.data.errors import ConcordError
from concord.metrics.base import OK
from concord.metrics.face.landmark_nme import CELLS, crop_of, quantised
from concord.metrics.networks.pretrained.fan import load_fan
from concord.metrics.networks.pretrained.weights import NO_FACE, to_uint8

pytestmark = pytest.mark.slow  # FAN takes seconds an image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TORCH_HOME with 2DFAN-4 and S3FD of random weights; S3FD sees a face at the top left of any image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from face_alignment.detection.sfd.net_s3fd import s3fd
        from face_alignment.models import FAN
    home = tmp_path_factory.mktemp("home") / "hub" / "checkpoints"
    home.mkdir(parents=True)
    torch.save(randomised(FAN(4)).state_dict(), home / "2DFAN4-11f355bf06.pth.tar")
    detector = s3fd()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.zero_()
        for name, bias in (
            ("conv3_3_norm", 4),
            ("conv4_3_norm", 2),
            ("conv5_3_norm", 2),
            ("fc7", 2),
            ("conv6_2", 2),
            ("conv7_2", 2),
        ):
            head = getattr(detector, f"{name}_mbox_conf")
            head.bias.copy_(torch.tensor([5.0] * (bias - 1) + [-5.0]))  # background everywhere ...
        detector.conv6_2_mbox_conf.bias.copy_(torch.tensor([-2.0, 2.0]))  # ... but at one scale
    torch.save(detector.state_dict(), home / "s3fd-619a316812.pth")
    with torch.no_grad():
        detector.conv6_2_mbox_conf.bias.copy_(torch.tensor([2.0, -2.0]))
    torch.save(detector.state_dict(), home / "s3fd-blind.pth")
    return home


def test_fan_is_face_alignments_own_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import face_alignment

    fan = load_fan(folder / "2DFAN4-11f355bf06.pth.tar", detector=folder / "s3fd-619a316812.pth")
    images = pictures(1, size=128)
    points, statuses = fan.landmarks(images)
    assert statuses == [OK]
    assert points.shape == (1, 68, 2)
    monkeypatch.setenv("TORCH_HOME", str(folder.parents[1]))
    own: Any = face_alignment.FaceAlignment(face_alignment.LandmarksType.TWO_D, device="cpu", compile=False)
    picture = to_uint8(images)[0]
    boxes = own.face_detector.detect_from_image(picture)
    assert len(boxes) >= 1
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in boxes]
    best = boxes[int(np.argmax(areas))]
    expected = own.get_landmarks_from_image(picture, detected_faces=[best])[0]
    assert (points[0].numpy() == expected + 0.5).all()
    assert len(np.unique(expected, axis=0)) > 20


def test_no_face_is_told_and_not_searched_further(folder: Path) -> None:
    fan = load_fan(folder / "2DFAN4-11f355bf06.pth.tar", detector=folder / "s3fd-blind.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        points, statuses = fan.landmarks(pictures(2, size=64))
    assert statuses == [NO_FACE] * 2
    assert points.isnan().all()


def test_wrong_files_are_named(folder: Path, tmp_path: Path) -> None:
    network, detector = folder / "2DFAN4-11f355bf06.pth.tar", folder / "s3fd-619a316812.pth"
    with pytest.raises(ConcordError, match="concord weights fetch fan-2d4"):
        load_fan(tmp_path / "none", detector=detector)
    with pytest.raises(ConcordError, match="concord weights fetch s3fd"):
        load_fan(network, detector=tmp_path / "none")
    with pytest.raises(ConcordError, match=r"2DFAN4-11f355bf06\.pth\.tar: not the weights of S3FD") as caught:
        load_fan(network, detector=network)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConcordError, match=r"s3fd-619a316812\.pth: no weights of FAN: it lacks"):
        load_fan(detector, detector=detector)


def test_noise_floor_is_face_alignments_decoding_of_perfect_heatmaps() -> None:
    from face_alignment import utils

    rng = np.random.default_rng(0)
    points = rng.uniform(60, 190, (68, 2))
    centre, side = crop_of(points)
    place = (points - centre) / (side / CELLS) + CELLS / 2
    rows = np.arange(CELLS) + 0.5
    heat = np.exp(
        -((rows[None, None, :] - place[:, 0, None, None]) ** 2) / 2
        - (rows[None, :, None] - place[:, 1, None, None]) ** 2 / 2
    )[None]
    _, found, _ = utils.get_preds_fromhm(heat, centre, side / 200)
    assert (found[0] + 0.5 == quantised(points)).all()
