"""`concord.metrics.evaluate`: against the metrics computed by hand, whatever the batches and sizes, and every bad
input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from given_networks import seen_by
from PIL import Image
from toy_world import ROOT, make_judges

from concord import metrics
from concord.data.datasets.images.image_sets import open_images
from concord.data.device import exact_float32
from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.metrics.base import Observation, SampleMetric, Score, all_metrics, get_metric
from concord.metrics.cache import Gaussian, ReferenceKey, read_statistics, write_statistics
from concord.metrics.distribution.fid import FID
from concord.metrics.distribution.kid import KID
from concord.metrics.evaluation import score_set, to_tensor


def pictures(seed: int, n: int, size: int = 16) -> np.ndarray:
    """uint8 (n, size, size, 3): smooth, so that features have some structure."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize((size, size), Image.Resampling.BICUBIC)) for c in coarse])


def judges() -> Any:
    """Toy judges that count their passes over images."""
    found = make_judges()
    found.seen = Counter()
    inner = found.features

    def features(images: torch.Tensor, kinds: tuple[str, ...] = ("pool",)) -> dict[str, torch.Tensor]:
        found.seen["features"] += len(images)
        return dict.fromkeys(kinds, inner(images)["pool"])

    found.features = features
    return found


class ToyDistance(SampleMetric):
    """A metric of pairs that imports nothing: mean absolute difference from the original."""

    name, label, unit = "toy-distance", "Toy", ""
    higher_is_better, bounds, needs_originals = False, (0.0, 1.0), True

    def score(self, observation: Observation) -> list[Score]:
        assert observation.originals is not None
        return [Score(v) for v in (observation.images - observation.originals).abs().mean((1, 2, 3)).tolist()]


@pytest.fixture(autouse=True)
def toy_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    all_metrics()
    monkeypatch.setitem(metrics.base._METRICS, "toy-distance", ToyDistance)


def evaluate(**options: Any) -> metrics.evaluation.Evaluation:  # type: ignore[name-defined]
    options["networks"] = seen_by(options.pop("toy", None) or judges())
    options.setdefault("cache", False)
    return metrics.evaluate(**options)


