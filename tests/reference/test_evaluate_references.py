"""`concord.metrics.evaluate` from files to numbers beside the reference tools run on the same folders and the same
weights.

The weights are random, in the files that each tool reads; nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from concord import metrics
from concord.benchmarks.profiling import score_speed as tools
from concord.metrics.base import _METRICS, all_metrics
from concord.metrics.cache import Gaussian, read_statistics, write_statistics
from concord.metrics.distribution.fid import FID, ReferenceGaussian
from concord.metrics.distribution.moments import Moments
from concord.metrics.results import Evaluation

N, SIZE = 12, 64


@pytest.fixture(scope="module")
def few() -> Iterator[None]:
    """Twelve images suffice to compare two programs; what is refused below 20 and 50 is the numbers' meaning."""
    all_metrics()
    before = {name: metric.minimum_n for name, metric in _METRICS.items()}
    for metric in _METRICS.values():
        metric.minimum_n = min(metric.minimum_n, N)
    yield
    for name, metric in _METRICS.items():
        metric.minimum_n = before[name]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """made/, real/ and weights/."""
    folder = tmp_path_factory.mktemp("world")
    for seed, name in enumerate(("made", "real")):
        tools.write_images(folder / name, N, SIZE, seed)
    for path in sorted((folder / "real").iterdir())[::2]:  # every other one darker, so that the sets differ
        Image.fromarray(np.asarray(Image.open(path)) // 3).save(path)
    tools.write_inception(folder / "weights")
    tools.write_alexnet(folder / "weights")
    return folder


@pytest.fixture(scope="module")
def ours(world: Path, few: None) -> Evaluation:
    from concord.data.networks import Networks

    weights = world / "weights"
    paths = {
        "inception-fidelity": weights / tools.FIDELITY,
        "lpips-alexnet": weights / "hub" / "checkpoints" / tools.ALEXNET,
    }
    return metrics.evaluate(
        generated=world / "made",
        reference=world / "real",
        cache=world / "cache",
        batch_size=5,
        metrics="fid,sfid,fid-tf,kid-tf,precision-tf,recall-tf,inception-score-tf,lpips",
        networks=Networks("paper", paths=paths),
    )


def test_fid_is_that_of_clean_fids_features(world: Path, ours: Evaluation) -> None:
    """With 12 images its sqrtm takes a singular matrix of 2048 x 2048; the same trace is a nuclear norm of 12 x 12."""
    pytest.importorskip("cleanfid")
    x, y = (side.astype(np.float64) for side in tools.clean_fid_features(world / "weights", *_sides(world)))
    offset = x.mean(axis=0) - y.mean(axis=0)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    roots = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    expected = offset @ offset + (np.square(x).sum() + np.square(y).sum() - 2 * roots) / (N - 1)
    assert expected > 1
    assert ours["fid"].value == pytest.approx(expected, rel=1e-5)


def test_tensorflow_protocol_is_torch_fidelitys(world: Path, ours: Evaluation) -> None:
    """One split and one subset of all images, where its samples are everything and its order is nothing."""
    fidelity = pytest.importorskip("torch_fidelity")
    found = fidelity.calculate_metrics(
        input1=str(world / "made"),
        input2=str(world / "real"),
        cuda=False,
        isc=True,
        kid=True,
        prc=True,
        isc_splits=1,
        kid_subsets=1,
        kid_subset_size=N,
        verbose=False,
        cache=False,
        batch_size=6,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(world / "weights" / tools.FIDELITY),
    )
    assert found["kernel_inception_distance_mean"] > 1e-3
    assert ours["kid-tf"].value == pytest.approx(found["kernel_inception_distance_mean"], rel=1e-3)
    assert found["precision"] > found["recall"]  # exchanging the sides would be seen
    assert ours["inception-score-tf"].value == pytest.approx(found["inception_score_mean"], rel=1e-4)
    assert (ours["precision-tf"].value, ours["recall-tf"].value) == (found["precision"], found["recall"])


def test_lpips_is_the_packages(world: Path, ours: Evaluation) -> None:
    pytest.importorskip("lpips")
    theirs = tools.run_lpips(world / "weights", world / "made", world / "real")
    assert theirs["lpips-alex"] > 0.01
    assert ours["lpips"].value == pytest.approx(theirs["lpips-alex"], rel=1e-5)


def test_every_network_and_protocol_is_named(ours: Evaluation, world: Path) -> None:
    from concord.data.files import sha256_file

    digest = sha256_file(world / "weights" / tools.FIDELITY)
    assert set(ours.networks) == {"features", "lpips-alex"}
    assert {result.network for result in ours.results if result.features} == {digest}
    kinds = {result.metric: result.features for result in ours.results}
    assert (kinds["fid"], kinds["fid-tf"], kinds["sfid"]) == ("pool", "pool-tf", "spatial")
    assert len(list((world / "cache").iterdir())) == 3  # pool, spatial, pool-tf: the logits need no reference


# ------------------------------------------------------------------------------------------------------------- exchange


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.maximum(rng.normal(size=(300, 24)) @ rng.normal(size=(24, 24)), 0).astype(np.float32)


def test_clean_fid_reads_our_statistics(features: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = pytest.importorskip("cleanfid.features")
    write_statistics(tmp_path / "stats" / "mine_clean_custom_na.npz", Gaussian.of(features))
    np.savez(tmp_path / "stats" / "mine_clean_custom_na_kid.npz", feats=features)
    monkeypatch.setattr(reader.cleanfid, "__file__", str(tmp_path / "__init__.py"))
    mu, sigma = reader.get_reference_statistics("mine", "na", split="custom")
    assert mu == pytest.approx(features.astype(np.float64).mean(axis=0), rel=1e-12)
    assert sigma == pytest.approx(np.cov(features.astype(np.float64), rowvar=False), rel=1e-9, abs=1e-12)
    # and what it keeps for KID, we read
    kept = reader.get_reference_statistics("mine", "na", split="custom", metric="KID")
    ours = read_statistics(tmp_path / "stats" / "mine_clean_custom_na_kid.npz")
    assert ours.features is not None
    assert (ours.features == kept).all()


def test_we_read_what_clean_fid_writes(features: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fid = pytest.importorskip("cleanfid.fid")
    (tmp_path / "stats").mkdir()
    monkeypatch.setattr(fid.cleanfid, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(fid, "get_folder_features", lambda *_, **__: features)
    monkeypatch.setattr(fid, "build_feature_extractor", lambda *_, **__: None)
    fid.make_custom_stats("mine", "anywhere", verbose=False)
    (path,) = [p for p in (tmp_path / "stats").iterdir() if "kid" not in p.name]
    found = read_statistics(path).pool
    assert found is not None
    other = (features * 1.1 + 0.2)[:200]
    expected = fid.frechet_distance(*_mu_sigma(other), *_mu_sigma(features))
    assert found.distance(other) == pytest.approx(expected, rel=1e-6)


def test_adms_layout(features: np.ndarray, tmp_path: Path) -> None:
    """evaluator.py's read_statistics: mu, sigma, mu_s, sigma_s of one .npz, and images beside them in arr_0."""
    spatial = features[:, ::-1] * 2
    write_statistics(tmp_path / "x.npz", Gaussian.of(features), Gaussian.of(spatial))
    with np.load(tmp_path / "x.npz") as file:
        assert set(file.files) == {"mu", "sigma", "mu_s", "sigma_s"}
        assert file["sigma_s"] == pytest.approx(np.cov(spatial.astype(np.float64), rowvar=False), rel=1e-6, abs=1e-9)
        arrays: dict[str, Any] = dict(file)
    np.savez(tmp_path / "y.npz", arr_0=np.zeros((3, 4, 4, 3), np.uint8), **arrays)
    found = read_statistics(tmp_path / "y.npz")
    assert found.gaussian("spatial-tf") is found.spatial
    assert found.gaussian("pool-tf") is found.pool


def _sides(world: Path) -> tuple[Path, Path]:
    return world / "made", world / "real"


def _mu_sigma(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wide = features.astype(np.float64)
    return wide.mean(axis=0), np.cov(wide, rowvar=False)


@pytest.mark.parametrize("n", [10, 300])
@pytest.mark.parametrize("m", [9, 24, 25, 200])
def test_few_references_need_no_decomposition(features: np.ndarray, n: int, m: int) -> None:
    """Against the eigenvalues of the product of both covariances, at every side of m = D."""
    generated, reference = features[:n] * 1.2 + 0.1, features[-m:]
    (mu, first), (nu, second) = _mu_sigma(generated), _mu_sigma(reference)
    roots = np.sqrt(np.linalg.eigvals(first @ second).astype(complex)).real.sum()
    expected = float((mu - nu) @ (mu - nu) + np.trace(first) + np.trace(second) - 2 * roots)
    assert FID().compute(generated, reference) == pytest.approx(expected, rel=1e-5)
    target = ReferenceGaussian.of_features(reference)
    assert target.root @ target.root.T == pytest.approx(second, abs=1e-9)
    assert ReferenceGaussian.of(Moments.of(reference)).trace == pytest.approx(target.trace)
