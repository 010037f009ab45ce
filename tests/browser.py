"""Open a page in headless Chromium over the pipe of its DevTools protocol.

Reports requests, console messages, overlapping elements and overflow.
"""

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
_INSPECT = """(() => {
  document.querySelectorAll('details').forEach(each => each.open = true);
  const overlaps = [], isVisible = e => e.getBoundingClientRect().height > 0;
  const crossed = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  for (const parent of [document.body, ...document.querySelectorAll('.grid, details, tr, .strip')]) {
    const children = [...parent.children].filter(isVisible);
    children.forEach((one, index) => children.slice(index + 1).forEach(other => {
      if (crossed(one.getBoundingClientRect(), other.getBoundingClientRect()))
        overlaps.push(one.outerHTML.slice(0, 80) + ' over ' + other.outerHTML.slice(0, 80));
    }));
  }
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  return {overlaps, wide, opened: document.querySelectorAll('details').length, height: document.documentElement.scrollHeight};
})()"""


@dataclass
class PageState:
    """What a page looks like and did.

    Attributes:
        overlaps: Pairs of elements that overlap.
        overflow: Pixels by which the page is wider than the window.
        details: Number of opened `details` elements.
        screenshot: PNG of the whole page.
        messages: Errors and warnings of the console.
        requests: Addresses that were requested, except that of the page and data URLs.
    """

    overlaps: list[str]
    overflow: float
    details: int
    screenshot: bytes
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class Browser:
    def __init__(self, folder: Path) -> None:
        name = next(path for path in map(shutil.which, NAMES) if path)
        child_read, self._write = os.pipe()
        self._read, child_write = os.pipe()

        def move_pipes() -> None:  # the protocol wants them at 3 and 4
            high_descriptors = [
                os.dup2(descriptor, 100 + index)
                for index, descriptor in enumerate((child_read, child_write))
            ]
            for index, descriptor in enumerate(high_descriptors):
                os.dup2(descriptor, 3 + index)

        command = [name, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(
            command, preexec_fn=move_pipes, close_fds=False, stderr=subprocess.DEVNULL
        )
        for descriptor in (child_read, child_write):
            os.close(descriptor)
        self._numbers, self._buffer, self._events = itertools.count(1), b"", list[dict[str, Any]]()
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for part in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{part}.enable")

    def visit(self, page: Path | str, width: int) -> PageState:
        """Open a file or an address."""
        self._events.clear()
        self._address = page.as_uri() if isinstance(page, Path) else page
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self._call("Page.navigate", url=self._address)
        self._wait_for_event("Page.loadEventFired")
        return self.inspect(width)

    def select_file(self, selector: str, file: Path) -> None:
        """Select a file in a file input."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def click(self, selector: str) -> None:
        self._call("Runtime.evaluate", expression=f"document.querySelector({selector!r}).click()")

    def wait_for(self, expression: str, seconds: float = 20) -> Any:
        """Wait until a JavaScript expression is truthy; returns its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self._call("Runtime.evaluate", expression=expression, returnByValue=True)[
                "result"
            ].get("value")
            if value:
                return value
            time.sleep(0.05)
        raise TimeoutError(expression)

    def inspect(self, width: int) -> PageState:
        """Inspect the page as it is now."""
        result = self._call("Runtime.evaluate", expression=_INSPECT, returnByValue=True)["result"][
            "value"
        ]
        clip = {"x": 0, "y": 0, "width": width, "height": result["height"], "scale": 1}
        image = self._call(
            "Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True
        )["data"]
        state = PageState(
            result["overlaps"], result["wide"], result["opened"], base64.b64decode(image)
        )
        for event in self._events:
            self._record_event(event, state)
        return state

    def _record_event(self, event: dict[str, Any], state: PageState) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            state.messages.append(params["entry"]["text"])
        if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            state.messages.append(json.dumps(params)[:300])
        if method == "Network.requestWillBeSent":
            address = params["request"]["url"]
            if not address.startswith("data:") and address != self._address:
                state.requests.append(address)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        session = {"sessionId": self._session} if hasattr(self, "_session") else {}
        os.write(
            self._write,
            json.dumps({"id": number, "method": method, "params": params, **session}).encode()
            + b"\0",
        )
        while True:
            message = self._next_message()
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                result: dict[str, Any] = message["result"]
                return result
            self._events.append(message)

    def _wait_for_event(self, method: str) -> None:
        while not any(event.get("method") == method for event in self._events):
            self._events.append(self._next_message())

    def _next_message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._read, 1 << 16)
            if not chunk:
                raise RuntimeError("the browser is gone")
            self._buffer += chunk
        content, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(content)
        return message

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        for descriptor in (self._read, self._write):
            os.close(descriptor)
