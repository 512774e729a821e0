"""Profiles: what is read, what is refused in one line, and what a role gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from concord.benchmarks.generators import metric_uses, row_uses
from concord.benchmarks.suite import load_suite
from concord.data.errors import ConcordError
from concord.data.networks import Networks, Pool
from concord.data.profile import GIVEN, load_profile, profile_names
from concord.metrics.networks.embedded.parser import SynthParser
from concord.metrics.networks.protocols import Parser, TextImage

HEAD = "image_size: 64\nbatch_size: 8\n"
PARSER = "concord.metrics.networks.embedded.parser:load_parser"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(GIVEN, raising=False)
    return tmp_path / "own.yaml"


def refusal(path: Path, text: str) -> str:
    path.write_text(HEAD + text)
    with pytest.raises(ConcordError) as error:
        load_profile(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_every_profile_of_the_repo_is_whole() -> None:
    assert profile_names() == ["embedded", "paper", "photos"]
    for name in profile_names():
        profile = load_profile(name)
        for generator in (None, *profile.generators):
            profile.uses(list(profile.roles_of(generator)), generator)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "sizes: {}\n",
            "unknown key 'sizes'; known keys: title, image_size, batch_size, dtype, papers_scale, datasets, roles",
        ),
        ("roles:\n  a: {loader: x}\n", "loader 'x': expected 'module:function'"),
        ("roles:\n  a: {loader: concord.nosuch:load}\n", "role 'a': loader 'concord.nosuch:load': there is no module"),
        (
            "roles:\n  a: {loader: 'concord.metrics.networks.embedded.parser:load_parsers'}\n",
            "parser.py has no 'load_parsers'; it has load_parser",
        ),
        ("roles:\n  a: {loader: 'mine.py:load'}\n", "mine.py: no such file"),
        (f"roles:\n  a: {{loader: '{PARSER}', weights: faces-parser}}\n", "unknown weights 'faces-parser'"),
        (f"roles:\n  a: {{loader: '{PARSER}', wieghts: x}}\n", "unknown key 'roles.a"),
        ("roles:\n  a: judge/b\n", "role 'a': profile 'own': has no role 'judge/b' (of 'a')"),
        ("roles:\n  a: b\n  b: a\n", "stands for itself"),
        (
            f"roles:\n  a: {{loader: '{PARSER}', uses: {{x: b}}}}\n  b: {{loader: '{PARSER}', uses: {{x: a}}}}\n",
            "a -> b -> a",
        ),
        (f"roles:\n  a: {{loader: '{PARSER}'}}\n  b: a\n  a: b\n", "line 6: not valid YAML (key 'a' stands twice"),
        (
            "generators:\n  g: {methods: [m]}\n  h: {methods: [m]}\n",
            "method 'm' draws from two generators",
        ),
        ("weights:\n  w: {licence: mine}\n", "expected either 'path' or 'package'"),
    ],
)
def test_mistakes_are_one_line_that_names_them(own: Path, text: str, words: str) -> None:
    assert words in refusal(own, text)


def test_an_unknown_profile_names_those_that_there_are(own: Path) -> None:
    with pytest.raises(ConcordError, match="unknown profile 'huge': expected one of embedded, paper, photos"):
        load_profile("huge")
    with pytest.raises(ConcordError, match=r"own\.yaml: no such profile"):
        load_profile(own)


def test_a_profile_of_ones_own_is_one_file(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader beside it, weights of its own, and n, rows and metrics of a suite that says nothing of it."""
    (own.parent / "mine.py").write_text(
        "class Own:\n"
        "    def __init__(self, text): self.text = text\n"
        "    def labels(self, images): return images[:, 0].long()\n"
        "def load(path, other, scale, device): return Own(path.read_text() + str(scale) + str(device))\n"
        "def load_other(): return 1\n"
    )
    (own.parent / "w.txt").write_text("weights")
    own.write_text(
        HEAD + "roles:\n"
        "  judge/parser: {loader: 'mine.py:load', weights: w, uses: {other: judge/other}, options: {scale: 2}}\n"
        "  judge/other: {loader: 'mine.py:load_other'}\n"
        "weights:\n  w: {path: w.txt, licence: mine, command: make w}\n"
        "suites:\n  face-generation: {n: {default: 3, full: 4}, metrics: [mask-accuracy], joint: null}\n"
    )
    profile = load_profile(own)
    networks = Networks(profile)
    assert networks.get("judge/parser", Parser).text == "weights2cpu"  # type: ignore[attr-defined]
    assert networks.get("judge/parser", Parser) is networks.get("judge/parser", Parser)
    assert list(networks.sha256) == ["w"]
    assert load_profile("own") is profile  # by its name from now on, also in a child process
    suite = load_suite("face-generation")
    assert suite.size("default", "own") == 3
    assert suite.in_profile("own").metrics == ["mask-accuracy"]
    assert suite.size("default", "embedded") == 128
    (own.parent / "w.txt").unlink()
    with pytest.raises(ConcordError, match=r"profile 'own', role 'judge/parser' \(mine\.py:load\).*run `make w`"):
        Networks(profile).get("judge/parser", Parser)


def test_a_role_is_of_the_kind_that_is_asked_for() -> None:
    networks = Networks("embedded", "faces")
    with pytest.raises(ConcordError, match=r"load_parser gives a SynthParser, expected a TextImage; it has"):
        networks.get("judge/parser", TextImage)
    with pytest.raises(ConcordError, match=r"role 'judge/identity': it was not named .*\(judge/parser\)"):
        Networks("embedded", allowed=["judge/parser"]).get("judge/identity", Parser)
    with pytest.raises(ConcordError, match=r"generator 'tedigan': TediGAN cannot be loaded here"):
        Networks("paper", "tedigan")


def test_networks_that_share_a_pool_load_once_and_may_be_part_of_a_graph() -> None:
    pool = Pool()
    with torch.inference_mode():
        first = Networks("embedded", pool=pool).get("judge/parser", SynthParser)
    second = Networks("embedded", "faces", pool=pool)
    assert second.get("freedom/parser", SynthParser) is first
    assert set(second.sha256) == {"faces-parser-judge"}
    images = torch.rand(1, 3, 64, 64).requires_grad_()
    first(images).sum().backward()
    assert images.grad is not None


def test_what_a_row_and_a_metric_look_through_is_known_without_loading() -> None:
    names = [use.role for use in row_uses("paper", "freedom", "celeba-hq-ddpm", {}, ["identity", "landmarks"])]
    assert set(names) >= {"checkpoint", "space", "expert/unconditional"}
    (use,) = metric_uses("paper", "segmentation-distance")
    assert (use.role, use.weights) == ("guide/parser", ("bisenet",))
    assert use.loader == "concord.metrics.networks.pretrained.bisenet:load_bisenet"
    assert [use.role for use in metric_uses("embedded", "identity-l2")] == ["judge/parser", "judge/identity"]
    assert [use.role for use in metric_uses("photos", "landmark-nme")] == ["judge/face-detector", "judge/landmarks"]
