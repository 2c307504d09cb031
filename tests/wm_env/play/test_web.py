"""The play page: served on loopback only, driven over a WebSocket, and seen in a real browser."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import websockets
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from wm_env.cli import main
from wm_env.play.session import PlaySettings, Session
from wm_env.play.web import HOST, create_app

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BASE, SOCKET = f"http://{HOST}", f"ws://{HOST}/play"


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return TestClient(create_app(PlaySettings(environment={"world": "twin"}, out=tmp_path)), base_url=BASE)


@pytest.fixture
def page(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A connected page; it leaves when its session has ended, for the test client cancels what still runs."""
    ended, close = threading.Event(), Session.close

    def closing(session: Session) -> None:
        close(session)
        ended.set()

    monkeypatch.setattr(Session, "close", closing)
    with client.websocket_connect(SOCKET) as connected:
        yield connected
        connected.close()
        assert ended.wait(60)
        time.sleep(0.1)


def test_the_page_is_one_file_that_asks_nobody_else(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200 and "wm-env play" in page.text
    assert "http://" not in page.text and "https://" not in page.text


def test_keys_sent_over_the_socket_move_the_camera(page: Any) -> None:
    start = page.receive_json()
    assert start["facts"]["step"] == 0 and len(start["frames"]) == 1
    page.send_json({"do": "pause"})
    page.send_json({"do": "keys", "held": "d"})
    paused = _until(page, lambda message: message["facts"]["paused"])
    page.send_json({"do": "step"})
    after = _until(page, lambda message: message["facts"]["step"] > paused["facts"]["step"])
    assert len(after["frames"]) == 4
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(after["frames"][-1]))))
    assert picture.shape == (64, 64, 3)


def test_time_goes_on_by_itself(page: Any) -> None:
    message = _until(page, lambda message: message["facts"]["step"] >= 2)
    assert 0 < message["fps"] <= 16


@pytest.mark.parametrize("text", ["{", "[]", '{"do": "dance"}'])
def test_nonsense_is_answered_with_one_line(page: Any, text: str) -> None:
    page.send_text(text)
    while "error" not in (message := page.receive_json()):
        pass
    assert "\n" not in message["error"]


def test_a_film_that_cannot_be_written_pauses_the_session_and_says_so(
    page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(session: Session) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Session, "advance", full)
    while "error" not in (message := page.receive_json()):
        pass
    assert message["error"] == "No space left on device"
    page.send_json({"do": "save"})
    assert _until(page, lambda message: message["facts"]["kept"])["facts"]["paused"]


def test_other_sites_and_other_names_are_refused(client: TestClient) -> None:
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(SOCKET, headers={"origin": "https://elsewhere.example"}),
    ):
        pass
    assert client.get("/", headers={"host": "elsewhere.example"}).status_code == 400


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((HOST, 0)) as taken:
        for words, hint in (
            (["--port", "70000"], "65535"),
            (["--port", str(taken.getsockname()[1])], "in use"),
            (["--world", "nowhere"], "unknown world"),
        ):
            with pytest.raises(SystemExit) as ended:
                main(["play", "--world", "twin", *words])
            complaint = capsys.readouterr().err.strip()
            assert ended.value.code == 2 and hint in complaint and "\n" not in complaint


@pytest.fixture
def address(memory_world: str, tmp_path: Path) -> Iterator[str]:
    """Address of a running `wm-env play` on a random learned world beside its twin."""
    command = [sys.executable, "-m", "wm_env.cli", "play", "--world", memory_world, "--port", "0"]
    with subprocess.Popen([*command, "--out", str(tmp_path)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().split()[2]
        server.terminate()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser found: apt-get install chromium")
def test_the_page_plays_in_a_browser(address: str, tmp_path: Path) -> None:
    """Hold W, pause, branch; leaves the screenshot `play.png` in the temporary folder of the test."""
    assert BROWSER is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    words = [BROWSER, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1040,900", address]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as browser:
        try:
            facts = asyncio.run(_drive(_debugger(tmp_path / "profile"), tmp_path / "play.png"))
        finally:
            browser.terminate()
    assert facts["step"] > 1 and facts["futures"] == 4 and facts["held"] == "W"
    assert facts["label"].endswith("(truth)") and not facts["twinHidden"]
    shot = np.asarray(Image.open(tmp_path / "play.png").convert("RGB"))
    assert shot[60:300, 40:440].std() > 5  # the left view shows a picture


async def _drive(debugger: str, screenshot: Path) -> dict[str, Any]:
    """Play through the browser's debugging protocol; return what the page shows at the end."""
    async with websockets.connect(debugger, max_size=None) as pipe:
        number = 0

        async def call(method: str, **params: Any) -> dict[str, Any]:
            nonlocal number
            number += 1
            await pipe.send(json.dumps({"id": number, "method": method, "params": params}))
            while (answer := json.loads(await pipe.recv())).get("id") != number:
                pass
            return answer["result"]

        async def look(expression: str) -> Any:
            found = await call("Runtime.evaluate", expression=expression, returnByValue=True)
            return found["result"].get("value")

        async def until(expression: str) -> None:
            deadline = time.monotonic() + 60
            while not await look(expression):
                assert time.monotonic() < deadline, f"{expression} never came true"
                await asyncio.sleep(0.1)

        await until("document.readyState == 'complete' && +document.getElementById('step').textContent > 0")
        await call("Input.dispatchKeyEvent", type="keyDown", key="w", text="w")
        step = await look("+document.getElementById('step').textContent")
        await until(f"+document.getElementById('step').textContent > {step + 1}")
        await look("document.querySelector('[data-do=save]').click()")
        await look("document.querySelector('[data-do=branch]').click()")
        await until("document.querySelectorAll('#futures canvas').length == 4")
        await asyncio.sleep(0.5)  # pictures are drawn when they have loaded
        picture = await call("Page.captureScreenshot", format="png")
        screenshot.write_bytes(base64.b64decode(picture["data"]))
        return {
            "step": await look("+document.getElementById('step').textContent"),
            "futures": await look("document.querySelectorAll('#futures canvas').length"),
            "held": await look("[...document.querySelectorAll('kbd.down')].map(k => k.textContent).join('')"),
            "label": await look("document.getElementById('twin-label').textContent"),
            "twinHidden": await look("document.getElementById('twin-figure').hidden"),
        }


def _debugger(profile: Path) -> str:
    """Return the debugging address of the browser's page, once it is up."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        port_file = profile / "DevToolsActivePort"
        if port_file.is_file() and port_file.read_text().strip():
            port = port_file.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise AssertionError("the browser did not open its debugging port within a minute")


def _until(page: Any, wanted: Any) -> dict[str, Any]:
    for _ in range(50):
        message = page.receive_json()
        if "facts" in message and wanted(message):
            return message
    raise AssertionError("the awaited message never came")
