"""Methods outside Concord: the exchange folder says exactly what is asked, and nothing but the whole answer gets in."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import outside
import pytest
import toy_world
from PIL import Image

from concord.benchmarks.external import exchange
from concord.benchmarks.external.method import check_free
from concord.benchmarks.external.transfer import export_suite, import_folder
from concord.benchmarks.plan.runs import Plan
from concord.benchmarks.run.generate import is_current
from concord.benchmarks.store.run import Run
from concord.benchmarks.suite import read_suite, related_suites
from concord.data.datasets.layouts.layout import Layout
from concord.data.errors import ConcordError
from concord.data.request import Conditions, Request

N = 6


def stored(root: Path) -> list[str]:
    """Everything below the results, folders too."""
    return [str(path.relative_to(root)) for path in sorted((root / "results").rglob("*"))]


# ----------------------------------------------------------------------------------------------------------- the format


def everything() -> Conditions:
    """One of each condition, the second identity form left out."""
    rng = np.random.default_rng(5)

    boxes = rng.uniform(0, 0.4, (2, 4)) + np.array([0, 0, 0.5, 0.5])

    def picture() -> np.ndarray:
        return rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)

    return Conditions(
        text='Une dame âgée <b>sourit</b>,\r\n"so" 微笑 \u2028 end',
        mask=rng.integers(0, 19, (16, 16)),
        identity=picture(),
        landmarks=rng.uniform(0, 16, (68, 2)).astype(np.float32),
        style=picture(),
        layout=Layout.of("a photo of two", boxes, ["a red bird", "an orange"]),
        masked_image=(picture(), rng.random((16, 16)) < 0.5),
        source_image=picture(),
    )


def read_back(folder: Path, told: dict[str, Any]) -> dict[str, Any]:
    """The conditions of a line of requests.jsonl as a stranger would read them."""

    def pixels(file: str) -> np.ndarray:
        return np.asarray(Image.open(folder / file))

    values: dict[str, Any] = {}
    for name, entry in told.items():
        path = folder / entry["file"]
        if path.suffix == ".txt":
            values[name] = path.read_bytes().decode()
        elif path.suffix == ".json":
            values[name] = json.loads(path.read_text(encoding="utf-8"))
        else:
            values[name] = np.load(path) if path.suffix == ".npy" else pixels(entry["file"])
        if "value" in entry:
            assert entry["value"] == values[name]
        if "known" in entry:
            values["known"] = pixels(entry["known"])
    return values


def test_every_condition_is_read_back_as_it_was_asked(tmp_path: Path) -> None:
    given = everything()
    vector = np.random.default_rng(6).normal(size=8).astype(np.float32)
    requests = [Request("a-0", 2**63 - 1, given), Request("b ü-1", 0, given.replace(identity=vector))]
    exchange.write_requests(tmp_path, requests, given.names())
    lines = outside.requests_in(tmp_path / "requests.jsonl")
    assert [(line["id"], line["seed"], line["image"]) for line in lines] == [
        ("a-0", 2**63 - 1, "a-0.png"),
        ("b ü-1", 0, "b ü-1.png"),
    ]
    found = read_back(tmp_path, lines[0]["conditions"])
    assert given.masked_image is not None
    assert given.layout is not None
    assert found["text"] == given.text
    for name in ("mask", "identity", "style", "source_image"):
        np.testing.assert_array_equal(found[name], getattr(given, name))
    assert Image.open(tmp_path / "mask/a-0.png").mode == "L"
    np.testing.assert_array_equal(np.float32(found["landmarks"]), given.landmarks)
    np.testing.assert_array_equal(found["masked_image"], given.masked_image[0])
    np.testing.assert_array_equal(found["known"] > 0, given.masked_image[1])
    assert found["layout"]["labels"] == ["a red bird", "an orange"]
    assert found["layout"]["colours"] == ["red", None]
    np.testing.assert_array_equal(found["layout"]["boxes"], given.layout.boxes)
    np.testing.assert_array_equal(read_back(tmp_path, lines[1]["conditions"])["identity"], vector)


def test_fingerprint_follows_the_content() -> None:
    given, names = everything(), everything().names()
    known = exchange.fingerprint_of([Request("a", 1, given)], names, 16)
    assert known == exchange.fingerprint_of([Request("a", 1, everything())], names, 16)
    mask = given.mask.copy() if given.mask is not None else np.zeros((1, 1), np.int64)
    mask[3, 3] = (mask[3, 3] + 1) % 19
    assert given.masked_image is not None
    for changed in (
        Request("b", 1, given),
        Request("a", 2, given),
        Request("a", 1, given.replace(text="another")),
        Request("a", 1, given.replace(mask=mask)),
        Request("a", 1, given.replace(masked_image=(given.masked_image[0], ~given.masked_image[1]))),
        Request("a", 1, given.replace(layout=Layout.of("a photo of one", [[0, 0, 1, 1]], ["a red bird"]))),
    ):
        assert exchange.fingerprint_of([changed], names, 16) != known
    assert exchange.fingerprint_of([Request("a", 1, given)], names, 32) != known
    assert exchange.fingerprint_of([Request("a", 1, given)], names[:2], 16) != known


def test_ids_that_are_no_file_names(tmp_path: Path) -> None:
    for bad in ("../../etc/passwd", ".hidden", "a/b", "a\\b", "nul\0", "line\nbreak", "", "ü" * 49):
        with pytest.raises(ConcordError, match="its id"):
            exchange.write_requests(tmp_path, [Request(bad, 1, Conditions(text="x"))], ["text"])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["text"]
    with pytest.raises(ConcordError, match=r"request a: has no condition 'mask'; leave it out"):
        exchange.write_requests(tmp_path, [Request("a", 1, Conditions(text="x"))], ["mask"])
    with pytest.raises(ConcordError, match=r"unknown condition 'aura': expected one of text, mask"):
        exchange.write_requests(tmp_path, [], ["aura"])


def test_export_says_how_to_answer(planned: Callable[..., Plan], suite: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exchange"
    plan = planned()
    export = export_suite(plan, folder, str(suite), ["text"])
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "export.json", "requests.jsonl", "text"]
    assert exchange.read_export(folder) == export
    assert (export.n, export.conditions, export.options.limit) == (N, ["text"], N)
    readme = (folder / "README.md").read_text()
    for words in (
        "64x64",
        "<id>.png",
        "8-bit RGB",
        "result.json",
        "seconds_per_image",
        "concord import",
        "text/<id>.txt",
    ):
        assert words in readme
    assert "mask/<id>" not in readme
    assert set(json.loads(readme.split("beside the images")[1].split("\n\n")[1])) <= set(exchange.Declared.model_fields)
    with pytest.raises(ConcordError, match="holds something already; give a new or an empty folder"):
        export_suite(plan, folder, str(suite))
    (tmp_path / "empty").mkdir()
    export_suite(plan, tmp_path / "empty", str(suite))
    with pytest.raises(ConcordError, match="--conditions beauty: suite 'toys' gives text, mask"):
        export_suite(plan, tmp_path / "another", str(suite), ["beauty"])


def test_export_of_a_broken_dataset_leaves_nothing(suite: Path, planned: Callable[..., Plan], tmp_path: Path) -> None:
    tree = toy_world.write_tree(tmp_path / "own", N)
    plan = planned(data=tree)
    part = next((tree / "CelebAMask-HQ-mask-anno/0").glob("00004_*"))
    part.write_bytes(part.read_bytes()[:40])
    with pytest.raises(ConcordError, match=part.name):
        export_suite(plan, tmp_path / "exchange", str(suite))
    assert not [path for path in tmp_path.iterdir() if "exchange" in path.name]


# ------------------------------------------------------------------------------------------------------------- taken in


def test_an_import_is_a_finished_run(planned: Callable[..., Plan], answered: Path) -> None:
    told = {"title": "My method", "paper": "arXiv:0000.00000", "citation": ""}
    run, new = import_folder(planned(), answered, "mine", about=told)
    assert new
    assert is_current(run)
    kept = Run(run.path)
    for (request, image), line in zip(kept.images(), outside.requests_in(answered / "requests.jsonl"), strict=True):
        assert request == line["id"]
        colour = outside.colour_of(line["seed"], line["conditions"]["text"]["value"])
        np.testing.assert_array_equal(image[:, 32:], np.broadcast_to(np.frombuffer(colour, np.uint8), (64, 32, 3)))
        assert not image[:, :32].any()
    manifest = kept.manifest
    assert (manifest["method"], manifest["n"], manifest["conditions"]) == ("mine", N, ["text", "mask"])
    assert manifest["seconds_per_image"] is None, "nobody knows"
    assert manifest["peak_memory_bytes"] is None
    external = manifest["external"]
    assert (external["kind"], external["title"], external["paper"]) == ("folder", "My method", "arXiv:0000.00000")
    assert external["origin"]["folder"] == str(answered)
    assert external["origin"]["export"] == exchange.read_export(answered).fingerprint
    assert external["costs"] == {"seconds_per_image": "not known", "peak_memory_bytes": "not known"}
    assert import_folder(planned(), answered, "mine", about=told)[1] is False


def test_declared_costs_are_kept_as_declared(planned: Callable[..., Plan], answered: Path) -> None:
    declared = {
        "seconds_per_image": 1.25,
        "peak_memory_bytes": 2**30,
        "evaluations_per_image": {"unet": 100},
        "device": "NVIDIA A100",
        "code": "example.org @ 1a2b",
        "weights": {"model.ckpt": "ab" * 32},
    }
    (answered / "result.json").write_text(json.dumps(declared))
    manifest = Run(import_folder(planned(), answered, "mine")[0].path).manifest
    assert (manifest["seconds_per_image"], manifest["peak_memory_bytes"]) == (1.25, 2**30)
    assert (manifest["evaluations_per_image"], manifest["device"]) == ({"unet": 100.0}, "NVIDIA A100")
    assert manifest["external"]["costs"] == {"seconds_per_image": "declared", "peak_memory_bytes": "declared"}
    assert manifest["external"]["origin"]["declared"] == declared
    (answered / "result.json").write_text(json.dumps({**declared, "seconds_per_image": 2}))
    run, new = import_folder(planned(), answered, "mine")
    assert new, "other costs are another answer"
    assert Run(run.path).manifest["seconds_per_image"] == 2


def test_images_elsewhere_and_other_files(planned: Callable[..., Plan], answered: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "outputs"
    elsewhere.mkdir()
    for path in answered.glob("*.png"):
        path.rename(elsewhere / path.name)
    (elsewhere / "log.txt").write_text("not mine to judge")
    (elsewhere / ".DS_Store").write_text("")
    (elsewhere / "grids").mkdir()
    run, _ = import_folder(planned(), answered, "mine", elsewhere)
    assert Run(run.path).manifest["external"]["origin"]["folder"] == str(elsewhere)


def test_pictures_that_are_converted_and_those_that_are_not(planned: Callable[..., Plan], answered: Path) -> None:
    names = [line["image"] for line in outside.requests_in(answered / "requests.jsonl")]
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    Image.fromarray(deep).save(answered / names[0])  # 16-bit grey
    rgb16 = [b"".join(int(v).to_bytes(2, "big") * 3 for v in row) for row in deep]
    (answered / names[1]).write_bytes(outside.png(rgb16, 64, depth=16))
    opaque = Image.new("RGBA", (64, 64), (10, 20, 30, 255))
    opaque.save(answered / names[2])
    Image.new("RGB", (64, 64), (200, 0, 7)).quantize(4).save(answered / names[3])
    images = dict(Run(import_folder(planned(), answered, "mine")[0].path).images())
    for name in names[:2]:
        np.testing.assert_array_equal(images[name[:-4]], np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, 2))
    assert (images[names[2][:-4]] == (10, 20, 30)).all()
    assert (images[names[3][:-4]] == (200, 0, 7)).all()
    opaque.putpixel((5, 5), (0, 0, 0, 128))
    opaque.save(answered / names[2])
    with pytest.raises(ConcordError, match=rf"{names[2]}: has 1 transparent pixels"):
        import_folder(planned(), answered, "mine")


# -------------------------------------------------------------------------------------------------------- what is wrong


def spoil_png(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "jpeg":
        buffer = io.BytesIO()
        Image.open(path).save(buffer, format="JPEG")
        content = buffer.getvalue()
    spoilt = {"empty": b"", "cut": content[:-40], "text": b"hello", "jpeg": content}
    spoilt["noise"] = content[:60] + bytes(20) + content[80:]
    path.write_bytes(spoilt[how])


def declare(folder: Path, text: str) -> None:
    (folder / "result.json").write_text(text)


BAD_ANSWERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: [(f / n).unlink() for n in ("1-0.png", "4-0.png")], r"2 of 6 images are missing, .*'1-0.png"),
    "extra": (lambda f: (f / "grid.png").write_bytes(outside.paint(b"abc")), r"1 answer no request, .*'grid.png'; exp"),
    "other names": (lambda f: (f / "1-0.png").rename(f / "1.png"), r"1 of 6 .*missing, .*'1-0.png'; 1 answer .*'1.p"),
    "other seeds": (lambda f: (f / "1-0.png").rename(f / "1-1.png"), r"missing, the first is '1-0.png'; .*'1-1.png'"),
    "other format": (lambda f: (f / "1-0.png").rename(f / "1-0.jpg"), r"'1-0.png'; 1 answer no request, .*'1-0.jpg'"),
    "wrong size": (lambda f: outside.answer(f / "requests.jsonl", f, 32), r"0-0.png: has 32x32 pixels \(and 5 more\);"),
    "not square": (lambda f: (f / "2-0.png").write_bytes(outside.png([b"abc" * 64] * 32, 64)), r"2-0.png: has 64x32 p"),
    "empty": (lambda f: spoil_png(f / "2-0.png", "empty"), r"2-0.png: is empty"),
    "cut": (lambda f: spoil_png(f / "2-0.png", "cut"), r"2-0.png: (is truncated|cannot be decoded)"),
    "noise": (lambda f: spoil_png(f / "2-0.png", "noise"), r"2-0.png: cannot be decoded"),
    "no image": (lambda f: spoil_png(f / "2-0.png", "text"), r"2-0.png: is no PNG"),
    "a JPEG called PNG": (lambda f: spoil_png(f / "2-0.png", "jpeg"), r"2-0.png: is no PNG; expected a PNG"),
    "costs": (lambda f: declare(f, '{"second": 1}'), r"result.json: unknown key 'second'; known keys: s"),
    "negative": (lambda f: declare(f, '{"seconds_per_image": -1}'), r"result.json: 'seconds_per_im"),
    "not a number": (lambda f: declare(f, '{"seconds_per_image": NaN}'), r"result.json: 'seconds_pe"),
    "a word": (lambda f: declare(f, '{"peak_memory_bytes": "9G"}'), r"'peak_memory_bytes': .*'9G'"),
    "a list": (lambda f: declare(f, "[1]"), r"result.json: expected an object with the keys second"),
    "no JSON": (lambda f: declare(f, "{"), r"result.json: not valid JSON"),
    "requests": (lambda f: (f / "requests.jsonl").open("a").write("\n"), r"requests.jsonl: is not as it was exp"),
    "no requests": (lambda f: (f / "requests.jsonl").unlink(), r"requests.jsonl: is not as it was exported"),
    "no export": (lambda f: (f / "export.json").unlink(), r"is no export; expected a folder that `concord export`"),
    "no folder": (shutil.rmtree, r"exchange: no such folder"),
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_a_wrong_answer_is_refused_and_leaves_nothing(
    kind: str, planned: Callable[..., Plan], answered: Path, tmp_path: Path
) -> None:
    spoil, message = BAD_ANSWERS[kind]
    spoil(answered)
    with pytest.raises(ConcordError, match=message) as error:
        import_folder(planned(), answered, "mine")
    assert "\n" not in str(error.value)
    assert not [name for name in stored(tmp_path) if "mine" in name]


def test_another_request_set_is_refused(
    planned: Callable[..., Plan], answered: Path, suite: Path, toy_tree: Path, tmp_path: Path
) -> None:
    for options, words in (
        ({"limit": 5}, "exported with n 6, not 5"),
        ({"seed_set": 1}, "exported with seed set 0, not 1"),
        ({"profile": "paper"}, "exported with profile embedded, not paper"),
        ({"data": toy_world.write_tree(tmp_path / "other", 7, size=32)}, r"exported with data \(fingerprint\)"),
    ):
        with pytest.raises(ConcordError, match=words):
            import_folder(planned(**options), answered, "mine")
    suite.write_text(suite.read_text().replace("grid: 0", "requests: twin\ngrid: 0"))
    with pytest.raises(ConcordError, match="exported with request set toys, not twin"):
        import_folder(planned(), answered, "mine")
    assert not [name for name in stored(tmp_path) if "mine" in name]


def test_data_that_changed_since_the_export_are_noticed(
    planned: Callable[..., Plan], suite: Path, tmp_path: Path
) -> None:
    tree = toy_world.write_tree(tmp_path / "own", N)
    folder = tmp_path / "exchange"
    export_suite(planned(data=tree), folder, str(suite))
    outside.answer(folder / "requests.jsonl", folder)
    part = tree / "CelebAMask-HQ-mask-anno/0/00002_hair.png"
    size = part.stat().st_size
    pixels = np.asarray(Image.open(part)).copy()
    pixels = pixels[:, ::-1] if (pixels != pixels[:, ::-1]).any() else np.roll(pixels, 5, axis=1)
    Image.fromarray(pixels).save(part)
    content = part.read_bytes()
    if len(content) <= size:  # the fingerprint of files goes by their sizes: only the content tells here
        part.write_bytes(content + bytes(size - len(content)))
    with pytest.raises(ConcordError, match=r"requests are not those of suite 'toys' today|exported with data"):
        import_folder(planned(data=tree), folder, "mine")


def test_names_that_are_taken(toy: str, planned: Callable[..., Plan], answered: Path, toy_suite: Path) -> None:
    plan = planned()
    for name, words in (
        ("toy", "taken: a registered method"),
        ("collaborative", "taken: a registered method"),
        ("ground-truth", "kept for Concord's own use"),
        ("reference", "kept for"),
        ("a,b", "expected letters"),
        ("../up", "expected letters"),
        ("", "expected letters"),
        ("x" * 65, "at most 64"),
    ):
        with pytest.raises(ConcordError, match=words):
            import_folder(plan, answered, name)
    ablation = related_suites("influence-ablation")
    with pytest.raises(ConcordError, match="suite 'influence-ablation' has a row of that name"):
        check_free("collaborative-without-spatial", ablation)
    check_free("awaited", [read_suite(str(toy_suite))])  # planned: the table has been waiting for it


def test_results_of_another_method_are_not_overwritten(planned: Callable[..., Plan], answered: Path) -> None:
    plan = planned()
    run, _ = import_folder(plan, answered, "mine")
    manifest = json.loads((run.path / "run.json").read_text())
    for kind, words in ((None, "results of another method"), ("command", "made by a command")):
        told = {**manifest["external"], "kind": kind} if kind else None
        (run.path / "run.json").write_text(json.dumps({**manifest, "external": told, "key": "0" * 64}))
        with pytest.raises(ConcordError, match=words):
            import_folder(plan, answered, "mine")


# --------------------------------------------------------------------------------------------------------------- atomic


def test_a_half_import_leaves_nothing(
    planned: Callable[..., Plan], answered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concord.benchmarks.run import generate as runner

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "write_json", interrupt)
        with pytest.raises(KeyboardInterrupt):
            import_folder(planned(), answered, "mine")
    assert not [name for name in stored(tmp_path) if "mine" in name]
    run, _ = import_folder(planned(), answered, "mine")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    (answered / "0-0.png").write_bytes(outside.paint(b"new"))
    with monkeypatch.context() as patch:
        patch.setattr(runner, "write_json", interrupt)
        with pytest.raises(KeyboardInterrupt):
            import_folder(planned(), answered, "mine")
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_what_a_killed_import_left_is_cleared(planned: Callable[..., Plan], answered: Path, tmp_path: Path) -> None:
    plan = planned()
    left = plan.root / ".toys.mine.importing/run/images"
    left.mkdir(parents=True)
    (left / "00000.tar").write_text("half")
    assert [run.row.name for run in planned().runs] == ["ground-truth", "shuffled"], "it is no row"
    run, _ = import_folder(plan, answered, "mine")
    assert is_current(run)
    assert not list(plan.root.glob(".*"))


def test_replacing_takes_the_scores_away(planned: Callable[..., Plan], answered: Path) -> None:
    run, _ = import_folder(planned(), answered, "mine")
    (run.path / "score.json").write_text("{}")
    (answered / "0-0.png").write_bytes(outside.paint(b"new"))
    again, new = import_folder(planned(), answered, "mine")
    assert new
    assert again.key != run.key
    assert is_current(again)
    assert not (run.path / "score.json").exists()
