"""The face networks at the papers' scale: loaded from files as their authors publish them, and computed a second time.

The published weights cannot be had here; random ones go through the production loaders in the published form, and the
answers are compared with the same network written down again from its state dict, or with the library's own call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face_seer import as_bytes, observe, pictures
from PIL import Image
from plain_layers import Plain, randomised
from torch import Tensor
from torch.nn import functional as F

from concord.data.errors import ConcordError
from concord.data.labels import BISENET, CELEBAMASK_HQ, bisenet_to_celebamask
from concord.data.networks import Networks
from concord.data.request import Conditions
from concord.metrics.base import OK, Score
from concord.metrics.face.identity_l2 import IdentityL2
from concord.metrics.face.landmark_l2 import LandmarkL2, landmark_l2
from concord.metrics.face.square import Square, face_square
from concord.metrics.networks.judges import judge_sha256
from concord.metrics.networks.pretrained.bisenet import MEAN, BiSeNet, BiSeNetParser, ResNet18, load_bisenet
from concord.metrics.networks.pretrained.ir_se50 import IRSE50, FixedCropIdentity, load_ir_se50
from concord.metrics.networks.pretrained.mobilefacenet import MobileFaceNet, SquareLandmarks, cut, load_mobilefacenet
from concord.metrics.networks.pretrained.parsenet import Parsenet, ParsenetParser, load_parsenet, nearest
from concord.metrics.networks.pretrained.weights import read_state
from concord.metrics.segmentation.segmentation_distance import SegmentationDistance, segmentation_distance

MIB = 2**20


def saved(network: torch.nn.Module, path: Path, key: str | None = None) -> Path:
    state: Any = network.state_dict()
    torch.save({"epoch": 1, key: state} if key else state, path)
    return path


# ------------------------------------------------------------------------------------------- BiSeNet


@pytest.fixture(scope="module")
def bisenet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(randomised(BiSeNet()), tmp_path_factory.mktemp("bisenet") / "79999_iter.pth")


def plain_bisenet(p: Plain, x: Tensor) -> Tensor:
    def cbr(x: Tensor, name: str, padding: int = 1) -> Tensor:
        return p.norm(p.conv(x, f"{name}.conv", padding=padding), f"{name}.bn").relu()

    def pooled(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, tuple(x.shape[2:]))

    def arm(x: Tensor, name: str) -> Tensor:
        x = cbr(x, f"{name}.conv")
        return x * torch.sigmoid(p.norm(p.conv(pooled(x), f"{name}.conv_atten"), f"{name}.bn_atten"))

    def double(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    size = x.shape[2:]
    x = p.norm(p.conv(x, "cp.resnet.conv1", 2, 3), "cp.resnet.bn1").relu()
    x = F.max_pool2d(x, 3, 2, 1)
    stages = []
    for stage in range(1, 5):
        for block in range(2):
            name = f"cp.resnet.layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = p.norm(p.conv(x, f"{name}.conv1", stride, 1), f"{name}.bn1").relu()
            y = p.norm(p.conv(y, f"{name}.conv2", 1, 1), f"{name}.bn2")
            if p.has(f"{name}.downsample.0"):
                x = p.norm(p.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = (x + y).relu()
        stages.append(x)
    _, at8, at16, at32 = stages
    tail = cbr(pooled(at32), "cp.conv_avg", 0).expand(-1, -1, *at32.shape[2:])
    context = cbr(double(arm(at32, "cp.arm32") + tail), "cp.conv_head32")
    context = cbr(double(arm(at16, "cp.arm16") + context), "cp.conv_head16")
    fused = cbr(torch.cat([at8, context], 1), "ffm.convblk", 0)
    weight = torch.sigmoid(p.conv(p.conv(pooled(fused), "ffm.conv1").relu(), "ffm.conv2"))
    logits = p.conv(cbr(fused * weight + fused, "conv_out.conv"), "conv_out.conv_out")
    return F.interpolate(logits, size, mode="bilinear", align_corners=True)


def test_bisenet_from_its_file_is_the_network_written_again(bisenet_file: Path) -> None:
    parser = load_bisenet(bisenet_file)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours, plain = parser.network(x), plain_bisenet(Plain(read_state(bisenet_file)), x)
    assert ours.shape == (2, 19, 64, 96)
    assert ours.std() > 0.1
    assert (ours - plain).abs().max() < 1e-4 * ours.std()


@pytest.mark.slow  # importing torchvision
def test_bisenets_trunk_is_torchvisions() -> None:
    """Same names, same answers; torchvision's classifier apart."""
    models = pytest.importorskip("torchvision.models")
    theirs = randomised(models.resnet18(weights=None))
    state = {name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    ours = ResNet18()
    ours.load_state_dict(state)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        y = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x)))))
        for found in ours.eval()(x):
            y = getattr(theirs, {128: "layer2", 256: "layer3", 512: "layer4"}[found.shape[1]])(y)
            assert (found - y).abs().max() < 1e-4 * y.std()


