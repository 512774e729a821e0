"""The report's parts without a browser: claims, colours, the viewer's data and scripts, pages of methods and papers."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fake_store import FACTS, LEVELS, make_suite, write_run, write_store
from PIL import Image

import concord.benchmarks.settings
from concord.benchmarks.store.run import Store
from concord.data.conditions.drawing import LINES
from concord.data.conditions.layout import INTERACTION, LayoutCondition
from concord.data.conditions.masked_image import MaskedImage
from concord.data.datasets.layouts.layout import Layout
from concord.data.labels import PALETTE
from concord.data.request import Conditions
from concord.reports.figures import grid as figures
from concord.reports.figures import plots
from concord.reports.site.claims import claims_of, tally
from concord.reports.site.facts import machine_facts, runs_of, weights_of
from concord.reports.site.files import script_json
from concord.reports.site.html import TEMPLATES, judge_parts, write_report
from concord.reports.site.methods import draw_histories, method_pages
from concord.reports.site.tiles import SHEET, Sheets, conditions_drawn
from concord.reports.tables.table import Cell, Column, Cost, Table
from concord.reports.tables.table import Row as TableRow

EVIL = '</script><!--<script>alert("x")</script>\u2028 ünïcödé 顔 & $math$'


def given(n: int) -> dict[str, Conditions]:
    mask = np.zeros((16, 16), np.int64)
    mask[4:12, 4:12] = 1
    return {f"{27000 + i}-0": Conditions(text=EVIL if i == 0 else f"caption {i}", mask=mask) for i in range(n)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = write_store(tmp_path_factory.mktemp("results") / "embedded", n=70)
    write_report([make_suite()], store, "embedded", {"face-generation": given(70)}, FACTS)
    return store


@pytest.fixture(scope="module")
def folder(store: Store) -> Path:
    return store.root / "report"


def viewer_data(folder: Path, suite: str = "face-generation") -> dict[str, object]:
    text = (folder / suite / "viewer.js").read_text(encoding="ascii")
    assert text.startswith("concordViewer.receive(")
    assert "<" not in text
    found = json.loads(text.removeprefix("concordViewer.receive(").removesuffix(");\n"))
    assert isinstance(found, dict)
    return found


# ------------------------------------------------------------------------------------------------------------ escaping


def test_no_caption_can_leave_a_script() -> None:
    for text in (EVIL, "</SCRIPT >", "<!--", "]]>", "\u2029"):
        packed = script_json({"text": text})
        assert "<" not in packed
        assert packed.isascii()
        assert json.loads(packed) == {"text": text}


def test_every_page_links_to_files_that_are_there(folder: Path) -> None:
    pages = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.html")}
    alone = "collaborative-diffusion-table-a4.html"
    assert {"index.html", "methods.html", "papers.html", "method-collaborative.html", alone} <= set(pages)
    for name, text in pages.items():
        assert not re.search(r"(?:src|<link[^>]*href)=\"(?:https?:)?//", text), name
        for target in re.findall(r"(?:src|href|data-source)=\"([^\"]*)\"", text):
            if target.startswith(("data:", "https://arxiv.org/")):  # arXiv: a link that is followed by a click alone
                continue
            file, _, anchor = target.partition("#")
            assert not file or (folder / file).is_file(), f"{name} -> {target}"
            if anchor:
                there = pages[file] if file else text
                assert f'id="{anchor}"' in there, f"{name} -> {target}"
    for path in (folder / "assets").iterdir():
        assert not re.search(r"https?://|@import|url\(", path.read_text(encoding="utf-8")), path.name


def test_headings_never_skip_a_level_and_controls_have_names(folder: Path) -> None:
    for path in folder.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        levels = [int(level) for level in re.findall(r"<h([1-6])", text)]
        assert levels.count(1) == 1, path.name
        assert all(after <= before + 1 for before, after in pairwise(levels)), path.name
        for landmark in ("<main ", "<header>", "<footer>", '<a class="skip" href="#content">'):
            assert landmark in text, path.name
        for menu in re.findall(r"<select[^>]*>", text):
            assert re.search(r"<label>[^<]*" + re.escape(menu), text), menu
        assert "onclick=" not in text


# -------------------------------------------------------------------------------------------------------------- colours


def luminance(colour: str) -> float:
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """WCAG 2.2's ratio, 1 to 21."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_known() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_ink_is_readable_on_its_ground(scheme: int) -> None:
    blocks = re.findall(r":root \{([^}]*)\}", (TEMPLATES / "report.css").read_text(encoding="utf-8"))
    assert len(blocks) == 2
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[scheme]))
    for ink in ("ink", "faint", "accent", "best", "loud", "warn"):
        for ground in ("paper", "raised"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for kind in ("best", "loud", "warn"):
        assert contrast(colours[kind], colours[f"{kind}-back"]) >= 4.5, kind
    for ink in ("faint", "accent"):  # interval and paper value in a marked cell
        assert contrast(colours[ink], colours["best-back"]) >= 4.5, ink
    for ground in ("paper", "raised"):  # the edge of a control is no text
        assert contrast(colours["edge"], colours[ground]) >= 3, ground


def test_plots_change_their_colours_in_the_dark(folder: Path) -> None:
    text = (folder / "face-generation/influence-mean.svg").read_text(encoding="utf-8")
    assert "prefers-color-scheme:dark" in text
    body = text.partition("</style>")[2]
    assert not re.search(r"#(?:1c2128|ffffff|3b6fd4)", body)
    assert "var(--line0)" in body
    dark = "#14181d"
    for colour, (name, other) in figures.SCHEME.items():
        if name in ("ink", "faint"):
            assert min(contrast(colour, "#ffffff"), contrast(other, dark)) >= 4.5, name
        if name.startswith("line"):  # lines and points
            assert min(contrast(colour, "#ffffff"), contrast(other, dark)) >= 3, name


# -------------------------------------------------------------------------------------------------------------- claims


def test_claims_are_what_the_tests_say_of_the_papers_order(store: Store) -> None:
    (page,) = write_report([make_suite()], store, "embedded", {"face-generation": given(70)}, FACTS)
    claims = {claim.metric: claim for claim in claims_of([page])}
    assert set(claims) == {"FID", "Text (%)", "Mask (%)"}  # joint success is in no paper
    mask = claims["Mask (%)"]
    assert mask.sentence == "Collaborative Diffusion beats Composable on Mask (%)"
    assert mask.verdict == "holds"
    assert mask.p_text == "p < 0.001"
    assert mask.difference.startswith("+")  # the winner's less the loser's
    assert mask.paper_difference == "+4.14"  # 80.25 less 76.11
    assert claims["Text (%)"].verdict == "equivalent"  # equal rows, whose interval lies inside half a point
    assert claims["FID"].difference.startswith("-")  # lower is better, and the winner is lower
    counted = {verdict: count for verdict, count, _ in tally(list(claims.values()))}
    assert counted == {"holds": 2, "reversed": 0, "equivalent": 1, "cannot tell": 0}
    assert {claim.family for claim in claims.values()} == {"claims"}  # the paper's own row against its baseline
    assert claims["Text (%)"].n_needed == ""
    index = (store.root / "report/index.html").read_text(encoding="utf-8")
    assert "Collaborative Diffusion beats Composable on Mask (%)" in index


def test_a_refused_table_claims_nothing_and_has_no_viewer(tmp_path: Path) -> None:
    store = write_store(tmp_path / "embedded", n=8)
    write_run(store.root, "composable", n=6)
    (page,) = write_report([make_suite(grid=0)], store, "embedded", None, FACTS)
    assert page.table.refusal
    assert claims_of([page]) == []
    assert page.viewer is None


# ------------------------------------------------------------------------------------------------------ what was run


def test_the_overview_says_machine_time_and_weights(store: Store, folder: Path) -> None:
    runs = runs_of([make_suite()], store)
    assert {run.row for run in runs} == set(LEVELS)
    facts = machine_facts(runs)
    assert facts["Commit"] == "e" * 40
    assert facts["Device"] == "cpu"
    assert facts["Images made"]
    weights = {(one.name, one.role): one for one in weights_of(runs)}
    assert weights["text-unet", "makes images"].sha256 == "d" * 64
    assert weights["parser", "scores"].rows == [run.row for run in runs]
    text = (folder / "index.html").read_text(encoding="utf-8")
    for needed in ("e" * 40, "a" * 64, "d" * 64):
        assert needed in text
    assert machine_facts([]) == {}


def test_a_method_page_has_parameters_citation_and_rows(folder: Path) -> None:
    text = " ".join((folder / "method-collaborative.html").read_text(encoding="utf-8").split())
    for needed in (
        "Collaborative Diffusion",
        "preset paper",
        "<dt>steps</dt><dd><code>50</code>",
        "2304.10530",
        'href="face-generation.html"',
        "<dt>text-unet</dt><dd>50</dd>",
    ):
        assert needed in text, needed


def test_a_method_page_draws_its_history_where_the_baseline_has_one(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from concord.reports.compare import git as compare_git
    from concord.reports.compare import history

    def read(root: Path, profile: str, row: str, last: int) -> SimpleNamespace:
        return SimpleNamespace(lines=[SimpleNamespace(points=[1] * (2 if row == "composable" else 1))])

    (page,) = write_report([make_suite()], store, "embedded", {"face-generation": given(70)}, FACTS)
    monkeypatch.setattr(
        compare_git, "commits_of", lambda root, path: [SimpleNamespace(sha="a"), SimpleNamespace(sha="b")]
    )
    monkeypatch.setattr(history, "read_history", read)
    methods = method_pages([page])
    draw_histories(methods, store, "embedded", tmp_path)
    assert all(method.history is None for method in methods)  # results of another place than the checkout's
    monkeypatch.setattr(concord.benchmarks.settings, "ROOT", store.root.parents[1])
    monkeypatch.setattr(store, "root", store.root.parents[1] / "results/embedded")
    monkeypatch.setattr(history, "draw", lambda found, path: _blank_picture(path))
    draw_histories(methods, store, "embedded", tmp_path)
    assert {method.name: bool(method.history) for method in methods} == {
        "text-only": False,
        "composable": True,
        "collaborative": False,  # one commit alone is no history
    }


def _blank_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (900, 600)).save(path)


def test_every_table_of_the_papers_is_listed(folder: Path) -> None:
    from concord.reports.published import load_paper, paper_names

    text = (folder / "papers.html").read_text(encoding="utf-8")
    for name in paper_names():
        paper = load_paper(name)
        assert text.count('scope="row"') >= len(paper.tables)
        assert paper.url in text
    assert "124.62" in (folder / "face-generation.html").read_text(encoding="utf-8")
    assert "403.6" in (folder / "collaborative-diffusion-table-a4.html").read_text(encoding="utf-8")


def test_judges_show_single_numbers_and_groups_apart() -> None:
    n, single, groups = judge_parts(
        {"name": "j", "held_out": {"pixel_accuracy": 0.97961, "n": 1000, "iou": {"l_eye": 0.5}}}
    )
    assert (n, single, groups) == ("1000", {"pixel accuracy": "0.9796"}, {"iou": {"l eye": "0.5"}})
    assert judge_parts({"name": "j"}) == ("", {}, {})


# -------------------------------------------------------------------------------------------------------- the viewer


def test_the_viewer_has_every_score_caption_and_picture(store: Store, folder: Path) -> None:
    data = viewer_data(folder)
    run = store.run("face-generation", "composable")
    assert data["ids"] == run.ids
    assert data["texts"][0] == EVIL
    assert [one["name"] for one in data["columns"]] == ["text-only", "composable", "collaborative", "ground-truth"]
    scores = run.scores()
    expected = scores[scores["metric"] == "mask-accuracy"].set_index("request").loc[run.ids, "value"].to_numpy()
    found = np.frombuffer(base64.b64decode(data["scores"]["composable"]["mask-accuracy"]), "<f4")
    assert np.array_equal(found, expected.astype(np.float32))
    assert "joint-success" in data["scores"]["composable"]


def test_a_sheet_has_each_requests_picture_at_its_place(store: Store, folder: Path) -> None:
    data = viewer_data(folder)
    column = next(one for one in data["columns"] if one["name"] == "collaborative")["tiles"]
    assert (len(column["files"]), column["size"]) == (2, 16)  # 70 requests, 64 a sheet
    images = [image for _, image in store.run("face-generation", "collaborative").images()]
    for index in (0, 9, 63, 64, 69):
        sheet = np.asarray(Image.open(folder / column["files"][index // SHEET]).convert("RGB")).astype(int)
        row, place = divmod(index % SHEET, 8)
        tile = sheet[row * 16 : row * 16 + 16, place * 16 : place * 16 + 16]
        errors = [np.abs(tile - image).mean() for image in images]
        assert int(np.argmin(errors)) == index
    mask = next(one for one in data["given"] if one["name"] == "mask")["tiles"]
    assert mask["exact"]
    sheet = np.asarray(Image.open(folder / mask["files"][0]).convert("RGB"))
    assert {tuple(colour) for colour in sheet.reshape(-1, 3)} == {tuple(PALETTE[0]), tuple(PALETTE[1])}


def test_sheets_are_drawn_once_and_again_when_images_change(tmp_path: Path) -> None:
    root = tmp_path / "embedded"
    write_run(root, "composable", n=3)
    sheets = Sheets(tmp_path, "face-generation")
    run = Store(root).run("face-generation", "composable")
    assert not conditions_drawn(tmp_path, run, ["mask"])
    assert sheets.of_condition("mask", run, given(3).items(), None) is not None
    assert conditions_drawn(tmp_path, run, ["mask"])
    assert not conditions_drawn(tmp_path, run, ["text", "mask"])  # the captions of all requests are not kept yet
    tiles = sheets.of_run(run)
    assert tiles is not None
    file = tmp_path / tiles.files[0]
    before = file.stat().st_mtime_ns
    assert Sheets(tmp_path, "face-generation").of_run(run) == tiles
    assert file.stat().st_mtime_ns == before
    write_run(root, "composable", n=2)
    changed = Store(root).run("face-generation", "composable")
    assert Sheets(tmp_path, "face-generation").of_run(changed) is not None
    assert file.stat().st_mtime_ns > before
    assert not conditions_drawn(tmp_path, changed, ["mask"])  # of other requests


def test_one_sample_has_a_whole_report(tmp_path: Path) -> None:
    store = write_store(tmp_path / "embedded", n=1, refused=["fid"])
    (page,) = write_report([make_suite()], store, "embedded", {"face-generation": given(1)}, FACTS)
    assert page.viewer is not None
    assert page.viewer.n == 1
    assert len(viewer_data(store.root / "report")["ids"]) == 1


def test_ten_thousand_samples_stay_small(tmp_path: Path) -> None:
    root = tmp_path / "embedded"
    for row in ("composable", "collaborative", "ground-truth"):
        write_run(root, row, n=10_000, images=False)
    (page,) = write_report([make_suite(grid=0)], Store(root), "embedded", None, FACTS)
    assert page.table.n == 10_000
    assert (root / "report/face-generation.html").stat().st_size < 100_000
    assert (root / "report/face-generation/viewer.js").stat().st_size < 1_000_000
    data = viewer_data(root / "report")
    assert len(data["ids"]) == 10_000
    assert all(column["tiles"] is None for column in data["columns"])  # the store has no images of them


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("no Node.js: the viewer's functions run outside a browser there")
    return found


def in_node(node: str, script: str) -> object:
    code = f"const table = require({json.dumps(str(TEMPLATES / 'table.js'))});" + (
        f"const viewer = require({json.dumps(str(TEMPLATES / 'viewer.js'))});"
        f"process.stdout.write(JSON.stringify((() => {{ {script} }})()))"
    )
    done = subprocess.run([node, "-e", code], capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def test_the_viewer_orders_as_it_says(node: str) -> None:
    values, others = [3.0, 1.0, None, 2.0, 1.0], [3.0, 5.0, 0.0, 2.5, 0.0]
    script = (
        f"const v = {json.dumps(values)}.map(x => x ?? NaN), o = {json.dumps(others)};"
        "return ['worst', 'best', 'median', 'disagreement', 'order'].map(m => [viewer.orderSamples(m, v, o, true),"
        " viewer.orderSamples(m, v, o, false)])"
    )
    worst, best, median, disagreement, order = in_node(node, script)
    assert worst == [[1, 4, 3, 0], [0, 3, 1, 4]]  # equal scores in the order of the requests; no value: left out
    assert best == [[0, 3, 1, 4], [1, 4, 3, 0]]
    assert median == [[1, 4, 3, 0]] * 2  # the lower of the two in the middle is 1
    assert disagreement == [[1, 4, 3, 0]] * 2  # |1 - 5|, |1 - 0|, |2 - 2.5|, |3 - 3|
    assert order == [[0, 1, 2, 3, 4]] * 2


def test_scores_come_back_from_base64(node: str) -> None:
    values = np.array([0.1, -2.5, 1e6, 0.0], "<f4")
    text = base64.b64encode(values.tobytes()).decode()
    assert in_node(node, f"return [...viewer.decodeScores('{text}')]") == pytest.approx([float(v) for v in values])


def test_cells_without_a_value_stay_last_in_both_directions(node: str) -> None:
    script = (
        "return [true, false].map(up => [2, NaN, 1, null].sort((a, b) => table.compareValues(a, b, up))"
        ".map(x => Number.isNaN(x) ? null : x))"
    )
    assert in_node(node, script) == [[1, 2, None, None], [2, 1, None, None]]


# ------------------------------------------------------------------------------------------------------------ figures


def test_the_front_is_what_nothing_beats_in_both() -> None:
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 9.0), (3.0, 9.0), (0.5, 1.0)]
    assert plots.front(points, higher_is_better=True) == [4, 0, 2]
    assert plots.front(points, higher_is_better=False) == [4]


def row(name: str, steps: float, value: float | None, seconds: float | None = 1.0) -> TableRow:
    cells = {"m": Cell(value, (value or 0) - 1, (value or 0) + 1)}
    return TableRow(
        name,
        name,
        "method",
        cells,
        n=4,
        cost=Cost(seconds),
        method="x",
        params={"preset": "paper", "guidance": {"s": steps}},
    )


def table(rows: list[TableRow]) -> Table:
    return Table("toys", "Toys", "embedded", [Column("m", "M $x$", True)], rows)


def test_rows_that_differ_in_one_number_make_a_curve(tmp_path: Path) -> None:
    (sweep,) = plots.sweeps(table([row("c", 3, 1.0), row("a", 1, 2.0), row("b", 2, 3.0)]))
    assert (sweep.parameter, [x for x, _ in sweep.points]) == ("guidance.s", [1, 2, 3])
    assert plots.sweeps(table([row("a", 1, 2.0), row("b", 2, 3.0)])) == []  # two values are rows of a table
    found = plots.drawings("toys", table([row("c", 3, 1.0), row("a", 1, 2.0), row("b", 2, None)]))
    assert [drawing.file for drawing in found] == ["toys/pareto.png", "toys/sweep-x-guidance.s.png"]
    for drawing in found:
        drawing.draw(tmp_path / drawing.file)
        assert (tmp_path / drawing.file).is_file()
        assert (tmp_path / drawing.file).with_suffix(".svg").is_file()


def test_without_seconds_or_rivals_there_is_no_pareto_plot() -> None:
    assert plots.drawings("toys", table([row("a", 1, 2.0)])) == []
    assert plots.drawings("toys", table([row("a", 1, 2.0, None), row("b", 1, 2.0, None)])) == []


def test_boxes_carry_their_labels() -> None:
    layout = Layout.of("two", [[0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 1.0, 1.0]], ["a red bird", "a blue cat"])
    picture = LayoutCondition.draw(layout, None, 160)
    assert picture.shape == (160, 160, 3)
    for colour, (x, y) in zip(LINES, ((0.5, 0.3), (0.6, 0.9)), strict=False):
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        near = picture[round(y * 159), round(x * 159) - 2 : round(x * 159) + 3]
        assert (near == wanted).all(axis=1).any()


def colour_of(name: str) -> np.ndarray:
    return np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)])


