"""The report in headless Chromium: what a reader's browser makes of it. Skips where there is no Chromium."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Tab, chromium, tab
from fake_store import FACTS, make_suite, write_run, write_store

from concord.benchmarks.store.run import Store
from concord.data.request import Conditions
from concord.reports.site.html import write_report

MANY = 10_000
SECONDS = 2.0
EVIL = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'
RESULTS = "document.querySelector('#results')"
FIRST = f"{RESULTS}.tBodies[0].rows[0].cells[0].textContent.trim()"
WHERE = "document.querySelector('[data-part=where]').textContent"
NEAR = "document.getElementById('viewer').scrollIntoView()"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chromium(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = write_store(tmp_path_factory.mktemp("results") / "embedded", n=70)
    mask = np.zeros((16, 16), np.int64)
    mask[4:12, 4:12] = 1
    given = {f"{27000 + i}-0": Conditions(text=f"{EVIL} {i}", mask=mask) for i in range(70)}
    write_report([make_suite()], store, "embedded", {"face-generation": given}, FACTS)
    return store.root / "report"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("large") / "embedded"
    for row in ("composable", "collaborative", "ground-truth"):
        write_run(root, row, n=MANY, images=False)
    write_report([make_suite(grid=0)], Store(root), "embedded", None, FACTS)
    return root / "report"


def visit(browser: str, script: Callable[[Tab], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with tab(browser) as page:
            return await script(page)

    return asyncio.run(run())


def test_every_page_loads_without_errors_or_requests_elsewhere_and_fits_a_phone(browser: str, folder: Path) -> None:
    async def script(page: Tab) -> None:
        for width in (1280, 390):
            await page.view(width, 844, dark=width == 390)
            for path in sorted(folder.glob("*.html")):
                seen = await page.open(path)
                assert seen.errors == [], path.name
                assert seen.requests, path.name
                outside = [url for url in seen.requests if not url.startswith((f"{folder.as_uri()}/", "data:"))]
                assert outside == [], path.name
                # not innerWidth: a phone's window grows with what does not fit
                wide = await page.value(f"document.documentElement.scrollWidth - {width}")
                assert wide <= 0, f"{path.name} is {wide} pixels wider than {width}"

    visit(browser, script)


def test_a_table_sorts_by_keyboard_and_says_so(browser: str, folder: Path) -> None:
    async def script(page: Tab) -> list[tuple[str, str]]:
        await page.open(folder / "face-generation.html")
        head = f"[...{RESULTS}.tHead.rows[0].cells].find(cell => cell.textContent.includes('Mask'))"
        found = []
        for _ in range(2):
            await page.value(f"{head}.querySelector('button').focus()")
            await page.press("Enter")
            found.append((await page.value(f"{head}.getAttribute('aria-sort')"), await page.value(FIRST)))
        return found

    best, worst = visit(browser, script)
    assert best == ("descending", "Collaborative Diffusion")  # the first click shows the best first
    assert worst[0] == "ascending"
    assert worst[1].startswith("Text only")


def test_the_viewer_steps_by_score(browser: str, folder: Path) -> None:
    async def script(page: Tab) -> None:
        await page.view(1280, 900)
        seen = await page.open(folder / "face-generation.html")
        await page.value(NEAR)
        await page.until(f"{WHERE}.startsWith('1 of 70')")
        first = await page.value(WHERE)
        assert "alert" in await page.value("document.querySelector('[data-part=caption]').textContent")  # as text
        await page.press("ArrowRight")
        await page.until(f"{WHERE}.startsWith('2 of 70')")
        await page.press("ArrowLeft")
        assert await page.value(WHERE) == first
        await page.value(
            "for (const [part, value] of [['metric', 'mask-accuracy'], ['mode', 'disagreement']]) {"
            " const menu = document.querySelector(`[data-part=${part}]`); menu.value = value;"
            " menu.dispatchEvent(new Event('change')); }"
        )
        assert "Collaborative Diffusion" in await page.value(WHERE)
        assert "Composable" in await page.value(WHERE)
        pictures = "[...document.querySelectorAll('#viewer canvas')]"
        painted = f"{pictures}.every(one => one.getAttribute('aria-label') && one.width >= 64)"
        assert await page.value(painted)
        assert await page.value(f"{pictures}.length") == 5  # mask, three methods, ground truth
        assert seen.errors == []

    visit(browser, script)


def test_ten_thousand_samples_open_in_two_seconds(browser: str, large: Path) -> None:
    async def script(page: Tab) -> tuple[float, float]:
        seen = await page.open(large / "face-generation.html")
        assert not any(
            url.endswith("viewer.js") and "assets" not in url for url in seen.requests
        )  # not before it is near
        start = await page.value("performance.now()")
        await page.value(NEAR)
        await page.until(f"{WHERE}.startsWith('1 of {MANY}')")
        return seen.seconds, (await page.value("performance.now()") - start) / 1000

    page, viewer = visit(browser, script)
    print(f"10,000 samples: page {page:.2f} s, viewer {viewer:.2f} s")
    assert page < SECONDS
    assert viewer < SECONDS
