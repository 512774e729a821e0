"""A cache as `concord fetch --for paper` leaves it, at toy width: every generator, guide and judge in its own format.

What is fetched has the names and places of data/manifests, and random weights: the manifests that are read meanwhile
state no hash and no size. Architectures that would take minutes are replaced by small ones of the same form while
`toy_world` lasts (CLIP, FAN, the sides at which the parsers look); Inception, VGG19, S3FD, parsenet are whole.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paper_world
import pytest
import torch
import yaml
from plain_layers import randomised

PARSER_SIZE = 128
STEPS = 2
SUITES = Path(__file__).resolve().parents[2] / "benchmarks" / "suites"


# ---------------------------------------------------------------------------------------------------------- the files


def write_cache(folder: Path) -> Path:
    """Every weight file that the four suites of the tests look through, where `concord weights fetch` puts it."""
    from transformers import BertTokenizerFast

    weights = folder / "weights"
    made = paper_world.write_files(folder / "made")
    bert = made["bert-base-uncased"]
    BertTokenizerFast(str(bert / "vocab.txt"), do_lower_case=True).save_pretrained(bert)
    (bert / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (made["stable-diffusion-v1-4"] / "model_index.json").write_text("{}")  # fetched too, and not read
    _put(weights, "celeba-hq-ddpm", made["celeba-hq-ddpm"])
    _put(weights, "collab-256-codiff-mask-text", made["collab-256-codiff-mask-text"])
    shutil.copytree(bert, weights / "bert-base-uncased")
    shutil.copytree(made["stable-diffusion-v1-4"], weights / "stable-diffusion-v1-4")
    for name in ("bisenet", "ir-se50", "mobilefacenet", "clip-vit-b-16", "clip-rn50"):
        _put(weights, name, made[name])
    state = torch.load(made["clip-vit-b-16"], weights_only=True)
    torch.save({key: value * 1.1 for key, value in state.items()}, made["clip-vit-b-16"])  # the judge is another one
    _put(weights, "clip-vit-l-14", made["clip-vit-b-16"])
    shutil.rmtree(folder / "made")
    _write_judges(weights)
    return folder


def _put(weights: Path, name: str, file: Path) -> Path:
    place = weights / name / first_file(name)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, place)
    return place


def first_file(name: str) -> str:
    from concord.data.download.manifest import load_manifest

    return load_manifest(name).files[0].name


def _write_judges(weights: Path) -> None:
    import warnings

    from reference.test_arcface_reference import write_buffalo

    from concord.metrics.networks.pretrained.inception import Inception
    from concord.metrics.networks.pretrained.parsenet import Parsenet

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from face_alignment.models import FAN
    from torchvision.models.vgg import cfgs, make_layers

    def save(name: str, state: dict[str, Any]) -> None:
        place = weights / name / first_file(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, place)

    state = {name: value for name, value in randomised(Inception()).state_dict().items() if "num_batches" not in name}
    save("inception-fidelity", state)
    save("inception-pytorch-fid", {name: value * (1.01 if value.ndim > 1 else 1) for name, value in state.items()})
    save("parsenet", randomised(Parsenet()).state_dict())
    features = randomised(make_layers(cfgs["E"], batch_norm=False))
    save("vgg19", {f"features.{name}": value for name, value in features.state_dict().items()})
    save("fan-2d4", randomised(FAN(1)).state_dict())
    save("s3fd", _seeing())
    folder = weights / "buffalo-l" / "buffalo_l"
    folder.mkdir(parents=True)
    write_buffalo(folder)


def _seeing() -> dict[str, Any]:
    """S3FD that sees a face at one scale of any image."""
    from face_alignment.detection.sfd.net_s3fd import s3fd

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
    return dict(detector.state_dict())


def zip_buffalo(cache_folder: Path, path: Path) -> Path:
    """The archive that the manifest of buffalo-l fetches, from the folder that stands in the cache."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((cache_folder / "weights" / "buffalo-l" / "buffalo_l").iterdir()):
            archive.write(file, file.name)
    return path


def write_manifests(folder: Path) -> Path:
    """The repo's manifests without the hashes and sizes that random weights cannot have."""
    from concord.data.download.manifest import FOLDER

    folder.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for file in content["files"]:
            for key in ("sha256", "sha256_prefix", "size"):
                file.pop(key, None)
        (folder / path.name).write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


# ----------------------------------------------------------------------------------------------------------- the faces


def write_faces(folder: Path, faces: int = 10, test: int = 4) -> Path:
    """Faces as `concord data prepare` writes them, a test split among them, with the landmarks that they truly have."""
    import numpy as np

    from concord.data.datasets.faces import prepare
    from concord.data.datasets.faces.open import open_faces
    from concord.data.synthetic import write_tree

    start = 27_000
    write_tree(folder / "tree", range(start, start + faces), progress=False, workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "FULL_SET", faces)
        patch.setattr(prepare, "TEST_KEYS", test)
        prepare.prepare(folder / "tree", folder / "prepared", None, folder / "none", workers=1)
    drawn = {item.id: item for item in open_faces(folder / "tree", split="all").items}
    items = open_faces(folder / "prepared").items
    assert len(items) == test
    points = np.stack([drawn[item.id].landmarks(256) for item in items])
    ids = np.array([item.id for item in items])
    np.savez(folder / "prepared" / "landmarks.npz", indices=ids, landmarks=points.astype(np.float32), size=256)
    shutil.rmtree(folder / "tree")
    return folder / "prepared"


def write_suite(name: str, folder: Path) -> Path:
    """The repo's suite as a user's file: its paper part at toy size, its rows in two steps."""
    content = yaml.safe_load((SUITES / f"{name}.yaml").read_text(encoding="utf-8"))
    part = content["profiles"]["paper"]
    part["image_size"] = paper_world.SIZE
    for row in content["rows"]:
        if "method" in row:
            own = part["rows"].setdefault(row["name"], {})
            own["steps"] = STEPS
            if row["method"] in ("freedom", "z-magic", "ugd"):
                own["repeat"] = 1
            if row["method"] == "amdm":
                own["aggregation_steps"] = 1
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder / f"{name}.yaml"


# --------------------------------------------------------------------------------------------------- the architectures


@contextmanager
def toy_world(manifests: Path) -> Iterator[None]:
    """The loaders expect the toy widths, and manifests without hashes are read."""
    import warnings

    from concord.data.download import manifest
    from concord.metrics.networks.pretrained import clip, parsenet

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import face_alignment.models as models
    small = models.FAN
    with paper_world.toy_networks(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest.load_manifest, "__defaults__", (manifests,))
        patch.setitem(clip.MODELS, "clip-vit-l-14", paper_world.CLIP)
        patch.setattr(parsenet, "SIZE", PARSER_SIZE)
        patch.setattr(models, "FAN", lambda modules: small(1))
        yield
