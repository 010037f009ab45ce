"""A page before a headless Chromium, through the pipe of its DevTools protocol: what it asks for, what it complains of, what overlaps."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
]
_FLAGS += [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]
_LOOK = """(() => {
  document.querySelectorAll('details').forEach(each => each.open = true);
  const found = [], shown = e => e.getBoundingClientRect().height > 0;
  const crossed = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  for (const parent of [document.body, ...document.querySelectorAll('.grid, details, tr, .strip')]) {
    const children = [...parent.children].filter(shown);
    children.forEach((one, place) => children.slice(place + 1).forEach(other => {
      if (crossed(one.getBoundingClientRect(), other.getBoundingClientRect()))
        found.push(one.outerHTML.slice(0, 80) + ' over ' + other.outerHTML.slice(0, 80));
    }));
  }
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  return {overlaps: found, wide, opened: document.querySelectorAll('details').length, height: document.documentElement.scrollHeight};
})()"""


@dataclass
class Seen:
    """`wide`: px by which the page is wider than the window; `complaints`: of the console; `requests`: addresses that were asked for,
    but for the page's own and what it holds itself."""

    overlaps: list[str]
    wide: float
    details: int
    screenshot: bytes
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class Browser:
    def __init__(self, folder: Path) -> None:
        name = next(path for path in map(shutil.which, NAMES) if path)
        theirs, self._write = os.pipe()
        self._read, ours = os.pipe()

        def placed() -> None:  # the protocol wants them at 3 and 4
            high = [os.dup2(each, 100 + place) for place, each in enumerate((theirs, ours))]
            for place, each in enumerate(high):
                os.dup2(each, 3 + place)

        command = [name, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(
            command, preexec_fn=placed, close_fds=False, stderr=subprocess.DEVNULL
        )
        for each in (theirs, ours):
            os.close(each)
        self._numbers, self._buffer, self._events = itertools.count(1), b"", list[dict[str, Any]]()
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for part in ("Page", "Network", "Runtime", "Log"):
            self._ask(f"{part}.enable")

    def visit(self, place: Path | str, width: int) -> Seen:
        """A file, or an address."""
        self._events.clear()
        self._address = place.as_uri() if isinstance(place, Path) else place
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self._ask("Page.navigate", url=self._address)
        self._await("Page.loadEventFired")
        return self.look(width)

    def choose(self, selector: str, file: Path) -> None:
        """Puts a file into a field for files."""
        root = self._ask("DOM.getDocument")["root"]["nodeId"]
        node = self._ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._ask("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def press(self, selector: str) -> None:
        self._ask("Runtime.evaluate", expression=f"document.querySelector({selector!r}).click()")

    def wait_for(self, expression: str, seconds: float = 20) -> Any:
        """What it is as soon as it is something."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)[
                "result"
            ].get("value")
            if value:
                return value
            time.sleep(0.05)
        raise TimeoutError(expression)

    def look(self, width: int) -> Seen:
        """The page as it is now."""
        told = self._ask("Runtime.evaluate", expression=_LOOK, returnByValue=True)["result"][
            "value"
        ]
        clip = {"x": 0, "y": 0, "width": width, "height": told["height"], "scale": 1}
        image = self._ask(
            "Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True
        )["data"]
        seen = Seen(told["overlaps"], told["wide"], told["opened"], base64.b64decode(image))
        for event in self._events:
            self._note(event, seen)
        return seen

    def _note(self, event: dict[str, Any], seen: Seen) -> None:
        method, about = event.get("method"), event.get("params", {})
        if method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            seen.complaints.append(about["entry"]["text"])
        if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            seen.complaints.append(json.dumps(about)[:300])
        if method == "Network.requestWillBeSent":
            address = about["request"]["url"]
            if not address.startswith("data:") and address != self._address:
                seen.requests.append(address)

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        session = {"sessionId": self._session} if hasattr(self, "_session") else {}
        os.write(
            self._write,
            json.dumps({"id": number, "method": method, "params": params, **session}).encode()
            + b"\0",
        )
        while True:
            message = self._message()
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                found: dict[str, Any] = message["result"]
                return found
            self._events.append(message)

    def _await(self, method: str) -> None:
        while not any(event.get("method") == method for event in self._events):
            self._events.append(self._message())

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 16)
            if not part:
                raise RuntimeError("the browser is gone")
            self._buffer += part
        one, self._buffer = self._buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(one)
        return found

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        for each in (self._read, self._write):
            os.close(each)
