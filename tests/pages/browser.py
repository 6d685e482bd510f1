"""A headless Chromium, driven by the DevTools protocol over two pipes; needs nothing but itself."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_READ, _WRITE = 3, 4
"""Where `--remote-debugging-pipe` reads commands and writes what happens."""


def find_browser() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path is not None), None)


class PageGoneError(Exception):
    """Another page came while this one was asked."""


class Page:
    """The one tab of a browser; `events` are all that it reported."""

    def __init__(self, commands: Any, answers: Any) -> None:
        self._commands, self._answers = commands, answers
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        (target,) = [
            one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page"
        ]
        attached = {"targetId": target["targetId"], "flatten": True}
        self._session = self.call("Target.attachToTarget", **attached)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            command["sessionId"] = self._session
        self._commands.write(json.dumps(command).encode() + b"\0")
        self._commands.flush()
        while (said := self._next()).get("id") != self._number:
            self.events.append(said)
        problem = said.get("error", {}).get("message", "")
        if "navigated or closed" in problem:
            raise PageGoneError(method)
        assert not problem, f"{method}: {problem}"
        found: dict[str, Any] = said["result"]
        return found

    def open(self, address: str, *, width_px: int = 1400, dark: bool = False) -> None:
        """Load a page and wait until it is there."""
        size = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": width_px < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        loaded = len(self.events)
        self.call("Page.navigate", url=address)
        while not any(one.get("method") == "Page.loadEventFired" for one in self.events[loaded:]):
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript, awaited."""
        asked = {"expression": script, "returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", userGesture=True, **asked)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Until an expression is true, at most ten seconds."""
        until, found = time.monotonic() + 10, False
        while not found:
            assert time.monotonic() < until, script
            with suppress(PageGoneError):  # a click led away while the old page was asked
                found = bool(self.run(script))

    def press(self, key: str) -> None:
        code, number, text = _KEYS[key]
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            named = {"key": key, "code": code, "windowsVirtualKeyCode": number}
            self.call("Input.dispatchKeyEvent", type=kind, **named, **typed)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def requests(self) -> list[str]:
        """Addresses of all that was asked for, but what lies in the page."""
        asked = [one for one in self.events if one.get("method") == "Network.requestWillBeSent"]
        found = [one["params"]["request"]["url"] for one in asked]
        return [address for address in found if not address.startswith("data:")]

    def complaints(self) -> list[str]:
        """What the console said, exceptions among it."""
        kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [json.dumps(one["params"]) for one in self.events if one.get("method") in kinds]

    def _next(self) -> dict[str, Any]:
        said = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser ended"
            said += byte
        found: dict[str, Any] = json.loads(said)
        return found


_KEYS = {
    "Enter": ("Enter", 13, "\r"),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "Escape": ("Escape", 27, ""),
}
"""Code, number and text of each key that is pressed."""


@contextmanager
def browsing(folder: Path) -> Iterator[Page]:
    """A page of a new browser, whose profile lies in a folder."""
    browser = find_browser()
    assert browser is not None
    commands, answers = os.pipe(), os.pipe()

    def as_it_wants() -> None:
        kept = [os.dup(commands[0]), os.dup(answers[1])]  # either may be 3 or 4 now
        os.dup2(kept[0], _READ)
        os.dup2(kept[1], _WRITE)

    process = subprocess.Popen(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--remote-debugging-pipe", f"--user-data-dir={folder}", "--hide-scrollbars"),
            *("--disable-dev-shm-usage", "--disable-background-networking", "about:blank"),
        ],
        pass_fds=(_READ, _WRITE),
        preexec_fn=as_it_wants,
        stderr=subprocess.DEVNULL,
    )
    os.close(commands[0])
    os.close(answers[1])
    try:
        with os.fdopen(commands[1], "wb") as into, os.fdopen(answers[0], "rb") as out:
            yield Page(into, out)
    finally:
        process.terminate()
        process.wait()
