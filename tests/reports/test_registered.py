"""A user's claims: how they are written, kept and dated, and that one younger than its results is post hoc."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from fake_store import FACTS, make_suite, sign, write_store

from concord.benchmarks.claims import FILE, Claim, check_claim, parse_claim, read_registered, register
from concord.data.errors import ConcordError
from concord.data.files import read_json, write_json
from concord.reports.assemble import build_table
from concord.reports.registered import registered_claims
from concord.reports.site.claims import claims_of
from concord.reports.site.page import Page

TEXT = "collaborative > composable : mask-accuracy"


def test_a_claim_is_two_rows_and_a_metric() -> None:
    assert parse_claim(TEXT) == Claim(winner="collaborative", loser="composable", metric="mask-accuracy")
    assert parse_claim(" a>b:drawn-pixel-accuracy@avg").text == "a > b : pixel-accuracy@avg"  # today's name
    for wrong in ("a > b", "a b : fid", "a > a : fid", "a > b > c : fid", ""):
        with pytest.raises(ConcordError, match="expected two rows and a metric"):
            parse_claim(wrong)
    with pytest.raises(ConcordError, match="unknown row 'mine'"):
        check_claim(parse_claim("mine > b : fid"), ["a", "b"], ["fid"])
    with pytest.raises(ConcordError, match="unknown metric 'kid'"):
        check_claim(parse_claim("a > b : kid"), ["a", "b"], ["fid"])


def test_a_suites_claims_are_of_its_rows_and_metrics() -> None:
    assert make_suite(claims=[TEXT]).claims == [TEXT]
    with pytest.raises(ValueError, match="unknown row 'nobody'"):
        make_suite(claims=["nobody > composable : mask-accuracy"])


def test_a_results_folder_keeps_claims_with_the_rows_that_had_images(tmp_path: Path) -> None:
    early, late = parse_claim(TEXT), parse_claim("composable > collaborative : fid")
    register(tmp_path, "face-generation", [early], [], "a" * 40)
    register(tmp_path, "face-generation", [early, late], ["composable"], "b" * 40)
    found = read_registered(tmp_path)
    assert [(one.claim, one.commit, one.made) for one in found] == [
        (early, "a" * 40, []),  # which keeps its day and commit
        (late, "b" * 40, ["composable"]),
    ]
    write_json(tmp_path / FILE, {"claims": [{"suite": "s"}]})
    with pytest.raises(ConcordError, match=FILE):
        read_registered(tmp_path)


def test_claims_before_results_join_the_family_and_later_ones_are_post_hoc(tmp_path: Path) -> None:
    store = write_store(tmp_path / "embedded", n=70)
    register(store.root, "face-generation", [parse_claim(TEXT)], [], "a" * 40)
    late = parse_claim("text-only > composable : text-similarity")
    register(store.root, "face-generation", [late], ["text-only"], "b" * 40)
    table = build_table(make_suite(), store, "embedded", FACTS)
    page = Page("face-generation", "F", table)
    mine, other = [c for c in claims_of([page]) if "registered" in c.paper]
    assert (mine.winner, mine.verdict, mine.family) == ("Collaborative Diffusion", "holds", "claims")
    assert mine.paper == f"registered {read_registered(store.root)[0].day} at {'a' * 7}"
    assert other.family == "post hoc"
    assert other.paper.startswith("post hoc (text-only had images by then")
    tested = next(
        c
        for c in table.comparisons
        if {c.first, c.second} == {"text-only", "composable"} and c.column == "text-similarity"
    )
    assert tested.family == ""  # exploration


def test_a_suites_claim_is_as_old_as_the_commit_that_first_held_it(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=n", "-c", "user.email=n@example.org", *arguments],
            cwd=suites,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    suites = tmp_path / "suites"
    suites.mkdir()
    path = suites / "face-generation.yaml"
    git("init", "-q")
    path.write_text("name: face-generation\n")
    git("add", ".")
    git("commit", "-qm", "suite")
    before = git("rev-parse", "HEAD")
    path.write_text(f"name: face-generation\nclaims: ['{TEXT}']\n")
    git("commit", "-qam", "claim")
    at_claim = git("rev-parse", "HEAD")
    path.write_text(f"name: face-generation\ngrid: 3\nclaims: ['{TEXT}']\n")
    git("commit", "-qam", "later")
    after = git("rev-parse", "HEAD")
    store = write_store(tmp_path / "embedded", n=8)
    suite = make_suite(claims=[TEXT])

    def age(commit: str) -> str:
        for row in ("collaborative", "composable"):
            file = store.run("face-generation", row).path / "run.json"
            content = read_json(file)
            content["provenance"] = {**(content.get("provenance") or {}), "git_commit": commit}
            write_json(file, content)
            sign(file.parent)
        (found,) = registered_claims(suite, store, suites)
        assert found.commit == at_claim
        return found.post_hoc

    assert age(after) == age(at_claim) == age(f"{after}+dirty") == ""
    assert age(before).startswith("younger than the images of collaborative")
    assert age("unknown").startswith("younger than")
    (loose,) = registered_claims(make_suite(claims=["composable > collaborative : fid"]), store, suites)
    assert loose.post_hoc == "it is not committed"
