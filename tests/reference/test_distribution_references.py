"""IS, precision and recall, CMMD, FD-DINOv2 and the resizes against the libraries that the field uses.

Where a library is not installed, its definition is written out here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from concord.data.errors import ConcordError
from concord.metrics.distribution.cmmd import CMMD
from concord.metrics.distribution.fid import FID, frechet_distance
from concord.metrics.distribution.inception_score import InceptionScore, split_scores
from concord.metrics.distribution.moments import Moments
from concord.metrics.distribution.precision_recall import Precision, PrecisionPRDC, Recall, RecallPRDC
from concord.metrics.image import resize

N, M, D = 400, 300, 32
rng = np.random.default_rng


@pytest.fixture(scope="module")
def features() -> tuple[np.ndarray, np.ndarray]:
    """Generated (N, D) and reference (M, D), float32: not negative, correlated, skewed, as pooled activations are."""
    mix = rng(0).normal(size=(D, D)) / np.sqrt(np.arange(1, D + 1))
    return tuple(  # type: ignore[return-value]
        np.maximum(rng(seed).normal(shift, 1, (n, D)) @ mix, 0).astype(np.float32)
        for seed, n, shift in ((1, N, 0.3), (2, M, 0.0))
    )


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return (3 * rng(0).normal(size=(N, 100))).astype(np.float32)


# ---------------------------------------------------------------------------------------------------- IS


@pytest.mark.parametrize("splits", [1, 10, 7])
def test_inception_score_is_torch_fidelitys(logits: np.ndarray, splits: int) -> None:
    fidelity = pytest.importorskip("torch_fidelity.metric_isc")
    plain = fidelity.isc_features_to_metric(torch.from_numpy(logits), splits=splits, shuffle=False)
    ours = split_scores(logits, splits)
    assert ours.mean() == pytest.approx(plain["inception_score_mean"], rel=1e-10)
    assert ours.std() == pytest.approx(plain["inception_score_std"], rel=1e-7, abs=1e-10)
    shuffled = fidelity.isc_features_to_metric(torch.from_numpy(logits), splits=splits, shuffle=True, rng_seed=2020)
    order = np.random.RandomState(2020).permutation(N)
    assert split_scores(logits[order], splits).mean() == pytest.approx(shuffled["inception_score_mean"], rel=1e-10)


def test_inception_score_of_one_split_is_torchmetrics(logits: np.ndarray) -> None:
    reference = pytest.importorskip("torchmetrics.image.inception")

    class Logits(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows

    score = reference.InceptionScore(feature=Logits(), splits=1)
    score.update(torch.from_numpy(logits))
    assert InceptionScore().compute(logits, logits[:0]) == pytest.approx(float(score.compute()[0]), rel=1e-5)


# ---------------------------------------------------------------------------------------------------- P/R


@pytest.mark.parametrize("parts", [False, True])
def test_precision_and_recall_are_torch_fidelitys(features: tuple[np.ndarray, np.ndarray], parts: bool) -> None:
    fidelity = pytest.importorskip("torch_fidelity.metric_prc")
    sides = [torch.from_numpy(side).double() for side in features]
    theirs = fidelity.prc_features_to_metric(
        *sides, prc_neighborhood=3, prc_batch_size=64, save_cpu_ram=parts, verbose=False
    )
    assert 0.05 < theirs["precision"] < 0.95
    assert 0.05 < theirs["recall"] < 0.95
    assert Precision().compute(*features) == pytest.approx(theirs["precision"], abs=1e-6)
    assert Recall().compute(*features) == pytest.approx(theirs["recall"], abs=1e-6)
    assert theirs["precision"] != pytest.approx(theirs["recall"], abs=0.02)  # swapping them would be seen


@pytest.mark.parametrize("whole", [False, True])
def test_prdc_precision_and_recall_are_its_definition(features: tuple[np.ndarray, np.ndarray], whole: bool) -> None:
    """prdc's definition by full distance matrices: k + 1 smallest with itself among them, a strict '<'.

    `whole`: small whole numbers, so that many distances are exactly equal, where '<' and '<=' part.
    """
    scipy_distance = pytest.importorskip("scipy.spatial.distance")
    if whole:
        fake, real = (rng(s).integers(0, 6, (n, 6)).astype(np.float32) for s, n in ((3, 60), (4, 50)))
        fake += np.float32(2)
    else:
        fake, real = features

    def radii(x: np.ndarray) -> np.ndarray:
        return np.sort(scipy_distance.cdist(x, x, "sqeuclidean"), axis=1)[:, 5]

    between = scipy_distance.cdist(real.astype(np.float64), fake.astype(np.float64), "sqeuclidean")
    precision = (between < radii(real.astype(np.float64))[:, None]).any(axis=0).mean()
    recall = (between < radii(fake.astype(np.float64))[None]).any(axis=1).mean()
    assert PrecisionPRDC().compute(fake, real) == pytest.approx(precision, abs=1e-12)
    assert RecallPRDC().compute(fake, real) == pytest.approx(recall, abs=1e-12)
    if whole:
        closed = (between <= radii(real.astype(np.float64))[:, None]).any(axis=0).mean()
        assert closed > precision  # here the definitions differ


# ---------------------------------------------------------------------------------------------------- CMMD


def test_cmmd_is_the_authors_formula() -> None:
    """k = exp(-gamma |x - y|^2), gamma = 1 / (2 x 10^2), means over all pairs, x 1000; as one matrix in float64."""
    x, y = (rng(s).normal(size=(n, 48)) + shift for s, n, shift in ((1, 150, 0.2), (2, 170, 0.0)))
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None]
        return float(np.exp(-(squares - 2 * a @ b.T) / 200).mean())

    expected = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    assert expected > 0.1
    assert CMMD().compute(x, y) == pytest.approx(expected, rel=1e-8)


# ---------------------------------------------------------------------------------------------------- statistics


def test_fid_from_stored_statistics(features: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """A mu and sigma as clean-fid, pytorch-fid and ADM's evaluator store them."""
    clean = pytest.importorskip("cleanfid.fid")
    stored = [(x.astype(np.float64).mean(0), np.cov(x.astype(np.float64), rowvar=False)) for x in features]
    np.savez(tmp_path / "reference.npz", mu=stored[1][0], sigma=stored[1][1])
    with np.load(tmp_path / "reference.npz") as file:
        reference = Moments.of_statistics(file["mu"], file["sigma"])
    expected = clean.frechet_distance(*stored[0], *stored[1])
    assert frechet_distance(Moments.of(features[0]), reference) == pytest.approx(expected, rel=1e-9)
    assert FID().compute(*features) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match=r"expected \(D,\), \(D, D\)"):
        Moments.of_statistics(stored[0][0], stored[0][0])