def test_interactions_are_arrows_from_subject_to_object() -> None:
    boxes, labels = [[0.0, 0.4, 0.3, 0.6], [0.7, 0.4, 1.0, 0.6]], ["a red bird", "a blue cat"]
    plain = LayoutCondition.draw(Layout.of("two", boxes, labels), None, 320)
    drawn = LayoutCondition.draw(Layout.of("two", boxes, labels, "", [(0, "holding", 1)]), None, 320)
    violet = (drawn == colour_of(INTERACTION)).all(axis=2)
    assert not (plain == colour_of(INTERACTION)).all(axis=2).any()
    columns = np.flatnonzero(violet[:156].any(axis=0) | violet[165:].any(axis=0))
    tip, tail = violet[:, 245:271].sum(), violet[:, 48:74].sum()  # the head is at the object's end
    assert tip > 1.5 * tail > 0, (tip, tail)
    assert columns.size


def test_boxes_lie_over_the_images(tmp_path: Path) -> None:
    layout = Layout.of("one", [[0.25, 0.25, 0.75, 0.75]], ["a red bird"])
    picture = np.full((64, 64, 3), 120, np.uint8)
    drawn = LayoutCondition.overlay(layout, picture, 160)
    assert drawn.shape == (160, 160, 3)
    edge = round(0.25 * 159)
    assert (drawn[80, edge] == colour_of(LINES[0])).all()
    assert (drawn[80, 80] == 120).all()
    assert (picture == 120).all()


def test_single_levels_have_no_panel() -> None:
    def columns(*names: str) -> list[Column]:
        return [Column(name, name, True) for name in names]

    found = Table("x", "X", "embedded", columns("success@L2", "success@L6", "success@avg", "joint"), [])
    assert [column.name for column in plots.overall(found)] == ["success@avg", "joint"]


def test_unknown_pixels_of_a_masked_image_look_like_no_photograph() -> None:
    picture = np.full((8, 8, 3), 50, np.uint8)
    known = np.zeros((8, 8), bool)
    known[:, :4] = True
    drawn = MaskedImage.draw((picture, known), None, 64)
    assert (drawn[:, :4] == 50).all()
    assert set(np.unique(drawn[:, 4:])) == {205, 235}


def test_an_identity_vector_is_no_picture() -> None:
    assert figures.condition_image("identity", Conditions(identity=np.zeros(8, np.float32)), None, 64) is None
