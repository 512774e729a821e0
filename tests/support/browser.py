"""Headless Chromium over its DevTools protocol, for pages that lie in a folder: what they load, log, show and measure.

Skips where there is no Chromium. It speaks the protocol through aiohttp, which is there because DVC needs it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-default-apps", "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip  # a table
WAIT = 20.0  # seconds for any one thing; a test fails rather than hangs


def find_chromium() -> str:
    """Its path; skips the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on the PATH")
    pytest.importorskip("aiohttp")
    return found


@dataclass
class Seen:
    """What happened while a page was open. seconds: from the order to open it until its load event."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Tab:
    """One page of the browser."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.number, self.seen = socket, 0, Seen()
        self.loaded = False

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command's result; what arrives before it is noted."""
        self.number += 1
        number = self.number
        await self.socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await asyncio.wait_for(self.socket.receive_json(), WAIT)
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            self.seen.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.seen.errors.append(str(details.get("exception", {}).get("description") or details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.seen.errors.append(str([one.get("value") for one in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.seen.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def open(self, page: Path, fragment: str = "") -> Seen:
        self.seen, self.loaded = Seen(), False
        start = time.monotonic()
        await self.send("Page.navigate", url=page.resolve().as_uri() + fragment)
        while not self.loaded:
            assert time.monotonic() - start < WAIT, f"{page.name}: not loaded after {WAIT} s"
            self._note(await asyncio.wait_for(self.socket.receive_json(), WAIT))
        self.seen.seconds = time.monotonic() - start
        return self.seen

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression gives; a promise is waited for."""
        found = await self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        start = time.monotonic()
        while not await self.value(expression):
            assert time.monotonic() - start < WAIT, f"never true: {expression}"
            await asyncio.sleep(0.02)

    async def press(self, key: str) -> None:
        """A key of the keyboard, as a person presses it."""
        codes = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, "Enter": 13, "Tab": 9}
        facts = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        down = {"type": "keyDown", "text": "\r"} if key == "Enter" else {"type": "rawKeyDown"}  # text: it types too
        await self.send("Input.dispatchKeyEvent", **down, **facts)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **facts)

    async def view(self, width: int, height: int, dark: bool = False) -> None:
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])

    async def picture(self, path: Path, whole: bool = False) -> None:
        found = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[str]:
    """A running browser with a profile of its own below `folder`; gives the address of its DevTools."""
    log = folder / "chromium.log"
    with log.open("wb") as errors:
        command = [find_chromium(), *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
    try:
        start, found = time.monotonic(), None
        while found is None:
            assert process.poll() is None, f"Chromium ended by itself: {log.read_text(errors='replace')[-500:]}"
            assert time.monotonic() - start < WAIT, "Chromium did not say where its DevTools listen"
            time.sleep(0.05)
            found = re.search(r"DevTools listening on ws://([^/\s]+)/", log.read_text(errors="replace"))
        yield found[1]
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@contextlib.asynccontextmanager
async def tab(address: str) -> AsyncIterator[Tab]:
    """A page that notes what it loads and logs."""
    import aiohttp

    async with aiohttp.ClientSession() as session:
        async with session.put(f"http://{address}/json/new?about:blank") as answer:
            target = await answer.json()
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            page = Tab(socket)
            for domain in ("Page", "Runtime", "Log", "Network"):
                await page.send(f"{domain}.enable")
            yield page
