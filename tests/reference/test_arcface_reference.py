"""Identity by ArcFace: ONNX files of the published form through the production loader, beside insightface's parts."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from concord.data.errors import ConcordError
from concord.metrics.base import OK
from concord.metrics.networks.pretrained.weights import NO_FACE, to_uint8


def write_buffalo(folder: Path) -> Path:
    """ONNX files of the published form with random weights: a detector with 9 outputs, an embedder of 112 x 112.

    The detector's scores depend on contrast alone: on a black image nothing reaches its threshold.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng, nodes, weights, outputs = np.random.default_rng(0), [], [], []
    places = np.array([(-0.8, -0.9), (0.8, -0.9), (0.0, 0.0), (-0.6, 0.9), (0.6, 0.9)], np.float32)

    def add(name: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(value, name))
        return name

    made: dict[str, list[str]] = {"score": [], "box": [], "point": []}
    for stride in (8, 16, 32):
        for kind, numbers in (("score", 1), ("box", 4), ("point", 10)):
            name = f"{kind}_{stride}"
            kernel = rng.normal(0, 1, (2 * numbers, 3, stride, stride)).astype(np.float32)
            kernel -= kernel.mean(axis=(2, 3), keepdims=True)  # answers to contrast, not to brightness
            kernel *= {"score": 0.2 * 32 / stride, "box": 0.001, "point": 0.001}[kind]
            bias = {"score": np.full(2, -4.0), "box": np.full(8, 3.0), "point": np.tile(2 * places.ravel(), 2)}[kind]
            inputs = ["input.1", add(f"w_{name}", kernel), add(f"b_{name}", bias.astype(np.float32))]
            nodes.append(helper.make_node("Conv", inputs, [f"c_{name}"], strides=[stride, stride]))
            if kind == "score":
                nodes.append(helper.make_node("Sigmoid", [f"c_{name}"], [f"s_{name}"]))
            last = f"s_{name}" if kind == "score" else f"c_{name}"
            nodes.append(helper.make_node("Transpose", [last], [f"t_{name}"], perm=[0, 2, 3, 1]))
            shape = add(f"shape_{name}", np.array([-1, numbers], np.int64))
            nodes.append(helper.make_node("Reshape", [f"t_{name}", shape], [name]))
            made[kind].append(name)
    for kind, numbers in (("score", 1), ("box", 4), ("point", 10)):
        outputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", numbers]) for n in made[kind]]
    picture = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "h", "w"])
    opset = [helper.make_opsetid("", 13)]
    detector = helper.make_graph(nodes, "detector", [picture], outputs, weights)
    onnx.save(helper.make_model(detector, opset_imports=opset, ir_version=8), folder / "det_10g.onnx")

    weights = []
    steps = [
        helper.make_node(
            "Conv", ["input.1", add("w", rng.normal(0, 0.1, (8, 3, 8, 8)).astype(np.float32))], ["c"], strides=[8, 8]
        ),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", add("m", rng.normal(0, 0.1, (8 * 14 * 14, 512)).astype(np.float32))], ["683"]),
    ]
    face = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["n", 3, 112, 112])
    vector = helper.make_tensor_value_info("683", TensorProto.FLOAT, ["n", 512])
    embedder = helper.make_graph(steps, "embedder", [face], [vector], weights)
    onnx.save(helper.make_model(embedder, opset_imports=opset, ir_version=8), folder / "w600k_r50.onnx")
    return folder


@pytest.fixture(scope="module")
def buffalo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_buffalo(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def arcface(buffalo: Path) -> Any:
    from concord.metrics.networks.pretrained.arcface import load_arcface

    return load_arcface(buffalo)


def faces_to_find() -> Tensor:
    """Two images with coarse contrast, and a black one."""
    coarse = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 3, 8, 8)).astype(np.float32) / 255)
    images = F.interpolate(coarse, 96, mode="nearest")
    return torch.cat([images, torch.zeros(1, 3, 96, 96)])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_arcface_is_insightfaces_parts_one_by_one(buffalo: Path, arcface: Any) -> None:
    """Detection and alignment by insightface, then ONNX Runtime on (x - 127.5) / 127.5 in RGB."""
    import onnxruntime
    from insightface.model_zoo import get_model
    from insightface.utils.face_align import norm_crop

    images = faces_to_find()
    vectors, statuses = arcface.embed_faces(images)
    assert statuses == [OK, OK, NO_FACE]
    assert not vectors[2].any()
    detector = get_model(str(buffalo / "det_10g.onnx"), providers=["CPUExecutionProvider"])
    detector.prepare(-1, input_size=(640, 640), det_thresh=0.5)
    session = onnxruntime.InferenceSession(str(buffalo / "w600k_r50.onnx"), providers=["CPUExecutionProvider"])
    for vector, picture in zip(vectors[:2], to_uint8(images), strict=False):
        _, points = detector.detect(picture[:, :, ::-1], max_num=1)
        face = norm_crop(picture[:, :, ::-1], points[0], 112)[:, :, ::-1]
        blob = ((face.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[None]
        (expected,) = session.run(None, {"input.1": np.ascontiguousarray(blob)})[0]
        expected /= np.linalg.norm(expected)
        assert np.abs(vector.numpy() - expected).max() < 1e-5
    assert (vectors[0] - vectors[1]).norm() > 0.05


def test_arcface_takes_the_zip_and_nothing_lands_elsewhere(buffalo: Path, arcface: Any, tmp_path: Path) -> None:
    from concord.metrics.networks.pretrained.arcface import load_arcface

    archive = tmp_path / "buffalo_l.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        for path in buffalo.glob("*.onnx"):
            writer.write(path, f"../../buffalo_l/{path.name}")
        writer.writestr("../evil.txt", "no")
    zipped = load_arcface(archive)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "buffalo_l.zip",
        "det_10g.onnx",
        "w600k_r50.onnx",
    ]
    images = faces_to_find()[:1]
    assert torch.equal(zipped.embed_faces(images)[0], arcface.embed_faces(images)[0])


def test_arcface_files_that_are_missing_or_broken_are_named(tmp_path: Path) -> None:
    from concord.metrics.networks.pretrained.arcface import load_arcface

    with pytest.raises(ConcordError, match=r"no \.onnx files; expected det_10g\.onnx"):
        load_arcface(tmp_path)
    with pytest.raises(ConcordError, match="no such weight file; give the file of 'buffalo-l'"):
        load_arcface(tmp_path / "none")
    (tmp_path / "det_10g.onnx").write_bytes(b"not a network")
    with pytest.raises(ConcordError, match="insightface cannot load it") as caught:
        load_arcface(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "buffalo_l.zip").write_bytes(b"not an archive")
    with pytest.raises(ConcordError, match="expected the folder or the zip of buffalo_l"):
        load_arcface(tmp_path / "buffalo_l.zip")


def test_a_picture_of_nan_is_refused(arcface: Any) -> None:
    images = faces_to_find()
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(ConcordError, match="image 1 of the batch holds NaN or infinity"):
        arcface.embed_faces(images)
