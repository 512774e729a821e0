"""The report folder: whole, self-contained, escaped, and written from the store alone."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from fake_store import FACTS, LEVELS, make_suite, write_run, write_store
from typer.testing import CliRunner

from concord.benchmarks.store.digests import record
from concord.benchmarks.store.run import Store
from concord.benchmarks.suite import Row, load_suite
from concord.cli import app
from concord.data.datasets.layouts.layout import Layout
from concord.data.request import Conditions
from concord.reports.figures.conditions import keep_conditions, kept_conditions
from concord.reports.site.cards import method_cards
from concord.reports.site.html import Page, write_report
from concord.reports.site.samples import used_conditions

EVIL = '<script>alert("x")</script> & $math$ | ünïcödé 顔'
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Checker(HTMLParser):
    """Collects what a browser would load, and fails on tags that do not nest."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.scripts = 0
        self.images_without_alt = 0
        self.headers: list[dict[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("img", "script", "iframe", "source", "video", "audio", "embed") and given.get("src"):
            self.loads.append(str(given["src"]))
        if tag == "link" and given.get("href"):
            self.loads.append(str(given["href"]))
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if tag == "img" and not given.get("alt"):
            self.images_without_alt += 1
        if tag == "th":
            self.headers.append(given)
        self.scripts += tag == "script"

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def check(path: Path) -> Checker:
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    checker.close()
    assert checker.open == []
    return checker


def conditions(n: int = 3) -> dict[str, dict[str, Conditions]]:
    mask = np.zeros((16, 16), np.int64)
    mask[4:12, 4:12] = 1
    given = {f"{27000 + i}-0": Conditions(text=EVIL if i == 0 else "A man with a beard.", mask=mask) for i in range(n)}
    return {"face-generation": given}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("results") / "embedded")


@pytest.fixture(scope="module")
def folder(store: Store) -> Path:
    second = make_suite(name="influence-ablation", title="Ablation", requests="face-generation", table="table-2")
    write_report([make_suite(), second], store, "embedded", conditions(), FACTS)
    return store.root / "report"


PAGES = (
    "index.html",
    "face-generation.html",
    "influence-ablation.html",
    "methods.html",
    "method-collaborative.html",
    "papers.html",
    "methodology.html",
    "collaborative-diffusion-table-a4.html",
)


@pytest.mark.parametrize("name", PAGES)
def test_pages_parse_and_load_nothing_from_elsewhere(folder: Path, name: str) -> None:
    page = check(folder / name)
    assert page.loads
    for target in page.loads:
        assert target == "data:," or (folder / target).is_file(), target
    for target in page.links:
        if not target.startswith("https://arxiv.org/"):  # a link that is followed only when it is clicked
            assert (folder / target.partition("#")[0]).is_file() or target.startswith("#"), target
    text = (folder / name).read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|<base|fetch\(|XMLHttpRequest|<style| style=| on\w+=\"", text)
    assert page.images_without_alt == 0


def test_pages_are_usable_without_a_mouse_in_the_dark_and_on_a_phone(folder: Path) -> None:
    text = (folder / "face-generation.html").read_text(encoding="utf-8")
    page = check(folder / "face-generation.html")
    assert "assets/report.css" in text
    assert "prefers-color-scheme: dark" in (folder / "assets/report.css").read_text(encoding="utf-8")
    assert 'name="viewport"' in text
    assert '<html lang="en">' in text
    assert all(header.get("scope") in ("col", "row") for header in page.headers)
    results = text[text.index('id="results"') : text.index("</thead>")]
    assert results.count("aria-sort") == len(FACTS) + 6  # the headline, n, failures and three costs
    assert text.count('role="region"') == text.count('tabindex="0"')


def test_captions_are_shown_as_text_never_as_html(folder: Path) -> None:
    page = check(folder / "face-generation.html")
    assert page.scripts == 2  # sorting and viewer, both files
    assert EVIL in "".join(page.text)


def test_the_page_says_what_the_table_says(folder: Path) -> None:
    text = " ".join("".join(check(folder / "face-generation.html").text).split())
    for needed in (
        "paper: 80.25",
        "not yet",
        "n = 64 requests in every row",
        "never comparable with the paper's",
        "judge-parser",
        "Composable − Collaborative Diffusion",
        "is better",
        "cannot tell",
        "eeeeeeeeeeee",
        "steps",
    ):
        assert needed in text, needed
    assert "Mask (%): Collaborative Diffusion beats all others" in "".join(check(folder / "index.html").text)


def test_beside_the_pages_stand_the_tables_as_files(folder: Path) -> None:
    import pandas as pd

    csv, parquet = pd.read_csv(folder / "face-generation.csv"), pd.read_parquet(folder / "face-generation.parquet")
    assert csv["value"].to_numpy() == pytest.approx(parquet["value"].to_numpy(), nan_ok=True)
    markdown = (folder / "face-generation.md").read_text(encoding="utf-8")
    for target in re.findall(r"!\[[^]]*\]\(([^)]*)\)", markdown):
        assert (folder / target).is_file()
    assert "grid.png" in markdown
    assert "influence-collaborative.png" in markdown


def test_figures_are_drawn_again_only_when_something_changed(folder: Path, store: Store) -> None:
    grid, maps = folder / "face-generation/grid.png", folder / "face-generation/influence-collaborative.png"
    before = grid.stat().st_mtime_ns, maps.stat().st_mtime_ns
    write_report([make_suite()], store, "embedded", conditions(), FACTS)
    assert (grid.stat().st_mtime_ns, maps.stat().st_mtime_ns) == before
    other = conditions()
    other["face-generation"]["27001-0"] = Conditions(text="Another caption.")
    write_report([make_suite()], store, "embedded", other, FACTS)
    assert grid.stat().st_mtime_ns > before[0]


def test_without_conditions_the_grid_shows_images_alone(tmp_path: Path) -> None:
    store = write_store(tmp_path / "embedded", n=8)
    (page,) = write_report([make_suite()], store, "embedded", None, FACTS)
    assert [name for name, _ in page.sample_columns] == ["truth", "text-only", "composable", "collaborative"]
    assert "(no caption)" in "".join(check(store.root / "report/face-generation.html").text)


def test_two_images_are_said_loudly_before_the_table(tmp_path: Path) -> None:
    store = write_store(tmp_path / "embedded", n=2, refused=["fid"])
    write_report([make_suite()], store, "embedded", conditions(2), FACTS)
    text = (store.root / "report/face-generation.html").read_text(encoding="utf-8")
    assert text.index("n = 2: far too few images") < text.index("<table")
    assert "refused: n = 2, at least 65 needed" in text


def test_a_refused_table_still_has_its_page(tmp_path: Path) -> None:
    store = write_store(tmp_path / "embedded")
    write_run(store.root, "composable", n=32)
    (page,) = write_report([make_suite()], store, "embedded", conditions(), FACTS)
    assert page.table.refusal
    assert 'role="alert">REFUSED: unequal n' in (store.root / "report/face-generation.html").read_text(encoding="utf-8")


def test_ten_thousand_samples_are_no_heavier_than_ten(tmp_path: Path) -> None:
    root = tmp_path / "embedded"
    for row in ("composable", "collaborative", "ground-truth"):
        write_run(root, row, n=10_000, images=False)
    (page,) = write_report([make_suite(grid=0)], Store(root), "embedded", None, FACTS)
    assert page.table.n == 10_000
    assert (root / "report/face-generation.html").stat().st_size < 100_000


def test_conditions_are_kept_beside_the_report(tmp_path: Path) -> None:
    given = conditions()["face-generation"]
    keep_conditions(tmp_path, "face-generation", given)
    found = kept_conditions(tmp_path, "face-generation", ["27000-0", "27002-0"])
    assert list(found) == ["27000-0", "27002-0"]
    assert found["27000-0"].text == EVIL
    assert np.array_equal(found["27000-0"].mask, given["27000-0"].mask)
    assert kept_conditions(tmp_path, "face-generation", ["other"]) == {}
    assert kept_conditions(tmp_path, "other-set", ["27000-0"]) == {}


def test_pictured_conditions_are_kept_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = {name: rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for name in ("identity", "style")}
    boxes = [[0, 0, 0.5, 0.5], [0.5, 0, 1, 1]]
    given = {
        "1-0": Conditions(**pictures, landmarks=rng.random((68, 2)).astype(np.float32)),
        "2-0": Conditions(text="b"),
        "3-0": Conditions(layout=Layout.of("two", boxes, ["a red bird", "a cat"], interactions=[(1, "holding", 0)])),
    }
    keep_conditions(tmp_path, "set", given)
    found = kept_conditions(tmp_path, "set", ["1-0", "2-0", "3-0"])
    assert found["1-0"].names() == ("identity", "landmarks", "style")
    for name in found["1-0"].names():
        assert np.array_equal(getattr(found["1-0"], name), getattr(given["1-0"], name))
    assert found["2-0"].names() == ("text",)
    layout, wanted = found["3-0"].layout, given["3-0"].layout
    assert (layout.caption, layout.labels) == ("two", ("a red bird", "a cat"))
    assert np.array_equal(layout.boxes, wanted.boxes)
    assert layout.interactions == ((1, "holding", 0),)


def test_a_guided_suite_shows_its_own_conditions_and_curves(tmp_path: Path) -> None:
    root = tmp_path / "embedded"
    for row in ("ground-truth", "shuffled", "composable", "collaborative"):
        path = write_run(root, row, n=4)
    steps = np.arange(900, -1, -100)
    np.savez(
        path / "trace.npz",
        requests=np.array(["27000-0", "27001-0"]),
        **{
            "condition-loss": np.ones((2, 10, 2)),
            "condition-loss_steps": steps,
            "condition-loss_names": np.array(["identity", "landmarks"]),
            "gradient-cosine": np.zeros((2, 10, 1)),
            "gradient-cosine_steps": steps,
            "gradient-cosine_names": np.array(["identity|landmarks"]),
        },
    )
    record(path, ["trace.npz"])
    points = np.full((68, 2), 8.0, np.float32)
    given = Conditions(
        text="a caption",
        mask=np.zeros((16, 16), np.int64),
        landmarks=points,
        identity=np.full((16, 16, 3), 90, np.uint8),
    )
    suite = make_suite(
        conditions=["identity", "landmarks"],
        metrics=["fid"],
        joint=None,
        rows=[Row(name="composable", method="composable"), Row(name="collaborative", method="collaborative")],
    )
    (page,) = write_report([suite], Store(root), "embedded", {"face-generation": {"27000-0": given}}, FACTS)
    assert [name for name, _ in page.sample_columns][:3] == ["identity", "landmarks", "truth"]  # no mask: not asked for
    assert page.samples[0].text == ""
    assert {"identity", "landmarks"} <= set(page.samples[0].files)
    files = [figure.file for figure in page.figures]
    assert files[-2:] == ["face-generation/gradient-cosine.png", "face-generation/condition-loss.png"]
    assert all((root / "report" / file).is_file() for file in files)
    check(root / "report/face-generation.html")


def test_what_stands_is_said_only_when_it_stands(store: Store) -> None:
    from concord.reports.assemble import build_table

    page = Page("s", "S", build_table(make_suite(), store, "embedded", FACTS))
    assert any("beats all others" in text for text in page.standing)
    empty = Page("s", "S", build_table(make_suite(), Store(store.root / "none"), "embedded", FACTS))
    assert empty.standing == []


def test_method_cards_say_what_the_methods_say() -> None:
    """Read from the source, equal to the facts of the imported classes."""
    from concord.methods.base import all_methods

    cards = method_cards()
    for name, method in all_methods().items():
        assert cards[name].title == method.title
        assert cards[name].reference.endswith(method.paper)
        assert cards[name].reference.startswith(method.citation.rstrip("."))


def test_a_report_does_not_load_torch() -> None:
    code = (
        "import sys, concord.reports.site.html, concord.reports.compare.comparison, concord.commands.report;"
        "import concord.metrics.base; concord.metrics.base.all_metrics(); concord.reports.site.html.method_cards();"
        "sys.exit(any(name.partition('.')[0] in ('torch', 'matplotlib', 'diffusers') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------------------------------------ the command line


def call(*args: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, args)])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder as `concord run` leaves it, with the conditions of its grid kept."""
    root = tmp_path_factory.mktemp("results")
    write_store(root / "embedded", n=4)
    keep_conditions(root / "embedded/report", "face-generation", conditions(4)["face-generation"])
    return root


def test_report_writes_every_page_and_prints_the_tables(results: Path) -> None:
    found = call("--results", results)
    assert found.exit_code == 0, found.output
    assert "# Face generation from text and mask" in found.stdout
    assert "# Ablation of the influence functions" in found.stdout
    assert "n = 4: far too few images" in found.stdout
    assert found.stdout.rstrip().endswith("index.html")
    folder = results / "embedded/report"
    assert {"index.html", "face-generation.html", "influence-ablation.html"} <= {path.name for path in folder.iterdir()}
    assert "A man with a beard." in (folder / "face-generation.html").read_text(encoding="utf-8")  # the kept conditions


def test_report_prints_what_is_asked_for(results: Path) -> None:
    assert "Ablation" not in call("face-generation", "--results", results).stdout.splitlines()[0]
    assert "| Method" not in call("--results", results, "--quiet").stdout
    before = (results / "embedded/report/index.html").stat().st_mtime_ns
    shown = call("--results", results, "--where", "--suite", "influence-ablation")
    assert "# Ablation" in shown.stdout
    assert "# Face generation" not in shown.stdout
    assert (results / "embedded/report/index.html").stat().st_mtime_ns == before


def test_rows_that_no_suite_names_join_where_their_set_is_at_home(results: Path) -> None:
    write_run(results / "embedded", "composable+steps=10", n=4, levels=LEVELS["composable"])
    write_run(results / "embedded", "trial", n=3, levels=LEVELS["composable"])  # other requests: no table is refused
    found = call("--results", results)
    assert found.exit_code == 0, found.output
    generation, ablation = found.stdout.split("# Ablation of the influence functions")
    assert "| Composable+steps=10 |" in generation
    assert "+steps=10" not in ablation
    assert "Trial" not in generation


def test_report_of_a_variant_by_name(results: Path) -> None:
    write_store(results / "embedded" / "data-mine-0123abcd", n=2, refused=["fid"])
    found = call("--results", results, "--data-set", "mine")
    assert found.exit_code == 0, found.output
    assert "n = 2: far too few images" in found.stdout
    assert (results / "embedded/data-mine-0123abcd/report/index.html").is_file()
    wrong = call("--results", results, "--data-set", "none")
    assert wrong.exit_code == 2
    assert "expected one of data-mine-0123abcd" in wrong.stderr


def test_report_without_results_says_what_to_do(tmp_path: Path) -> None:
    found = call("--results", tmp_path)
    assert found.exit_code == 2
    assert "no results of amdm-steps or " in found.stderr
    assert "influence-ablation" in found.stderr
    assert "concord run amdm-steps" in found.stderr
    unknown = call("no-such-suite", "--results", tmp_path)
    assert unknown.exit_code == 2
    assert "face-generation" in unknown.stderr


def test_an_unequal_n_writes_the_pages_and_ends_with_two(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results / "embedded", tmp_path / "embedded")  # its figures with it: most are not drawn again
    for page in (tmp_path / "embedded/report").glob("*.html"):
        page.unlink()
    write_run(tmp_path / "embedded", "composable", n=2)
    found = call("--results", tmp_path)
    assert found.exit_code == 2
    assert "unequal n in one table" in found.stderr
    assert len(found.stderr.strip().splitlines()) <= 2
    assert (tmp_path / "embedded/report/face-generation.html").is_file()


@pytest.mark.parametrize(
    ("suite", "shown"),
    [
        ("joint-generation", []),  # its captions only choose the faces
        ("face-generation", ["text", "mask"]),
        ("mask-from-image", ["mask", "source_image"]),  # the mask is what is scored against
        ("amdm-steps", ["layout"]),
        ("coco-mig", ["layout", "style"]),
    ],
)
def test_only_conditions_that_somebody_uses_are_shown(suite: str, shown: list[str]) -> None:
    assert used_conditions(load_suite(suite)) == shown