# ---------------------------------------------------------------------------------------------------- resizes

SIZES = [(64, 64), (256, 256), (512, 512), (299, 299), (200, 331), (300, 40)]


def picture(height: int, width: int) -> np.ndarray:
    """uint8 (H, W, 3) with hard edges, the worst case of a resize: bicubic overshoots there and is cut."""
    coarse = rng(height).choice(np.array([0, 90, 255], np.uint8), (height // 4 + 1, width // 4 + 1, 3))
    return np.ascontiguousarray(np.kron(coarse, np.ones((4, 4, 1), np.uint8))[:height, :width])


def batch(image: np.ndarray) -> torch.Tensor:
    return resize.levels(torch.from_numpy(image).permute(2, 0, 1)[None])


@pytest.mark.parametrize("size", SIZES)
def test_clean_resize_is_clean_fids(size: tuple[int, int]) -> None:
    image = picture(*size)
    expected = pytest.importorskip("cleanfid.resize").build_resizer("clean")(image)
    ours = resize.clean(batch(image))[0].permute(1, 2, 0).numpy()
    assert ours.shape == (299, 299, 3)
    assert expected.min() == 0
    assert expected.max() == 255
    assert np.abs(ours - expected).max() < 0.001  # of 255 levels; 0.01 is asked for


@pytest.mark.parametrize("size", SIZES)
def test_tensorflow_resize_is_torch_fidelitys_bit_for_bit(size: tuple[int, int]) -> None:
    reference = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    levels = batch(picture(*size))
    expected = reference.interpolate_bilinear_2d_like_tensorflow1x(levels, size=(299, 299), align_corners=False)
    assert torch.equal(resize.tensorflow(levels), expected)


def test_legacy_resize_is_clean_fids_port_of_pytorch_fid() -> None:
    image = picture(200, 331)
    expected = pytest.importorskip("cleanfid.resize").build_resizer("legacy_pytorch")(image)
    ours = resize.legacy(batch(image))[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - expected).max() < 1e-3


def test_the_resizes_are_not_each_others() -> None:
    levels = batch(picture(256, 256))
    ways = [resize.clean(levels), resize.tensorflow(levels), resize.legacy(levels)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (ways[i] - ways[j]).abs().max() > 1


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (200, 331)])
def test_pillow_resize_is_torchvisions_on_pillow_images(size: tuple[int, int]) -> None:
    """What dgm-eval calls: Resize((224, 224), bicubic) of a Pillow image."""
    functional = pytest.importorskip("torchvision.transforms.functional")
    image = picture(*size)
    wanted = functional.resize(Image.fromarray(image), [224, 224], functional.InterpolationMode.BICUBIC)
    ours = resize.pillow(batch(image), 224)[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(ours, np.asarray(wanted))


def test_levels_of_floats_are_those_of_their_png() -> None:
    whole = torch.arange(256, dtype=torch.uint8).repeat(3, 1)[None, :, None]
    assert torch.equal(resize.levels(whole.float() / 255), resize.levels(whole))
    assert resize.levels(torch.full((1, 3, 1, 1), 0.5019)).unique().tolist() == [128]
    assert torch.isnan(resize.levels(torch.full((1, 3, 1, 1), float("nan")))).all()
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        resize.levels(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="expected uint8"):
        resize.levels(torch.zeros(1, 3, 4, 4, dtype=torch.int64))


# ---------------------------------------------------------------------------------------------------- DINOv2


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DINOv2 with random weights, in the library's own form on disk."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=518)
    network = transformers.Dinov2Model(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    folder = tmp_path_factory.mktemp("dinov2")
    network.save_pretrained(folder)
    return folder


def vision_transformer(state: dict[str, torch.Tensor], pixels: torch.Tensor, heads: int) -> torch.Tensor:
    """DINOv2's class token from the paper and the authors' names for its parts, layer by layer in float64."""
    w = {k: v.double() for k, v in state.items()}
    width = w["embeddings.cls_token"].shape[-1]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    patch = "embeddings.patch_embeddings.projection"
    x = torch.nn.functional.conv2d(pixels.double(), w[f"{patch}.weight"], w[f"{patch}.bias"], stride=14)
    grid = w["embeddings.position_embeddings"][:, 1:].reshape(1, 37, 37, width).permute(0, 3, 1, 2)
    places = torch.nn.functional.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")
    x = (x + places).flatten(2).transpose(1, 2)
    token = (w["embeddings.cls_token"] + w["embeddings.position_embeddings"][:, :1]).expand(len(x), 1, width)
    x = torch.cat([token, x], dim=1)  # (B, 257, width)
    for k in range(2):
        layer = f"encoder.layer.{k}"
        y = norm(x, f"{layer}.norm1")
        q, key, v = (
            linear(y, f"{layer}.attention.attention.{part}").unflatten(2, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        weights = (q @ key.transpose(2, 3) / (width // heads) ** 0.5).softmax(dim=-1)
        y = linear((weights @ v).transpose(1, 2).flatten(2), f"{layer}.attention.output.dense")
        x = x + w[f"{layer}.layer_scale1.lambda1"] * y
        y = torch.nn.functional.gelu(linear(norm(x, f"{layer}.norm2"), f"{layer}.mlp.fc1"))
        x = x + w[f"{layer}.layer_scale2.lambda1"] * linear(y, f"{layer}.mlp.fc2")
    return norm(x, "layernorm")[:, 0]


def test_dinov2_features_are_the_papers(dinov2: Path) -> None:
    from safetensors.torch import load_file

    from concord.metrics.networks.pretrained.dinov2 import MEAN, STD, load_dinov2

    image = picture(100, 140)
    features = load_dinov2(dinov2)
    found = features(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)["dinov2"]
    small = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)) / 255
    pixels = torch.from_numpy((small - MEAN) / STD).permute(2, 0, 1)[None]
    expected = vision_transformer(load_file(dinov2 / "model.safetensors"), pixels, heads=4)
    assert found.shape == (1, 32)
    assert len(features.sha256) == 64
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_broken_dinov2_folders_are_named(dinov2: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from concord.metrics.networks.pretrained.dinov2 import load_dinov2

    with pytest.raises(ConcordError, match=r"no such weight file.*concord weights fetch dinov2-vit-l-14"):
        load_dinov2(tmp_path / "absent")
    with pytest.raises(ConcordError, match=r"holds no model\.safetensors; expected a model folder"):
        load_dinov2(tmp_path)
    (tmp_path / "config.json").write_bytes((dinov2 / "config.json").read_bytes())
    state = load_file(dinov2 / "model.safetensors")
    state["encoder.layer.0.mlp.fc1.bias"] = state["encoder.layer.0.mlp.fc1.bias"][:3].clone()
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConcordError, match=r"it lacks '.*mlp\.fc1\.bias' \(1 names are missing or of another shape"):
        load_dinov2(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConcordError, match=r"no weights of Dinov2Model") as caught:
        load_dinov2(tmp_path)
    assert "\n" not in str(caught.value)
