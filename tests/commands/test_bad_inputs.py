"""Every verb with bad input of every kind: exit code 2, one line that names the thing, no traceback, no hang.

What the readers of data do with each kind stands in tests/data/test_readers.py, what plugins may do in
tests/benchmarks/test_user_code.py; here it is the whole command.
"""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60
Maker = Callable[[Path], object]


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"no answer within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refused(result: Any, words: str) -> None:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith(("error: ", "Error: "))]
    usage = "Usage:" in result.stderr  # what typer says of an option
    assert usage or len(lines) == 1, result.stderr
    assert "Traceback" not in result.output
    assert "fault of concord's" not in result.output
    assert words in " ".join(result.stderr.split()), result.stderr
    assert "\x1b" not in result.stderr
    result.stderr.encode()


def picture(path: Path, side: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return path


# ---------------------------------------------------------------------------------------------- folders that are scored


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(path: Path) -> None:
    """A PNG of a few bytes that claims ten gigapixels."""
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


def claims(path: Path, shape: str = "(137438953472, 1)", kind: str = "<f4") -> None:
    """An .npy whose header claims 512 GB."""
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (64 - (10 + len(head) + 1) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + b"\0" * 64)


def claiming_npz(path: Path) -> None:
    claims(path.with_suffix(".inner"))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("arr_0.npy", path.with_suffix(".inner").read_bytes())


def tar(path: Path, *members: tuple[str, bytes | None], links: dict[str, str] | None = None) -> None:
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            info.size = len(content or b"")
            file.addfile(info, io.BytesIO(content or b""))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            file.addfile(info)


def cut_tar(path: Path) -> None:
    tar(path, ("0.png", b"\0" * 5000))
    path.write_bytes(path.read_bytes()[:900])


def one_bad(content: bytes) -> Maker:
    def make(path: Path) -> None:
        picture(path / "0.png")
        (path / "1.png").write_bytes(content)

    return make


SETS: dict[str, tuple[str, Maker, str]] = {
    "nothing": ("x", lambda path: None, "no such"),
    "an empty folder": ("x", Path.mkdir, "no image"),
    "an empty image among good ones": ("x", one_bad(b""), "1.png"),
    "half an image among good ones": ("x", one_bad(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), "1.png"),
    "text with an image's suffix": ("x", one_bad(b"<svg/>" * 30), "1.png"),
    "another size among good ones": ("x", lambda p: (picture(p / "0.png"), picture(p / "1.png", 24)), "1.png"),
    "a bomb": ("x", lambda p: (picture(p / "0.png"), bomb(p / "1.png")), "1.png"),
    "a pipe among good ones": ("x", lambda p: (picture(p / "0.png"), os.mkfifo(p / "1.png")), "1.png"),
    "a pipe": ("x.tar", os.mkfifo, "x.tar"),
    "a link to itself": ("x", lambda path: path.symlink_to(path), "x"),
    "a folder of folders": ("x", lambda path: (path / "a/b/c").mkdir(parents=True), "no image"),
    "an .npy that claims 512 GB": ("x.npy", claims, "x.npy"),
    "an .npy of a negative shape": ("x.npy", lambda path: claims(path, "(-1, 8, 8, 3)", "|u1"), "x.npy"),
    "an .npy of objects": ("x.npy", lambda p: np.save(p, np.array([{}, 1], object), allow_pickle=True), "x.npy"),
    "an .npy of text": ("x.npy", lambda path: np.save(path, np.array(["a"])), "x.npy"),
    "an .npy of complex numbers": ("x.npy", lambda path: np.save(path, np.ones((2, 8, 8, 3), complex)), "x.npy"),
    "an .npy of NaN": ("x.npy", lambda p: np.save(p, np.full((2, 8, 8, 3), np.nan, np.float32)), "x.npy"),
    "an .npy of floats to 255": ("x.npy", lambda p: np.save(p, np.full((2, 8, 8, 3), 200.0, np.float32)), "x.npy"),
    "an .npy of one dimension": ("x.npy", lambda path: np.save(path, np.zeros(5, np.uint8)), "x.npy"),
    "an .npy of no images": ("x.npy", lambda path: np.save(path, np.zeros((0, 8, 8, 3), np.uint8)), "x.npy"),
    "an .npz of zero bytes": ("x.npz", lambda path: path.write_bytes(b""), "x.npz"),
    "an .npz that claims 512 GB": ("x.npz", claiming_npz, "x.npz"),
    "an .npz without arrays": ("x.npz", lambda path: zipfile.ZipFile(path, "w").close(), "x.npz"),
    "a tar of text": ("x.tar", lambda path: path.write_bytes(b"no tar" * 200), "x.tar"),
    "a tar cut short": (
        "x.tar",
        lambda p: (tar(p, ("0.png", b"\0" * 5000)), p.write_bytes(p.read_bytes()[:900])),
        "x.tar",
    ),
    "a tar of names that climb": ("x.tar", lambda path: tar(path, ("../../0.png", b"1")), "x.tar"),
    "a tar of links": ("x.tar", lambda path: tar(path, links={"0.png": "/etc/passwd"}), "x.tar"),
    "a tar of thousands of folders": ("x.tar", lambda p: tar(p, *((f"d{k}", None) for k in range(5_000))), "x.tar"),
    "a tar of deep folders": ("x.tar", lambda path: tar(path, ("d/" * 40 + "x", None)), "x.tar"),
    "a zip of text": ("x.zip", lambda path: path.write_bytes(b"PK\x03\x04 no"), "x.zip"),
    "a folder of the system": ("/proc/self", lambda path: None, "running system"),
    "a name that no file can have": ("a" * 3000, lambda path: None, "cannot be looked at"),
}


@pytest.mark.parametrize(("name", "make", "words"), SETS.values(), ids=SETS)
@pytest.mark.parametrize("option", ["--images", "--reference"])
def test_images_that_cannot_be_scored(
    concord: Any, tmp_path: Path, option: str, name: str, make: Maker, words: str
) -> None:
    good = picture(tmp_path / "good/0.png").parent
    bad = tmp_path / name
    make(bad)
    picture(tmp_path / "good/1.png")
    other = "--reference" if option == "--images" else "--images"
    done = concord("evaluate", option, bad, other, good, "--metrics", "psnr", "--profile", "embedded")
    refused(done, words)


def records(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


CAPTIONS: dict[str, tuple[str, bytes, str]] = {
    "a list": ("c.json", b"[1, 2]", "c.json"),
    "a number": ("c.json", b"17", "c.json"),
    "null": ("c.json", b"null", "c.json"),
    "captions that are lists of numbers": ("c.json", b'{"0.png": [1, 2]}', "c.json"),
    "an empty caption": ("c.json", b'{"0.png": ""}', "0.png"),
    "a caption of spaces": ("c.json", b'{"0.png": "   "}', "0.png"),
    "other images": ("c.json", b'{"7.png": "a"}', "c.json"),
    "deep JSON": ("c.json", b'{"0.png": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deep"),
    "half a character": ("c.json", b'{"0.png": "\\udc00"}', "half of a character"),
    "a key twice": ("c.json", b'{"0.png": "a", "0.png": "b"}', "stands twice"),
    "NaN for a caption": ("c.json", b'{"0.png": NaN}', "c.json"),
    "bytes of Latin-1": ("c.json", '{"0.png": "caf\xe9"}'.encode("latin-1"), "not UTF-8"),
    "two records an image": ("c.jsonl", records(*({"image": "0.png", "caption": c} for c in "ab")), "two captions"),
    "a record that is no object": ("c.jsonl", b"[]\n", "line 1"),
    "a record without a caption": ("c.jsonl", b'{"image": "0.png"}\n', "line 1"),
    "a field of megabytes": ("c.csv", b"image,caption\n0.png," + b"a" * 2_000_000 + b"\n", "field limit"),
    "a CSV of zero bytes": ("c.csv", b"image,caption\n0.png,a\0b\n", "zero bytes"),
    "a CSV without a head": ("c.csv", b"0.png,a face\n", "c.csv"),
    "too many lines": ("c.txt", b"a\nb\nc\n", "c.txt"),
    "an unknown suffix": ("c.xml", b"<a/>", "c.xml"),
}  # fmt: skip  # a table


@pytest.mark.parametrize(("name", "content", "words"), CAPTIONS.values(), ids=CAPTIONS)
def test_captions_that_cannot_be_read(concord: Any, tmp_path: Path, name: str, content: bytes, words: str) -> None:
    good = picture(tmp_path / "good/0.png").parent
    (tmp_path / name).write_bytes(content)
    options = ["--images", good, "--captions", tmp_path / name, "--metrics", "text-similarity", "--profile", "embedded"]
    refused(concord("evaluate", *options), words)


STATISTICS: dict[str, tuple[dict[str, Any], str]] = {
    "no covariance": ({"mu": np.zeros(4)}, "s.npz"),
    "not square": ({"mu": np.zeros(4), "sigma": np.zeros((4, 3))}, "s.npz"),
    "of another width": ({"mu": np.zeros(4), "sigma": np.eye(4)}, "s.npz"),
    "not a number": ({"mu": np.full(64, np.nan), "sigma": np.eye(64)}, "s.npz"),
    "infinite": ({"mu": np.zeros(64), "sigma": np.full((64, 64), np.inf)}, "s.npz"),
    "not symmetric": ({"mu": np.zeros(64), "sigma": np.triu(np.ones((64, 64)))}, "s.npz"),
    "not a covariance": ({"mu": np.zeros(64), "sigma": -np.eye(64)}, "s.npz"),
    "text": ({"mu": np.array(["a"] * 64), "sigma": np.eye(64)}, "s.npz"),
    "whole numbers": ({"mu": np.zeros(64, bool), "sigma": np.eye(64)}, "s.npz"),
}


@pytest.mark.parametrize(("arrays", "words"), STATISTICS.values(), ids=STATISTICS)
def test_statistics_that_are_none(concord: Any, tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    images = np.random.default_rng(0).integers(0, 256, (70, 64, 64, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", images)
    options = ["--images", tmp_path / "x.npy", "--reference", tmp_path / "s.npz", "--metrics", "fid"]
    refused(concord("evaluate", *options, "--profile", "embedded"), words)


# ------------------------------------------------------------------------------------------------------------- options


PLAIN = toy_world.SUITE.strip()
SUITES: dict[str, tuple[str, str]] = {
    "empty": ("", "toys.yaml"),
    "a list": ("- a\n- b\n", "toys.yaml"),
    "text": ("just words", "toys.yaml"),
    "no YAML": ("a: [1, 2\nb: }", "toys.yaml"),
    "a tag of Python": ("name: !!python/object/apply:os.system ['true']\n", "toys.yaml"),
    "a key twice": (PLAIN + "\ntitle: Again\n", "twice"),
    "an unknown key": (PLAIN + "\nrandom: 3\n", "random"),
    "no rows": (PLAIN.replace("rows:", "lines:"), "toys.yaml"),
    "a row twice": (PLAIN.replace("name: awaited", "name: toy"), "toy"),
    "a name that climbs": (PLAIN.replace("name: toys", "name: ../toys"), "name"),
    "a row's name that climbs": (PLAIN.replace("name: awaited", "name: ../x"), "toys.yaml"),
    "a number for a name": (PLAIN.replace("name: toys", "name: 3"), "name"),
    "an unknown metric": (PLAIN.replace("[fid,", "[fids,"), "fids"),
    "an unknown condition": (PLAIN.replace("[text, mask]", "[text, smell]"), "smell"),
    "an unknown paper": (PLAIN.replace("collaborative-diffusion", "no-such-paper"), "no-such-paper"),
    "an unknown dataset": (PLAIN.replace("dataset: faces", "dataset: cats"), "cats"),
    "a negative grid": (PLAIN.replace("grid: 4", "grid: -4"), "grid"),
    "a grid of text": (PLAIN.replace("grid: 4", "grid: four"), "grid"),
    "a quantile beyond 1": (PLAIN.replace("quantile: 0.05", "quantile: 5"), "quantile"),
    "a quantile that is none": (PLAIN.replace("quantile: 0.05", "quantile: .nan"), "quantile"),
    "aliases without end": ("a: &a [*a]\n", "toys.yaml"),
    "a billion": (
        "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 9)),
        "toys.yaml",
    ),
}


@pytest.mark.parametrize(("text", "words"), SUITES.values(), ids=SUITES)
@pytest.mark.parametrize("verb", ["run", "report"])
def test_suites_that_are_none(concord: Any, toy_tree: Path, tmp_path: Path, verb: str, text: str, words: str) -> None:
    path = tmp_path / "toys.yaml"
    path.write_text(text)
    options = ["--results", tmp_path / "results"] + ["--data", toy_tree, "--limit", 2] * (verb == "run")
    late = verb == "report" and words in ("fids", "no-such-paper")  # not looked up where there is nothing to show
    refused(concord(verb, path, *options), "no results of toys" if late else words)
    assert not list((tmp_path / "results").rglob("run.json"))


RUN: dict[str, tuple[list[str], str]] = {
    "a limit of zero": (["--limit", "0"], "limit"),
    "a negative limit": (["--limit", "-3"], "limit"),
    "a limit that is text": (["--limit", "many"], "--limit"),
    "a negative seed set": (["--seed-set", "-1"], "seed-set"),
    "no steps": (["--methods", "toy", "--set", "steps="], "steps"),
    "no name": (["--methods", "toy", "--set", "=5"], "=5"),
    "no value": (["--methods", "toy", "--set", "steps"], "steps"),
    "an unknown parameter": (["--methods", "toy", "--set", "stpes=5"], "stpes"),
    "a parameter twice": (["--methods", "toy", "--set", "steps=5", "--set", "steps=6"], "steps"),
    "text for a number": (["--methods", "toy", "--set", "steps=five"], "steps"),
    "minutes for a number": (["--methods", "toy", "--set", "steps=1:30"], "steps"),
    "half a list": (["--methods", "toy", "--set", "steps=[1"], "steps"),
    "not a number": (["--methods", "toy", "--set", "steps=.nan"], "steps"),
    "an unknown method": (["--methods", "toys"], "toys"),
    "a method's name that climbs": (["--methods", "../../etc"], "../../etc"),
    "no method": (["--methods", ","], "--methods"),
    "an unknown device": (["--device", "toaster"], "toaster"),
    "a device that is not there": (["--device", "cuda:99"], "cuda:99"),
    "an unknown profile": (["--profile", "no-such"], "no-such"),
    "a profile that climbs": (["--profile", "../x"], "../x"),
    "a batch of zero": (["--batch-size", "0"], "batch"),
    "a batch beyond a shard": (["--batch-size", "65"], "batch"),
    "results that are a file": (["--results", "FILE"], "FILE"),
    "results below a file": (["--results", "FILE/x"], "FILE"),
    "results in the system": (["--results", "/proc/nowhere"], "/proc/nowhere"),
    "results that are a loop": (["--results", "LOOP"], "LOOP"),
    "a plugin that is a folder": (["--plugin", "FOLDER"], "FOLDER"),
    "a plugin of another suffix": (["--plugin", "FILE"], "FILE"),
    "a plugin that is a pipe": (["--plugin", "PIPE.py"], "PIPE.py"),
    "a plugin that is not there": (["--plugin", "none.py"], "none.py"),
    "an external that is no YAML": (["--external", "FILE"], "FILE"),
    "an external that is a folder": (["--external", "FOLDER"], "FOLDER"),
    "data that are not there": (["--data", "nowhere"], "nowhere"),
    "data that are a file": (["--data", "FILE"], "FILE"),
    "data that are a pipe": (["--data", "PIPE.py"], "PIPE.py"),
    "data that are a loop": (["--data", "LOOP"], "LOOP"),
    "data that are empty": (["--data", "FOLDER"], "FOLDER"),
    "data of the system": (["--data", "/proc"], "/proc"),
}


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file, a folder, a pipe and a loop of links in it, the working directory."""
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "FILE").write_text("no such thing")
    (folder / "FOLDER").mkdir()
    picture(folder / "IMAGES/0.png")
    (folder / "LOOP").symlink_to(folder / "LOOP")
    os.mkfifo(folder / "PIPE.py")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(("options", "words"), RUN.values(), ids=RUN)
def test_options_of_run(
    concord: Any, toy_suite: Path, toy_tree: Path, odd: Path, options: list[str], words: str
) -> None:
    usual = {"--data": str(toy_tree), "--limit": "2", "--results": "results"}
    rest = [part for name, value in usual.items() if name not in options for part in (name, value)]
    refused(concord("run", toy_suite, *rest, *options), words)
    assert not list(odd.rglob("run.json"))


OTHERS: dict[str, tuple[list[str], str]] = {
    "table of nothing": (["table", "no-such"], "no-such"),
    "table that climbs": (["table", "../../x"], "../../x"),
    "table in no format": (["table", "face-generation", "--format", "docx"], "docx"),
    "report of nothing": (["report", "--results", "FOLDER"], "FOLDER"),
    "report of a file": (["report", "--results", "FILE"], "FILE"),
    "report of a loop": (["report", "--results", "LOOP"], "LOOP"),
    "report of no data set": (["report", "--data-set", "x", "--results", "FOLDER"], "--data-set x"),
    "compare with nothing": (["compare", "no-such-revision"], "no-such-revision"),
    "compare with an option": (["compare", "--", "--upload-pack=x"], "upload-pack"),
    "compare a file": (["compare", "FILE"], "FILE"),
    "compare an empty folder": (["compare", "FOLDER"], "FOLDER"),
    "an infinite tolerance": (["compare", "baseline", "FOLDER", "--tolerance", "inf"], "inf"),
    "a tolerance that is none": (["compare", "baseline", "FOLDER", "--tolerance", "nan"], "--tolerance"),
    "a negative tolerance": (["compare", "baseline", "FOLDER", "--tolerance", "-1"], "--tolerance"),
    "history of nothing": (["history", "no-such-method"], "no-such-method"),
    "check of nothing": (["check", "no-such-method"], "no-such-method"),
    "export of nothing": (["export", "no-such", "out"], "no-such"),
    "import of nothing": (["import", "nowhere", "--as", "x"], "nowhere"),
    "import of an empty folder": (["import", "FOLDER", "--as", "x"], "FOLDER"),
    "import of a file": (["import", "FILE", "--as", "x"], "FILE"),
    "import of a loop": (["import", "LOOP", "--as", "x"], "LOOP"),
    "verify of nothing": (["data", "verify", "nowhere"], "nowhere"),
    "verify of a file": (["data", "verify", "FILE"], "FILE"),
    "verify of a pipe": (["data", "verify", "PIPE.py"], "PIPE.py"),
    "preview of a loop": (["data", "preview", "LOOP"], "LOOP"),
    "preview of an empty folder": (["data", "preview", "FOLDER"], "FOLDER"),
    "make in a file": (["data", "make", "--n", "2", "--split", "test", "--out", "FILE"], "FILE"),
    "make of none": (["data", "make", "--n", "0", "--out", "out"], "--n"),
    "fetch of nothing": (["fetch", "--for", "no-such-thing"], "no-such-thing"),
    "weights of nothing": (["weights", "fetch", "no-such-thing"], "no-such-thing"),
    "train of nothing": (["train", "no-such-network"], "no-such-network"),
    "tune of nothing": (["tune", "no-such", "no-such"], "no-such"),
    "generate a row that is none": (["generate", "face-generation", "no-such-row", "--results", "r"], "no-such-row"),
    "score of nothing": (["score", "no-such-suite"], "no-such-suite"),
    "evaluate without images": (["evaluate", "--metrics", "fid"], "--images"),
    "evaluate no metric": (["evaluate", "--images", "IMAGES", "--metrics", ""], "metrics"),
    "evaluate an unknown metric": (["evaluate", "--images", "IMAGES", "--metrics", "fids"], "fids"),
    "evaluate into a folder": (["evaluate", "--images", "FOLDER", "--metrics", "fid", "--out", "FOLDER"], "FOLDER"),
    "evaluate a row that is none": (["evaluate", "--results", "FOLDER", "--metrics", "psnr"], "FOLDER"),
    "plan of nothing": (["plan", "--suite", "no-such"], "no-such"),
    "list of no profile": (["list", "--profile", "no-such"], "no-such"),
    "bench of nothing": (["bench", "--suite", "no-such"], "no-such"),
    "calibrate nothing": (["calibrate", "no-such"], "no-such"),
}


@pytest.mark.usefixtures("odd")
@pytest.mark.parametrize(("asked", "words"), OTHERS.values(), ids=OTHERS)
def test_arguments_of_every_other_verb(concord: Any, asked: list[str], words: str) -> None:
    refused(concord(*asked), words)


PROCESSES = (
    ["evaluate", "--images", "nowhere", "--metrics", "psnr"],
    ["report", "--results", "nowhere"],
    ["table", "no-such"],
    ["compare", "nowhere"],
    ["import", "nowhere", "--as", "x"],
    ["data", "verify", "nowhere"],
)


@pytest.mark.parametrize(
    "asked",
    [PROCESSES[0], *(pytest.param(one, marks=pytest.mark.long) for one in PROCESSES[1:])],
    ids=lambda one: one[0],
)
def test_a_process_of_its_own_says_the_same_at_once(tmp_path: Path, asked: list[str]) -> None:
    """Within two seconds beyond the start of the command, which `--help` of the same verb takes too."""

    def call(*arguments: str) -> tuple[float, subprocess.CompletedProcess[str]]:
        begun = os.times()
        done = subprocess.run(
            [sys.executable, "-m", "concord", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=120,
        )
        ended = os.times()
        return ended.children_user + ended.children_system - begun.children_user - begun.children_system, done

    seconds, done = call(*asked)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert line.startswith("error: ")
    assert "Traceback" not in done.stderr
    base, _ = call(asked[0], "--help")
    assert seconds - base < 6, "importing torch is the start of a command that needs it"
