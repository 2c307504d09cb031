"""A real browser for the play page: one for all tests, a tab of its own for each, driven by its debugger."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60  # seconds until a test says what never came true


class Tab:
    """One tab of the browser."""

    def __init__(self, pipe: ClientConnection) -> None:
        self._pipe, self._number = pipe, 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the answer to a command of the debugging protocol."""
        self._number += 1
        self._pipe.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while (answer := json.loads(self._pipe.recv(PATIENCE))).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def look(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def text(self, name: str) -> str:
        """Return what the element of that id says."""
        return self.look(f"$('{name}').textContent")

    def until(self, expression: str) -> None:
        """Wait until an expression is true in the page."""
        deadline = time.monotonic() + PATIENCE
        while not self.look(f"!!({expression})"):
            assert time.monotonic() < deadline, f"{expression} never came true; {self.text('message')}"
            time.sleep(0.02)

    def press(self, key: str, code: str = "") -> None:
        """Press a key and let it go."""
        self.hold(key, code)
        self.release(key, code)

    def hold(self, key: str, code: str = "") -> None:
        typed = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", key=key, code=code or f"Key{key.upper()}", **typed
        )

    def release(self, key: str, code: str = "") -> None:
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=code or f"Key{key.upper()}")

    def reload(self) -> None:
        """Load the page again, and wait until it plays."""
        self.look("window.old = true")
        self.call("Page.reload")
        self.until("!window.old && document.readyState == 'complete' && facts !== null")

    def picture(self, path: Path) -> None:
        """Write a screenshot."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def played(out: Path, *options: str) -> Iterator[str]:
    """Yield the address of a running `wm-env play`."""
    command = [sys.executable, "-m", "wm_env.cli", "play", "--out", str(out), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[2]
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """Return `played`, for a server of one's own."""
    return played


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the shared server's films."""
    return tmp_path_factory.mktemp("films")


@pytest.fixture(scope="session")
def address(memory_world: str, films: Path) -> Iterator[str]:
    """Address of a running `wm-env play` on a random learned world beside its twin."""
    with played(films, "--world", memory_world, "--port", "0") as there:
        yield there


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debugging address of a browser without a window."""
    assert BROWSER is not None, "tests that use it are skipped without one"
    profile = tmp_path_factory.mktemp("profile")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    words = [BROWSER, *flags, f"--user-data-dir={profile}", "--window-size=1040,1000", "about:blank"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as running:
        try:
            deadline = time.monotonic() + PATIENCE
            told = profile / "DevToolsActivePort"
            while not (told.is_file() and told.read_text().strip()):
                assert time.monotonic() < deadline, "the browser did not open its debugging port"
                time.sleep(0.05)
            yield f"http://127.0.0.1:{told.read_text().split()[0]}"
        finally:
            running.terminate()


@pytest.fixture
def open_tab(browser: str) -> Iterator[Callable[[str], Tab]]:
    """Return a function that opens an address in a new tab; what is open at the end is closed."""
    opened: list[str] = []
    pipes = ExitStack()

    def open_one(address: str) -> Tab:
        new = urllib.request.Request(f"{browser}/json/new?{address}", method="PUT")
        with urllib.request.urlopen(new) as answer:
            target = json.load(answer)
        opened.append(target["id"])
        tab = Tab(pipes.enter_context(connect(target["webSocketDebuggerUrl"], max_size=None)))
        tab.until("document.readyState == 'complete' && typeof facts != 'undefined' && facts !== null")
        return tab

    with pipes:
        yield open_one
    for target in opened:
        urllib.request.urlopen(f"{browser}/json/close/{target}").close()


@pytest.fixture
def tab(open_tab: Callable[[str], Tab], address: str) -> Tab:
    """A tab that plays a walk of its own, paused at its start or soon after."""
    found = open_tab(address)
    found.press(" ", "Space")
    found.until("facts.paused")
    return found
