"""The play page: served on loopback only and driven over a WebSocket; test_browser.py looks at it."""

from __future__ import annotations

import base64
import gc
import io
import json
import secrets
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from wm_env.cli import main
from wm_env.cli.play import invitation
from wm_env.play import web
from wm_env.play.session import PlaySettings, Session
from wm_env.play.web import ELSEWHERE, HOST, create_app, is_ours

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


LONG = "w" * 100_000
NONSENSE = {
    "no JSON": "{",
    "a list": "[]",
    "another command": '{"do": "dance"}',
    "a long command": json.dumps({"do": LONG}),
    "a command that is a list": '{"do": ["keys"]}',
    "nested too deep": "[" * 100_000,
    "a deep entry": '{"do": "keys", "held": ' + "[" * 3000 + "]" * 3000 + "}",
    "many keys": json.dumps({"do": "keys", "held": LONG}),
    "a key twice": '{"do": "keys", "held": "ww"}',
    "held null": '{"do": "keys", "held": null}',
    "a long prompt": json.dumps({"do": "prompt", "text": LONG}),
    "a prompt over its limit": json.dumps({"do": "prompt", "text": "a" * 2001}),
    "a prompt that is none": '{"do": "prompt", "text": {"a": 1}}',
    "a slot that is none": '{"do": "take", "slot": NaN}',
    "a number of many digits": '{"do": "take", "slot": ' + "9" * 5000 + "}",
    "bytes": b"\x00\xff",
}


@pytest.mark.parametrize("text", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_answered_with_one_line(page: Any, text: str | bytes) -> None:
    page.receive_json()
    (page.send_bytes if isinstance(text, bytes) else page.send_text)(text)
    while "error" not in (message := page.receive_json()):
        pass
    assert "\n" not in message["error"] and len(message["error"]) < 400
    page.send_json({"do": "pause"})  # and the walk goes on
    assert _until(page, lambda message: message["facts"]["paused"])["facts"]["held"] == ""


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


@pytest.mark.slow
def test_a_walk_and_its_moment_are_there_after_a_connection_broke(address: str) -> None:
    walk = f"{address.replace('http', 'ws')}play?walk={secrets.token_hex(8)}"
    with connect(walk) as page:
        first = json.loads(page.recv())["facts"]
        for message in ({"do": "keys", "held": "w"}, {"do": "step"}, {"do": "save"}, {"do": "step"}):
            page.send(json.dumps(message))
        left = _facts(page, lambda facts: facts["kept"] and facts["step"] > facts["kept_step"])
        page.socket.close()  # without a word, as a network does
    with connect(walk) as page:
        back = json.loads(page.recv())["facts"]
        assert back["walk"] == first["walk"] and back["step"] == left["step"] and back["held"] == ""
        page.send('{"do": "restore"}')
        assert _facts(page, lambda facts: facts["step"] == left["kept_step"])
    with connect(f"{walk}x") as page:
        assert json.loads(page.recv())["facts"]["walk"] != first["walk"]


@pytest.mark.slow
def test_a_second_page_with_the_same_key_takes_the_walk_over(address: str) -> None:
    walk = f"{address.replace('http', 'ws')}play?walk={secrets.token_hex(8)}"
    with connect(walk) as first, connect(walk) as second:
        assert _facts(first, bool)["walk"] == _facts(second, bool)["walk"]
        with pytest.raises(ConnectionClosed) as ended:
            while True:
                first.recv()
    assert ended.value.rcvd is not None and ended.value.rcvd.code == ELSEWHERE


def test_a_key_that_no_page_makes_is_refused(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(f"{SOCKET}?walk=.."):
        pass


def test_over_ssh_the_page_is_reached_by_a_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    assert invitation("http://127.0.0.1:8017/") == "play at http://127.0.0.1:8017/ (Ctrl+C ends)"
    for port, words in (("22", ""), ("2222", " -p 2222")):
        monkeypatch.setenv("SSH_CONNECTION", f"192.0.2.7 51234 192.0.2.9 {port}")
        said = invitation("http://127.0.0.1:8017/").splitlines()[1]
        assert f"`ssh -N -L 8017:127.0.0.1:8017{words} 192.0.2.9`" in said


@pytest.mark.parametrize(
    "origin",
    ["http://[", "http://127.0.0.1:9999", "https://127.0.0.1", "null", "file://", "http://localhost.evil"],
)
def test_an_origin_that_is_not_this_page_is_refused(origin: str, client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(SOCKET, headers={"origin": origin}):
        pass
    assert is_ours("http://localhost:8017", "localhost:8017") and is_ours(None, "localhost:8017")


def test_only_so_many_pages_play_at_a_time(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MOST_GUESTS", 1)
    with client, client.websocket_connect(f"{SOCKET}?walk=first-walk") as first:  # one event loop for all
        assert "facts" in first.receive_json()
        with client.websocket_connect(f"{SOCKET}?walk=other-walk") as second:
            assert "1 pages play already" in second.receive_json()["error"]
            with pytest.raises(WebSocketDisconnect) as closed:
                second.receive_json()
            assert closed.value.code == 1013
        with client.websocket_connect(f"{SOCKET}?walk=first-walk") as again:  # a reload is no second page
            assert "facts" in again.receive_json()


def test_a_world_that_cannot_be_made_is_one_line_on_the_page(tmp_path: Path) -> None:
    app = create_app(PlaySettings(environment={"world": str(tmp_path / "gone")}, out=tmp_path))
    with TestClient(app, base_url=BASE).websocket_connect(SOCKET) as page:
        assert "gone" in page.receive_json()["error"]
        with pytest.raises(WebSocketDisconnect):
            page.receive_json()


def test_what_an_ended_session_held_is_free(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    def watched(settings: PlaySettings) -> Session:
        made = Session(settings)
        held.append(weakref.ref(made))
        return made

    monkeypatch.setattr(web, "Session", watched)
    trims = []
    monkeypatch.setattr(web, "give_back", lambda: trims.append(gc.collect()))
    with client.websocket_connect(SOCKET) as page:
        page.receive_json()
        page.send_json({"do": "save"})
        page.send_json({"do": "branch"})
        _until(page, lambda message: message["facts"]["futures"])
        page.close()
        deadline = time.monotonic() + 60
        while not trims and time.monotonic() < deadline:
            time.sleep(0.02)
    assert len(held) == 1 and held[0]() is None


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((HOST, 0)) as taken:
        for words, hint in (
            (["--port", "70000"], "65535"),
            (["--port", str(taken.getsockname()[1])], "is in use, perhaps by another `wm-env play`; give an"),
            (["--world", "nowhere"], "unknown world"),
        ):
            with pytest.raises(SystemExit) as ended:
                main(["play", "--world", "twin", *words])
            complaint = capsys.readouterr().err.strip()
            assert ended.value.code == 2 and hint in complaint and "\n" not in complaint


def _facts(page: Any, wanted: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    for _ in range(50):
        facts = json.loads(page.recv(60))["facts"]
        if wanted(facts):
            return facts
    raise AssertionError("the awaited facts never came")


def _until(page: Any, wanted: Any) -> dict[str, Any]:
    for _ in range(50):
        message = page.receive_json()
        if "facts" in message and wanted(message):
            return message
    raise AssertionError("the awaited message never came")