def refusal(**options: Any) -> str:
    with pytest.raises(ConcordError) as error:
        evaluate(**options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def sides() -> tuple[np.ndarray, np.ndarray]:
    return pictures(0, 70), pictures(1, 60)


def features_of(images: np.ndarray) -> np.ndarray:
    return make_judges().features(to_tensor(images))["pool"].numpy()


# -------------------------------------------------------------------------------------------------------------- values


def test_set_metrics_are_those_of_the_features(sides: tuple[np.ndarray, np.ndarray]) -> None:
    found = evaluate(generated=sides[0], reference=sides[1], metrics="fid,kid", replicates=32)
    x, y = map(features_of, sides)
    assert found.values == pytest.approx({"fid": FID().compute(x, y), "kid": KID().compute(x, y)}, rel=1e-12)
    groups = np.arange(70) % 32
    assert found["fid"].replicates == pytest.approx(FID().leave_group_out(x, y, groups))
    assert (found["fid"].n, found["fid"].n_reference, found["fid"].network) == (70, 60, "2" * 64)
    assert list(found.values) == ["fid", "kid"]


def test_sample_metrics_are_those_of_each_image(sides: tuple[np.ndarray, np.ndarray]) -> None:
    generated, originals = sides[0][:9], sides[1][:9]
    masks = np.random.default_rng(0).integers(0, 19, (9, 16, 16))
    conditions = [Conditions(text=f"caption {k}", mask=mask) for k, mask in enumerate(masks)]
    names = ["text-similarity", "mask-accuracy", "toy-distance"]
    found = evaluate(generated=generated, reference=originals, conditions=conditions, metrics=names, batch_size=4)
    whole = Observation(to_tensor(generated), conditions, seen_by(make_judges()), to_tensor(originals))
    for name in names:
        expected = [score.value for score in get_metric(name).score(whole)]  # type: ignore[attr-defined]
        assert found.samples[name][0] == pytest.approx(expected, abs=1e-4)
        assert found[name].value == pytest.approx(np.mean(expected), abs=1e-4)
    frame = found.frame()
    assert len(frame) == 27
    assert set(frame["status"]) == {"ok"}
    assert frame[frame["metric"] == "toy-distance"]["image"].tolist() == [f"{k:06d}" for k in range(9)]


def test_captions_may_be_plain_text(sides: tuple[np.ndarray, np.ndarray]) -> None:
    plain = evaluate(generated=sides[0][:4], conditions=list("abcd"), metrics="text-similarity")
    full = evaluate(generated=sides[0][:4], conditions=[Conditions(text=c) for c in "abcd"], metrics="text-similarity")
    assert (plain.frame() == full.frame()).all(axis=None)


def test_a_set_metric_without_reference_needs_none(sides: tuple[np.ndarray, np.ndarray]) -> None:
    conditions = [Conditions(mask=mask) for mask in np.random.default_rng(0).integers(0, 19, (5, 16, 16))]
    found = evaluate(generated=sides[0][:5], conditions=conditions, metrics="mask-class-iou")
    assert 0 < found["mask-class-iou"].value < 1
    assert (found["mask-class-iou"].n_reference, found["mask-class-iou"].network) == (None, None)


def test_failures_count_at_their_worst_and_are_told(
    sides: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = judges()
    inner = toy.embed_images
    toy.embed_images = lambda images: inner(images).index_fill(0, torch.tensor([1]), float("nan"))
    found = evaluate(generated=sides[0][:4], conditions=list("abcd"), metrics="text-similarity", toy=toy)
    assert found["text-similarity"].failed == 1
    values, reasons = found.samples["text-similarity"]
    assert (values[1], reasons) == (-100.0, {1: "embedding not finite"})
    assert found["text-similarity"].value == pytest.approx(values.mean())
    assert found.frame()["status"].tolist() == ["ok", "embedding not finite", "ok", "ok"]


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_batches_change_nothing(sides: tuple[np.ndarray, np.ndarray], batch: int) -> None:
    found = evaluate(generated=sides[0], reference=sides[1], metrics="fid,kid", batch_size=batch)
    assert found.values == pytest.approx(evaluate(generated=sides[0], reference=sides[1], metrics="fid,kid").values)


def test_order_and_shards_change_no_set_metric(sides: tuple[np.ndarray, np.ndarray]) -> None:
    shuffled = sides[0][np.random.default_rng(0).permutation(70)]
    first = evaluate(generated=sides[0], reference=sides[1], metrics="fid,kid")
    second = evaluate(generated=shuffled, reference=sides[1][::-1], metrics="fid,kid")
    assert first.values == pytest.approx(second.values, rel=1e-9)


def test_mixed_sizes_keep_each_images_place(sides: tuple[np.ndarray, np.ndarray]) -> None:
    """Batches are by size; rows and features go back to their images."""
    items = [picture if k % 3 else pictures(k, 1, 24)[0] for k, picture in enumerate(sides[0])]
    found = evaluate(
        generated=items,
        reference=items,
        conditions=[f"c{k}" for k in range(70)],
        metrics="text-similarity,toy-distance,fid",
        batch_size=8,
    )
    alone = [
        evaluate(generated=items[k : k + 1], conditions=[f"c{k}"], metrics="text-similarity").values["text-similarity"]
        for k in range(0, 70, 7)
    ]
    assert found.samples["text-similarity"][0][::7] == pytest.approx(alone, abs=1e-4)
    assert found["fid"].value == pytest.approx(0, abs=1e-8)
    assert (found.samples["toy-distance"][0] == 0).all()  # each is its own partner


def test_originals_are_looked_at_once(sides: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """As partners and as a set: one pass serves both, and what is cached is in the reference's order."""
    for k, picture in enumerate(sides[1]):
        Image.fromarray(picture).save(tmp_path / f"{k}.png")
        Image.fromarray(sides[0][k]).save((tmp_path / f"{k}.png").with_suffix(".webp"), lossless=True)
    for name, suffix in (("real", ".png"), ("made", ".webp")):
        (tmp_path / name).mkdir()
        for path in tmp_path.glob(f"*{suffix}"):
            path.rename(tmp_path / name / path.name)
    toy = judges()
    found = evaluate(
        generated=tmp_path / "made",
        reference=tmp_path / "real",
        metrics="fid,toy-distance",
        toy=toy,
        cache=tmp_path / "cache",
    )
    assert toy.seen["features"] == 120
    assert found["fid"].value == pytest.approx(FID().compute(*map(features_of, (sides[0][:60], sides[1]))), rel=1e-9)
    (kept,) = (tmp_path / "cache").glob("*.npz")
    with np.load(kept) as file:
        assert file["features"] == pytest.approx(features_of(sides[1]), abs=1e-6)


# --------------------------------------------------------------------------------------------------------------- cache


def test_reference_features_are_kept_under_what_they_follow_from(
    sides: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    def passes(reference: np.ndarray, **change: Any) -> int:
        toy = judges()
        toy.cards["features"]["sha256"] = change.get("features", toy.cards["features"]["sha256"])
        result = evaluate(generated=sides[0], reference=reference, metrics="fid", toy=toy, cache=tmp_path)
        assert result["fid"].value == pytest.approx(FID().compute(features_of(sides[0]), features_of(reference)))
        return toy.seen["features"] - 70

    other = sides[1].copy()
    other[3, 0, 0, 0] ^= 1
    assert passes(sides[1]) == 60
    assert passes(sides[1]) == 0
    assert passes(other) == 60  # one pixel
    assert passes(sides[1][::-1]) == 60  # another order
    assert passes(sides[1], features="9" * 64) == 60  # other weights
    assert passes(sides[1]) == 0
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    assert passes(sides[1]) == 60  # broken files count as none
    assert passes(sides[1]) == 0


def test_every_part_of_the_key_counts() -> None:
    keys = [
        ReferenceKey("a", 1, "pool", "w"),
        ReferenceKey("b", 1, "pool", "w"),
        ReferenceKey("a", 2, "pool", "w"),
        ReferenceKey("a", 1, "pool-legacy", "w"),
        ReferenceKey("a", 1, "pool", "v"),
        ReferenceKey("a", 1, "pool", "w", "float64"),
    ]
    assert len({key.digest for key in keys}) == 6


def test_statistics_stand_for_the_images(sides: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    x, y = map(features_of, sides)
    path = tmp_path / "reference.npz"
    write_statistics(path, Gaussian.of(y))
    found = evaluate(generated=sides[0], reference=path, metrics="fid", replicates=7)
    assert found["fid"].value == pytest.approx(FID().compute(x, y), rel=1e-9)
    assert found["fid"].replicates == pytest.approx(FID().leave_group_out(x, y, np.arange(70) % 7), rel=1e-7)
    assert found["fid"].n_reference is None
    few = evaluate(generated=sides[0], reference=path, metrics="fid")
    assert few.reference == {"label": str(path), "n": None, "fingerprint": None}
    assert "holds no features of kind 'pool'; give the reference images" in refusal(
        generated=sides[0], reference=path, metrics="kid"
    )
    np.savez(path, feats=y)  # as clean-fid keeps them for KID
    found = evaluate(generated=sides[0], reference=path, metrics="kid,fid")
    assert found.values == pytest.approx({"kid": KID().compute(x, y), "fid": FID().compute(x, y)}, rel=1e-9)


def test_statistics_in_single_precision_of_fewer_images_than_dimensions(
    sides: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """30 images span 29 of 48 dimensions; in float32 the others' variances come out as noise, some of it below zero."""
    x, y = features_of(sides[0]), features_of(sides[1][:30])
    centred = (y - y.mean(axis=0)).astype(np.float32)
    sigma = centred.T @ centred / np.float32(len(y) - 1)
    assert np.linalg.eigvalsh(sigma.astype(np.float64))[0] < 0
    path = tmp_path / "single.npz"
    np.savez(path, mu=y.mean(axis=0, dtype=np.float32), sigma=sigma)
    found = evaluate(generated=sides[0], reference=path, metrics="fid")
    assert found["fid"].value == pytest.approx(FID().compute(x, y), rel=1e-3)
    np.savez(path, mu=y.mean(axis=0), sigma=sigma - np.eye(48) * float(np.trace(sigma)) / 48)
    assert "compute the statistics again, in float64" in refusal(generated=sides[0], reference=path, metrics="fid")


def test_scores_stand_where_the_cache_cannot_be_written(sides: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = evaluate(generated=sides[0], reference=sides[1], metrics="fid", cache=tmp_path / "file" / "cache")
    assert found["fid"].value == pytest.approx(FID().compute(*map(features_of, sides)), rel=1e-12)
    (note,) = found.notes
    assert "features are not kept for the next time" in note
    assert str(tmp_path / "file") in note


def test_replicates_leave_out_every_32nd_image(sides: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = map(features_of, sides)
    _, replicates = score_set(KID(), x, y)
    assert len(replicates) == 32
    assert replicates[1] == pytest.approx(KID().compute(x[np.arange(70) % 32 != 1], y))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, "sigma of shape (4, 4); expected (D,) and (D, D)"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "mu or sigma holds NaN"),
        ({"mu": np.zeros(3), "sigma": np.triu(np.ones((3, 3)))}, "sigma is not symmetric"),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "statistics of 3 dimensions beside features of 48"),
        ({"feats": np.zeros(3)}, "feats of shape (3,); expected finite features (N, D)"),
    ],
)
def test_bad_statistics(sides: tuple[np.ndarray, np.ndarray], tmp_path: Path, arrays: Any, message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    assert message in refusal(generated=sides[0], reference=tmp_path / "x.npz", metrics="fid")


def test_unreadable_statistics(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"no zip")
    with pytest.raises(ConcordError, match=r"x\.npz: not a readable \.npz"):
        read_statistics(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", other=np.zeros(3))
    with pytest.raises(ConcordError, match=r"y\.npz: holds other; expected mu and sigma"):
        read_statistics(tmp_path / "y.npz")


# ----------------------------------------------------------------------------------------------------------- bad input


def test_sides_are_named() -> None:
    with pytest.raises(TypeError):
        metrics.evaluate(np.zeros((2, 4, 4, 3)), "fid")  # type: ignore[misc]


def test_too_few_images_are_named_with_the_number_needed(sides: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    line = "metric 'fid': 49 generated images in generated, at least 50 are needed"
    assert refusal(generated=sides[0][:49], reference=sides[1], metrics="fid").startswith(line)
    assert "'fid': 10 reference images in reference, at least 50" in refusal(
        generated=sides[0], reference=sides[1][:10], metrics="fid"
    )
    Image.fromarray(sides[0][0]).save(tmp_path / "one.png")
    assert f"'kid': 1 generated images in {tmp_path}, at least 20 are needed" in refusal(
        generated=tmp_path, reference=sides[1], metrics="kid"
    )
    one = evaluate(generated=tmp_path, conditions=["a"], metrics="text-similarity")
    assert one["text-similarity"].n == 1


def test_nothing_is_looked_at_before_the_checks(sides: tuple[np.ndarray, np.ndarray]) -> None:
    toy = judges()
    assert "49 generated" in refusal(generated=sides[0][:49], reference=sides[1], metrics="kid,fid", toy=toy)
    assert toy.seen == Counter()


def test_empty_folder_and_unknown_metric(tmp_path: Path) -> None:
    assert refusal(generated=tmp_path, metrics="toy-distance").startswith(f"{tmp_path}: holds no images")
    message = refusal(generated=np.zeros((2, 4, 4, 3)), metrics=["fid", "fdi"])
    assert message.startswith("unknown metric 'fdi': expected one of ")
    assert "kid" in message
    assert refusal(generated=np.zeros((2, 4, 4, 3)), metrics=" , ").startswith("metrics: none named")


def test_what_is_missing_is_said(sides: tuple[np.ndarray, np.ndarray]) -> None:
    assert "'fid' compares with a set of images: give a reference" in refusal(generated=sides[0], metrics="fid")
    assert "'toy-distance' compares each image with its original: give the originals" in refusal(
        generated=sides[0], metrics="toy-distance"
    )
    assert "'mask-accuracy' scores against condition mask: give conditions" in refusal(
        generated=sides[0], metrics="mask-accuracy"
    )
    assert "condition 'mask', which image 0 of the batch does not have" in refusal(
        generated=sides[0][:1], conditions=["a"], metrics="mask-accuracy"
    )


def test_conditions_of_another_length(sides: tuple[np.ndarray, np.ndarray]) -> None:
    assert refusal(generated=sides[0], conditions=["a"] * 69, metrics="text-similarity") == (
        "conditions: 69 for the 70 images of generated; expected one for each image, in its order"
    )


def test_pairs_of_unequal_number_and_size(sides: tuple[np.ndarray, np.ndarray]) -> None:
    assert "generated holds 70 images and reference 60: metrics of pairs need one partner for each" in refusal(
        generated=sides[0], reference=sides[1], metrics="toy-distance"
    )
    assert "'000000' is 16x16 pixels, its original '000000' 24x24; give both at one size" in refusal(
        generated=sides[0], reference=pictures(0, 70, 24), metrics="toy-distance"
    )


def test_bad_pictures_are_named(sides: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    floats = sides[0] / 255.0
    floats[5, 0, 0] = np.nan
    assert refusal(generated=floats, reference=sides[1], metrics="kid").startswith("generated[5]: 1 pixels are NaN")
    for k in range(25):
        Image.fromarray(sides[0][k]).save(tmp_path / f"{k}.png")
    (tmp_path / "12.png").write_bytes(b"")
    assert refusal(generated=tmp_path, reference=sides[1], metrics="kid").startswith(f"{tmp_path / '12.png'}: is empty")
    Image.fromarray(sides[0][0]).save(tmp_path / "12.png", format="GIF")
    assert "12.png: is a GIF" in refusal(generated=sides[0], reference=tmp_path, metrics="kid")


def test_options_out_of_range(sides: tuple[np.ndarray, np.ndarray]) -> None:
    assert "batch size 0" in refusal(generated=sides[0], reference=sides[1], metrics="kid", batch_size=0)
    assert "replicates 1" in refusal(generated=sides[0], reference=sides[1], metrics="kid", replicates=1)
    with pytest.raises(ConcordError, match="profile 'other'"):
        metrics.evaluate(generated=sides[0], reference=sides[1], metrics="kid", profile="other", cache=False)


def test_a_lost_weight_file_is_its_one_line(
    sides: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before any image is decoded."""
    monkeypatch.setenv("CONCORD_CACHE", str(tmp_path))
    with pytest.raises(ConcordError, match=r"'judge/features'.*not fetched yet.*concord weights fetch inception-fid"):
        metrics.evaluate(generated=sides[0], reference=sides[1], metrics="kid", profile="paper", device="cpu")


# --------------------------------------------------------------------------------------------------------------- rest


def test_facts_are_json_with_hashes_and_seconds(sides: tuple[np.ndarray, np.ndarray]) -> None:
    found = evaluate(generated=sides[0], reference=sides[1], metrics="kid")
    facts = json.loads(json.dumps(found.facts()))
    assert facts["networks"]["features"] == "2" * 64
    assert facts["generated"] == {"label": "generated", "n": 70, "fingerprint": open_images(sides[0]).fingerprint}
    assert facts["metrics"][0]["features"] == "pool"
    assert set(facts["seconds"]) >= {"decode", "observe", "reference", "sets"}
    assert (facts["dtype"], facts["device"]) == ("float32", "cpu")
    with pytest.raises(KeyError, match="'fid' was not asked for; there are kid"):
        found["fid"]


def test_progress_counts_images(sides: tuple[np.ndarray, np.ndarray]) -> None:
    import contextlib

    told: dict[str, list[tuple[int, int]]] = {}

    @contextlib.contextmanager
    def bars(what: str) -> Any:
        yield lambda done, total: told.setdefault(what, []).append((done, total))

    evaluate(generated=sides[0], reference=sides[1], metrics="kid", bars=bars)
    assert told == {"score": [(32, 70), (64, 70), (70, 70)], "reference": [(32, 60), (60, 60)]}


def test_tf32_is_off_while_scoring_and_back_afterwards() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with exact_float32():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert before == (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)


def test_embedded_judges_score_arrays() -> None:
    """The committed networks, end to end."""
    found = metrics.evaluate(
        generated=pictures(0, 20, 64),
        reference=pictures(1, 20, 64),
        metrics="kid",
        profile="embedded",
        device="cpu",
        cache=False,
    )
    assert np.isfinite(found["kid"].value)
    assert len(found.networks["features"]) == 64


def test_importing_metrics_imports_no_torch() -> None:
    code = "import sys, concord.metrics.api, concord.data.datasets.images.image_sets; print('torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "False"
