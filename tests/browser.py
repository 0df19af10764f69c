"""Chromium without a window, spoken to over a pipe by its DevTools protocol."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0
"""Seconds for any answer."""


def find_browser() -> str | None:
    """The path of a Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in a browser of its own, with a fresh profile in `folder`.

    troubles  errors and warnings of the console, uncaught exceptions, and what the policy of a page forbids
    requests  addresses of everything that was loaded, pictures in the page left out
    """

    def __init__(self, folder: Path):
        self.troubles: list[str] = []
        self.requests: list[str] = []
        self._number, self._session, self._buffer = 0, None, b""
        ours = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (*os.pipe(), *os.pipe())]
        flags = [
            "--headless",
            "--remote-debugging-pipe",
            f"--user-data-dir={folder}",
            "--disable-gpu",
            "--no-first-run",
        ]
        flags += ["--hide-scrollbars", "--disable-dev-shm-usage", "--disable-background-networking"]
        flags += ["--no-sandbox"] if os.getuid() == 0 else []
        # The browser reads commands from descriptor 3 and answers on 4.
        shell = ["bash", "-c", f'exec "$@" 3<&{ours[0]} 4>&{ours[3]}', "bash"]
        self._process = subprocess.Popen(
            [*shell, find_browser(), *flags], pass_fds=(ours[0], ours[3]), stderr=subprocess.DEVNULL
        )
        os.close(ours[0])
        os.close(ours[3])
        self._write, self._read = ours[1], ours[2]
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        """Sends a command and returns its result; what happens meanwhile is kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def open(self, address: str) -> None:
        """Loads a page and waits until it is drawn."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=address)
        deadline = time.monotonic() + PATIENCE
        while self.run("document.readyState") != "complete" or self.run("location.href") == "about:blank":
            assert time.monotonic() < deadline, f"{address} does not load"
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, script: str) -> object:
        """The value of an expression in the page, a promise's when it is kept."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Presses a key and lets it go."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Clicks the first element of a selector, at a share of its width and height."""
        script = (
            "(() => { const e = document.querySelector(SELECTOR); e.scrollIntoView({block: 'center'});"
            "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
        )
        place = self.run(script.replace("SELECTOR", json.dumps(selector)))
        at = {"x": place[0] + place[2] * x, "y": place[1] + place[3] * y, "button": "left", "clickCount": 1}
        for kind, buttons in (("mousePressed", 1), ("mouseReleased", 0)):
            self.call("Input.dispatchMouseEvent", type=kind, buttons=buttons, **at)

    def size(self, width: int, dark: bool = False) -> None:
        """Sets the width of the window and the scheme of colours."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def screenshot(self, path: Path) -> Path:
        """The whole page as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(data))
        return path

    def close(self) -> None:
        """Ends the browser."""
        self._process.terminate()
        self._process.wait(PATIENCE)
        os.close(self._write)
        os.close(self._read)

    def _receive(self) -> dict:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], PATIENCE)
            chunk = os.read(self._read, 1 << 20) if ready else b""
            assert chunk, "the browser does not answer"
            self._buffer += chunk
        text, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, event: dict) -> None:
        if method == "Runtime.exceptionThrown":
            self.troubles.append(str(event["exceptionDetails"].get("exception", event["exceptionDetails"])))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.troubles.append(str([argument.get("value") for argument in event["args"]]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.troubles.append(event["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not event["request"]["url"].startswith("data:"):
            self.requests.append(event["request"]["url"])