def test_bisenet_is_of_the_published_size(bisenet_file: Path) -> None:
    """79999_iter.pth has 50.8 MiB; and it names its weights like this."""
    state = read_state(bisenet_file)
    assert sum(value.numel() for value in state.values()) * 4 / MIB == pytest.approx(50.8, abs=0.1)
    for name, shape in {
        "cp.resnet.layer2.0.downsample.1.running_var": (128,),
        "cp.arm16.conv.conv.weight": (128, 256, 3, 3),
        "cp.arm32.bn_atten.bias": (128,),
        "cp.conv_avg.bn.weight": (128,),
        "ffm.convblk.conv.weight": (256, 256, 1, 1),
        "ffm.conv1.weight": (64, 256, 1, 1),
        "conv_out.conv_out.weight": (19, 256, 1, 1),
        "conv_out16.conv.conv.weight": (64, 128, 3, 3),
        "conv_out32.conv_out.weight": (19, 64, 1, 1),
    }.items():
        assert tuple(state[name].shape) == shape


def test_bisenets_classes_come_out_in_celebamask_order() -> None:
    """Its own channel k is BISENET[k]; what it calls 'hair' (17) must be what everybody else calls hair (13)."""

    class Columns(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            """Class k of its own in column k."""
            return torch.eye(19).view(1, 19, 1, 19)

    logits = BiSeNetParser(Columns())(torch.rand(1, 3, 8, 8))  # type: ignore[arg-type]
    assert [CELEBAMASK_HQ[number] for number in logits.argmax(1)[0, 0].tolist()] == list(BISENET)
    assert CELEBAMASK_HQ.index("hair") != BISENET.index("hair")


def test_bisenet_is_prepared_as_freedom_prepares_it(bisenet_file: Path) -> None:
    """FreeDoM normalises images in [-1, 1] with (2 mean - 1, 2 deviation) after a bicubic resize."""
    parser, images = load_bisenet(bisenet_file), pictures(1, size=32)
    seen: list[Tensor] = []
    parser.network.register_forward_hook(lambda module, inputs, output: seen.extend((inputs[0], output)))
    with torch.inference_mode():
        logits = parser(images)
    assert logits.shape == (1, 19, 512, 512)
    x = F.interpolate(images * 2 - 1, size=512, mode="bicubic")
    mean, deviation = torch.tensor(MEAN).view(3, 1, 1), torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
    assert torch.allclose(seen[0], (x - (2 * mean - 1)) / (2 * deviation), atol=1e-5)
    own = seen[1].argmax(1)[0].numpy()
    assert (bisenet_to_celebamask(own) == logits.argmax(1)[0].numpy()).all()


def test_bisenets_reference_is_prepared_as_freedom_prepares_it() -> None:
    """FaceParseTool: Image.resize((512, 512), Image.BILINEAR), ToTensor, ImageNet's Normalize."""
    seen: list[Tensor] = []

    class Seeing(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return torch.zeros(len(x), 19, 512, 512)

    parser, images = BiSeNetParser(Seeing()), pictures(2, size=32)  # type: ignore[arg-type]
    parser.parse_reference(images)
    parser.parse(images)
    alike = parser.parse_reference(F.interpolate(images, size=512, mode="nearest"))
    mean, deviation = torch.tensor(MEAN).view(3, 1, 1), torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
    for row, image in enumerate(images):
        picture = Image.fromarray(as_bytes(image)).resize((512, 512), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        torch.testing.assert_close(seen[0][row], (x - mean) / deviation, rtol=1e-5, atol=1e-6)
    assert float((seen[0] - seen[1]).abs().max()) > 0.1
    torch.testing.assert_close(seen[2], (F.interpolate(images, size=512, mode="nearest") - mean) / deviation)
    assert alike.shape == (2, 19, 512, 512)


# ------------------------------------------------------------------------------------------ parsenet


def plain_parsenet(p: Plain, x: Tensor) -> Tensor:
    def double(x: Tensor, name: str) -> Tensor:
        for part in ("conv1", "conv2"):
            x = p.norm(p.conv(x, f"{name}.{part}.0", padding=1), f"{name}.{part}.1").relu()
        return x

    skips = []
    for level in range(1, 5):
        x = double(x, f"conv{level}")
        skips.append(x)
        x = F.max_pool2d(x, 2)
    x = double(x, "center")
    for level in (4, 3, 2, 1):
        name = f"up_concat{level}"
        weight, bias = p.state[f"{name}.up.weight"], p.state[f"{name}.up.bias"]
        # Stride and kernel are 2: each pixel becomes a 2 x 2 block of its own.
        blocks = torch.einsum("bihw,ioyx->bohywx", x, weight) + bias.view(1, -1, 1, 1, 1, 1)
        x = blocks.reshape(x.shape[0], weight.shape[1], 2 * x.shape[2], 2 * x.shape[3])
        x = double(torch.cat([skips[level - 1], x], 1), f"{name}.conv")
    return p.conv(x, "final")


def test_parsenet_from_its_file_is_the_network_written_again(tmp_path: Path) -> None:
    path = saved(randomised(Parsenet()), tmp_path / "model.pth")
    parser, state = load_parsenet(path), read_state(path)
    x = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours, plain = parser.network(x), plain_parsenet(Plain(state), x)
    assert ours.std() > 0.1
    assert (ours - plain).abs().max() < 1e-4 * ours.std()
    assert state["center.conv1.0.weight"].shape == (256, 128, 3, 3)
    assert state["up_concat4.up.weight"].shape == (256, 128, 2, 2)
    assert state["up_concat1.conv.conv2.1.running_mean"].shape == (16,)
    assert state["final.weight"].shape == (19, 16, 1, 1)


def test_parsenet_sees_the_picture_as_its_test_script_shows_it() -> None:
    """NEAREST by Pillow to 512, (x - 0.5) / 0.5; and its classes at the image's own size."""
    images = pictures(1, size=100)
    parser = ParsenetParser(randomised(Parsenet(width=4)))  # type: ignore[arg-type]
    seen: list[Tensor] = []
    parser.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        logits, labels = parser(images), parser.labels(images)
    picture = Image.fromarray(as_bytes(images[0])).resize((512, 512), Image.Resampling.NEAREST)
    expected = (torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255 - 0.5) / 0.5
    assert torch.allclose(seen[0][0], expected, atol=1e-6)
    classes = Image.fromarray(logits.argmax(1)[0].numpy().astype(np.uint8))
    back = np.asarray(classes.resize((100, 100), Image.Resampling.NEAREST))
    assert labels.shape == (1, 100, 100)
    assert labels.dtype == torch.int64
    assert (labels[0].numpy() == back).all()
    assert len(np.unique(back)) > 1


@pytest.mark.parametrize("size", [64, 100, 256, 512, 1024])
def test_nearest_is_pillows(size: int) -> None:
    column = np.arange(size, dtype=np.uint16 if size > 256 else np.uint8)
    picture = Image.fromarray(np.tile(column % 251, (4, 1)).astype(np.uint8)).resize((512, 4), Image.Resampling.NEAREST)
    ours = nearest(torch.from_numpy(np.tile(column % 251, (4, 1)).astype(np.float32))[None, None], (4, 512))
    assert (ours[0, 0].numpy() == np.asarray(picture)).all()


# ------------------------------------------------------------------------------------------- IR-SE50


def plain_ir_se50(p: Plain, x: Tensor) -> Tensor:
    x = p.prelu(p.norm(p.conv(x, "input_layer.0", padding=1), "input_layer.1"), "input_layer.2")
    starts = {0, 3, 7, 21}  # blocks 3, 4, 14, 3; each stage starts with a stride of 2
    for block in range(24):
        name, stride = f"body.{block}", 2 if block in starts else 1
        y = p.conv(p.norm(x, f"{name}.res_layer.0"), f"{name}.res_layer.1", padding=1)
        y = p.conv(p.prelu(y, f"{name}.res_layer.2"), f"{name}.res_layer.3", stride, 1)
        y = p.norm(y, f"{name}.res_layer.4")
        weight = p.conv(y.mean((2, 3), keepdim=True), f"{name}.res_layer.5.fc1").relu()
        y = y * torch.sigmoid(p.conv(weight, f"{name}.res_layer.5.fc2"))
        if p.has(f"{name}.shortcut_layer.0"):
            x = p.norm(p.conv(x, f"{name}.shortcut_layer.0", stride), f"{name}.shortcut_layer.1") + y
        else:
            x = x[:, :, ::stride, ::stride] + y
    x = p.norm(x, "output_layer.0").flatten(1)
    x = p.norm(p.linear(x, "output_layer.3"), "output_layer.4")
    return x / x.pow(2).sum(1, keepdim=True).sqrt()


def test_ir_se50_from_its_file_is_the_network_written_again(tmp_path: Path) -> None:
    path = saved(randomised(IRSE50(width=16)), tmp_path / "model_ir_se50.pth")
    identity = load_ir_se50(path, width=16)
    faces = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours, plain = identity.network(faces), plain_ir_se50(Plain(read_state(path)), faces)
    assert ours.shape == (2, 128)
    assert (ours[0] - ours[1]).norm() > 0.01
    assert (ours - plain).abs().max() < 1e-5


def test_ir_se50_is_of_the_published_size() -> None:
    """The published file has 43.8 million weights; its last layer sees 7 x 7 x 512."""
    with torch.device("meta"):
        state = IRSE50().state_dict()
    assert sum(value.numel() for value in state.values()) / 1e6 == pytest.approx(43.8, abs=0.1)
    assert state["output_layer.3.weight"].shape == (512, 25088)
    assert state["body.3.shortcut_layer.0.weight"].shape == (128, 64, 1, 1)
    assert state["body.23.res_layer.5.fc2.weight"].shape == (512, 32, 1, 1)
    assert "body.0.shortcut_layer.0.weight" not in state


def test_the_fixed_window_is_freedoms() -> None:
    """Rows 35..222 and columns 32..219 at 256; outside of it nothing counts; 512 is averaged first."""
    network = FixedCropIdentity(randomised(IRSE50(width=16)))  # type: ignore[arg-type]
    images = pictures(1, size=256)
    outside = torch.rand_like(images)
    outside[:, :, 35:223, 32:220] = images[:, :, 35:223, 32:220]
    x = (images * 2 - 1)[:, :, 35:223, 32:220]
    with torch.inference_mode():
        expected = network.network(F.adaptive_avg_pool2d(x, (112, 112)))
        assert (network(images) - expected).abs().max() < 1e-5
        assert torch.equal(network(outside), network(images))
        assert (network(images.repeat_interleave(2, 2).repeat_interleave(2, 3)) - network(images)).abs().max() < 1e-5
        shifted = images.roll(1, dims=3)
        assert (network(shifted) - network(images)).abs().max() > 1e-5
    assert network.embed_faces(images)[1] == [OK]


# ------------------------------------------------------------------------------------- MobileFaceNet


def plain_mobilefacenet(p: Plain, x: Tensor) -> Tensor:
    def unit(x: Tensor, name: str, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        x = p.norm(p.conv(x, f"{name}.conv", stride, padding, groups), f"{name}.bn")
        return p.prelu(x, f"{name}.prelu") if p.has(f"{name}.prelu") else x

    def deep(x: Tensor, name: str, stride: int = 1) -> Tensor:
        middle = p.state[f"{name}.conv.conv.weight"].shape[0]
        return unit(unit(unit(x, f"{name}.conv"), f"{name}.conv_dw", stride, 1, middle), f"{name}.project")

    x = unit(x, "conv1", 2, 1)
    x = unit(x, "conv2_dw", 1, 1, x.shape[1])
    for halving, repeated, count in (("conv_23", "conv_3", 4), ("conv_34", "conv_4", 6), ("conv_45", "conv_5", 2)):
        x = deep(x, halving, 2)
        for number in range(count):
            x = x + deep(x, f"{repeated}.model.{number}")
    x = unit(x, "conv_6_sep")
    x = unit(x, "output_layer.conv_6_dw", groups=x.shape[1]).flatten(1)
    return p.norm(p.linear(x, "output_layer.linear"), "output_layer.bn")


def test_mobilefacenet_from_its_file_is_the_network_written_again(tmp_path: Path) -> None:
    path = saved(randomised(MobileFaceNet()), tmp_path / "mobilefacenet_model_best.pth.tar", "state_dict")
    state = read_state(path, "state_dict")
    landmarks = load_mobilefacenet(path)
    faces = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours, plain = landmarks.network(faces), plain_mobilefacenet(Plain(state), faces)
    assert ours.shape == (2, 136)
    assert (ours[0] - ours[1]).abs().max() > 1e-3 * ours.std()
    assert (ours - plain).abs().max() < 1e-4 * ours.std()
    assert state["output_layer.linear.weight"].shape == (136, 512)
    assert state["output_layer.conv_6_dw.conv.weight"].shape == (512, 1, 7, 7)
    assert state["conv_4.model.5.project.bn.running_mean"].shape == (128,)
    assert state["conv_45.conv_dw.prelu.weight"].shape == (512,)


def test_squares_are_cut_as_freedom_cuts_them_and_completed_with_black() -> None:
    image = pictures(1, size=200)[0]
    inside = cut(image, Square(left=30, top=40, side=100))
    expected = F.interpolate(image[None, :, 40:140, 30:130], size=112, mode="bicubic")[0]
    assert torch.equal(inside, expected)
    padded = F.pad(image, (50, 50, 50, 50))
    for square in (Square(-20, -30, 100), Square(150, 120, 99), Square(-10, -10, 220)):
        whole = padded[:, square.top + 50 :, square.left + 50 :][:, : square.side, : square.side]
        expected = F.interpolate(whole[None], size=112, mode="bicubic")[0]
        assert torch.equal(cut(image, square), expected)


# ------------------------------------------------------------------------- FreeDoM's four, as one object


@pytest.fixture(scope="module")
def freedom(tmp_path_factory: pytest.TempPathFactory, bisenet_file: Path) -> Iterator[Networks]:
    """The four but CLIP; IR-SE50 at a quarter of its width, as the published one takes seconds an image here."""
    folder = tmp_path_factory.mktemp("freedom")
    identity = saved(randomised(IRSE50(width=16)), folder / "model_ir_se50.pth")
    network = randomised(MobileFaceNet())
    network.output_layer.bn.weight.data.mul_(1e-3)  # type: ignore[union-attr]  # shares of a square, as the real one's
    landmarks = saved(network, folder / "mobilefacenet_model_best.pth.tar", "state_dict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("concord.metrics.networks.pretrained.ir_se50.load_ir_se50", partial(load_ir_se50, width=16))
        yield Networks("paper", paths={"bisenet": bisenet_file, "ir-se50": identity, "mobilefacenet": landmarks})


def test_freedoms_metrics_look_through_freedoms_networks(freedom: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "concord.metrics.networks.pretrained.bisenet.SIZE", 64
    )  # 512 takes seconds, and is tested above

    images, originals = pictures(1, size=256), pictures(1, seed=1, size=256)
    points = np.random.default_rng(0).uniform(60, 200, (68, 2)).astype(np.float32)
    conditions = [Conditions(identity=as_bytes(originals[0]), landmarks=points)]
    observation = observe(images, conditions, freedom, originals)
    with torch.inference_mode():
        parser = freedom.get("guide/parser", BiSeNetParser)
        identity = freedom.get("guide/identity", FixedCropIdentity)
        landmarks = freedom.get("guide/landmarks", SquareLandmarks)
        expected = (
            torch.linalg.norm(parser.parse_reference(originals) - parser(images)),
            torch.linalg.norm(identity(originals) - identity(images)),
            torch.linalg.norm(landmarks(originals, [face_square(points)]) - landmarks(images, [face_square(points)])),
        )
    for metric, value in zip((SegmentationDistance(), IdentityL2(), LandmarkL2()), expected, strict=True):
        assert metric.score(observation) == [Score(pytest.approx(value.item(), rel=1e-4), OK)]
        if not isinstance(metric, SegmentationDistance):  # whose originals are resized by another filter than images
            same = observe(originals, conditions, freedom, originals)
            assert metric.score(same) == [Score(pytest.approx(0, abs=1e-5), OK)]
    assert sorted(judge_sha256(freedom)) == ["freedom-identity", "freedom-landmarks", "freedom-parser"]
    assert all(len(digest) == 64 for digest in freedom.sha256.values())
    assert set(freedom.sha256) == {"bisenet", "ir-se50", "mobilefacenet"}


@pytest.mark.parametrize("kind", ["identity", "landmarks"])
def test_guides_pass_a_gradient_to_the_picture(freedom: Networks, kind: str) -> None:
    network, square = freedom.get(f"guide/{kind}", torch.nn.Module), [Square(40, 40, 160)]
    images = pictures(1, size=256).requires_grad_()
    found = network(images, square) if kind == "landmarks" else network(images)
    target = torch.zeros_like(found) if kind == "landmarks" else F.normalize(torch.ones_like(found), dim=1)
    energy = landmark_l2(found, target).sum()
    (slope,) = torch.autograd.grad(energy, images)
    assert torch.isfinite(slope).all()
    assert slope.abs().max() > 0
    assert not slope[:, :, :30].any()  # above the window nothing can matter
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_bisenet_passes_a_gradient_to_the_picture(bisenet_file: Path) -> None:
    network = load_bisenet(bisenet_file).network  # the core: at 512 the same takes seconds
    images = pictures(1, size=64).requires_grad_()
    energy = segmentation_distance(network(images), torch.zeros(1, 19, 64, 64))
    (slope,) = torch.autograd.grad(energy.sum(), images)
    assert torch.isfinite(slope).all()
    assert slope.abs().max() > 0


# --------------------------------------------------------------------------------------- files in general


LOADERS: dict[str, Callable[..., Any]] = {
    "bisenet": load_bisenet,
    "parsenet": load_parsenet,
    "ir-se50": load_ir_se50,
    "mobilefacenet": load_mobilefacenet,
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_missing_file_says_how_to_get_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConcordError, match=f"concord weights fetch {name}"):
        LOADERS[name](tmp_path / "none.pth")


@pytest.mark.parametrize("name", LOADERS)
def test_a_file_of_another_network_is_refused(name: str, tmp_path: Path) -> None:
    state = torch.nn.Linear(2, 2).state_dict()
    torch.save({"state_dict": state} if name == "mobilefacenet" else state, tmp_path / "w.pth")
    with pytest.raises(ConcordError, match=r"w\.pth: no weights of \w+: it lacks '[\w.]+' \(\d+ names are missing, 2"):
        LOADERS[name](tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(b"not a weight file")
    with pytest.raises(ConcordError, match=r"w\.pth: not a PyTorch weight file") as caught:
        LOADERS[name](tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_nothing_in_a_weight_file_is_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"weight": Trap()}, tmp_path / "w.pth")
    with pytest.raises(ConcordError, match="not a PyTorch weight file"):
        load_parsenet(tmp_path / "w.pth")
    assert not (tmp_path / "sprung").exists()


def test_files_from_dataparallel_and_from_before_batch_counters_load(tmp_path: Path) -> None:
    network = randomised(Parsenet(width=4))
    state = {f"module.{k}": v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "model.pth")
    loaded = load_parsenet(tmp_path / "model.pth", width=4)
    x = torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(loaded.network(x), network(x))


def test_a_weight_of_another_shape_is_named(tmp_path: Path) -> None:
    path = saved(Parsenet(width=4, classes=18), tmp_path / "model.pth")
    with pytest.raises(ConcordError, match=r"'final\.weight' has shape \(18, 4, 1, 1\), expected \(19, 4, 1, 1\)"):
        load_parsenet(path, width=4)
