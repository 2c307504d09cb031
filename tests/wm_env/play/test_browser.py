"""The play page as its players meet it: keys, pad, buttons, futures, prompts, lost connections."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import connect

from wm_env.play.web import MOST_GUESTS

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no browser found: apt-get install chromium")
PAGE = Path(__file__).resolve().parents[3] / "wm_env" / "play" / "page" / "index.html"
CAPS = "[...document.querySelectorAll('#keys .down')].map(cap => cap.dataset.key).join('')"
PAD = """
window.pad = {connected: true, axes: [0, 0, 0, 0]};
pad.buttons = Array.from({length: 17}, () => ({pressed: false}));
navigator.getGamepads = () => [null, window.pad];
"""


def step(tab: Any) -> int:
    return tab.look("facts.step")


def test_the_page_looks_for_a_gamepad_and_asks_for_no_other_device() -> None:
    source = PAGE.read_text()
    assert "getGamepads" in source and "getUserMedia" not in source and "localStorage" not in source


@pytest.mark.slow
@needs_browser
def test_the_page_shows_the_world_beside_its_twin(tab: Any, tmp_path: Path) -> None:
    """Leaves the screenshot `play.png` in the temporary folder of the test, as others do theirs."""
    tab.press(" ", "Space")
    now = step(tab)
    tab.until(f"facts.step > {now + 1}")
    assert tab.text("twin-label").endswith("(truth)") and not tab.look("$('twin-figure').hidden")
    tab.picture(tmp_path / "play.png")
    shot = np.asarray(Image.open(tmp_path / "play.png").convert("RGB"))
    assert shot[60:300, 40:440].std() > 5  # the left view shows a picture
    assert tab.look("$('reward-is').title") == "The reward of explore: floor seen for the first time, m2"


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(
    ("key", "moves"),
    [("ArrowUp", "w"), ("ArrowDown", "s"), ("ArrowLeft", "a"), ("ArrowRight", "d"), ("j", "j")],
)
def test_arrows_and_letters_hold_the_keys_of_the_world(tab: Any, key: str, moves: str) -> None:
    tab.hold(key, key)
    assert tab.look(CAPS) == moves
    tab.press(".", "Period")
    tab.until(f"facts.held == '{moves}'")
    tab.release(key, key)
    assert tab.look(CAPS) == ""


@pytest.mark.slow
@needs_browser
def test_a_gamepad_walks_looks_and_presses_buttons(tab: Any) -> None:
    tab.look(PAD)
    for axis, value, moves in ((1, -1, "w"), (0, 0.8, "l"), (2, -0.9, "a"), (3, 0.7, "k"), (1, 0.3, "")):
        tab.look(f"pad.axes = [0, 0, 0, 0].map((_, i) => i == {axis} ? {value} : 0)")
        tab.until(f"{CAPS} == '{moves}'")
    tab.look("pad.buttons[12].pressed = true")
    tab.until(f"{CAPS} == 'w'")
    tab.look("pad.buttons[12].pressed = false; pad.buttons[2].pressed = true")  # X saves
    tab.until(f"{CAPS} == '' && facts.kept > 0")
    now = step(tab)
    tab.look("pad.buttons[2].pressed = false; pad.buttons[0].pressed = true")  # A steps, once a press
    tab.until(f"facts.step == {now + 1}")
    tab.look("pad.buttons[0].pressed = false; pad.buttons[3].pressed = true")  # Y branches
    tab.until("facts.futures.length == 4")
    tab.look("pad.buttons[3].pressed = false; pad.buttons[15].pressed = true")  # right on the D-pad
    tab.until("facts.message.startsWith('went turn right')")


@pytest.mark.slow
@needs_browser
def test_every_button_has_a_label_a_tooltip_and_a_key_that_does_the_same(tab: Any) -> None:
    buttons = tab.look(
        "[...document.querySelectorAll('#controls button')].map(b => "
        "[b.dataset.do, b.firstChild.textContent, b.querySelector('kbd').textContent, b.title])"
    )
    assert len(buttons) == 9 and len({key for *_, key, _ in buttons}) == 9
    for _, label, key, title in buttons:
        assert label and key and title.endswith(f"({key})") and len(title) > 12
    keys = {name: key for name, _, key, _ in buttons}
    did = {
        "save": "facts.kept > 0",
        "step": "facts.step > 0 && facts.paused",
        "restore": "facts.message.startsWith('back at step')",
        "branch": "facts.futures.length == 4",
        "reset": "facts.step == 0 && facts.message.startsWith('at the start again')",
        "new_scene": "facts.message == 'a new scene'",
        "record": "facts.recording > 0",
    }
    for name, seen in did.items():
        tab.press(keys[name].lower(), f"Code{name}")
        tab.until(seen)
        tab.press(".", "Period")  # another message, so that the button's own is seen
        tab.until("facts.message == ''")
    tab.press(" ", "Space")
    tab.until("!facts.paused && $('pause') === null")
    for name, seen in did.items():
        tab.look(f"document.querySelector('[data-do={name}]').click()")
        tab.until({"record": "facts.recording == 0"}.get(name, seen))
    assert tab.look("document.querySelector('[data-do=policy]').hidden")


@pytest.mark.slow
@needs_browser
def test_futures_are_labelled_differ_and_are_chosen_by_number(tab: Any, tmp_path: Path) -> None:
    now = step(tab)
    tab.press("b")
    tab.until("document.querySelectorAll('#futures canvas').length == 4")
    labels = tab.look("[...document.querySelectorAll('#futures span')].map(each => each.textContent)")
    assert labels == ["forward1", "turn left2", "turn right3", "back4"]
    shown = "[...document.querySelectorAll('#futures canvas')].map(each => each.toDataURL())"
    tab.until(f"new Set({shown}).size == 4")
    tab.picture(tmp_path / "futures.png")
    tab.press("2", "Digit2")
    tab.until(f"facts.step == {now + 8} && $('futures').childElementCount == 0")
    assert tab.text("message").startswith("went turn left")
    tab.press("2", "Digit2")  # of no meaning now
    tab.press(".", "Period")
    tab.until(f"facts.step == {now + 9}")


@pytest.mark.slow
@needs_browser
def test_a_prompt_is_acknowledged_while_time_stands_still(tab: Any) -> None:
    tab.press("t")
    tab.until("document.activeElement === $('prompt')")
    tab.call("Input.insertText", text="dim light")
    tab.press("Enter", "Enter")
    tab.until("$('message').textContent.includes(\"is told 'dim light'\")")
    assert tab.look("facts.paused") and tab.look("$('prompt').value") == "dim light"


@pytest.mark.slow
@needs_browser
def test_a_walk_and_its_moment_survive_a_reload(tab: Any) -> None:
    tab.press("m")
    tab.until("facts.kept > 0")
    kept = tab.look("facts.kept_step")
    tab.press(".", "Period")
    tab.until(f"facts.step == {kept + 1}")
    walk = tab.look("facts.walk")
    tab.reload()
    assert tab.look("facts.walk") == walk and step(tab) == kept + 1
    assert tab.text("message") == f"back in your walk at step {kept + 1}"
    tab.press("z")
    tab.until(f"facts.step == {kept}")


@pytest.mark.slow
@needs_browser
def test_a_walk_survives_a_lost_connection(tab: Any) -> None:
    walk, now = tab.look("facts.walk"), step(tab)
    tab.look("window.first = socket; socket.close()")
    tab.until("$('message').textContent.startsWith('the connection is lost; trying again')")
    tab.until("socket !== window.first && $('message').textContent.startsWith('back in your walk')")
    assert tab.look("facts.walk") == walk and step(tab) == now
    tab.press(".", "Period")
    tab.until(f"facts.step == {now + 1}")


@pytest.mark.slow
@needs_browser
def test_a_server_that_was_started_again_gives_a_new_walk_and_says_so(
    open_tab: Callable[[str], Any], serve: Callable[..., Any], pure_world: str, tmp_path: Path
) -> None:
    options = ["--world", pure_world, "--solo", "--scene", "41"]
    with serve(tmp_path, *options, "--port", "0") as address:
        tab = open_tab(address)
        assert tab.text("scene") == "41" and tab.look("$('twin-figure').hidden")
        walk = tab.look("facts.walk")
        tab.press("f")
        tab.until("facts.recording > 0")
    assert (tmp_path / "play-000.mp4").stat().st_size > 0  # the film in progress ends with the server
    tab.until("$('message').classList.contains('lost')")
    with serve(tmp_path, *options, "--port", address.rstrip("/").rpartition(":")[2]):
        tab.until("$('message').textContent.startsWith('the server no longer has your walk')")
        assert tab.look("facts.walk") != walk


@pytest.mark.slow
@needs_browser
def test_a_tab_that_was_duplicated_takes_the_walk_over(
    tab: Any, open_tab: Callable[[str], Any], address: str
) -> None:
    other = open_tab(address)
    key = tab.look("sessionStorage.getItem('walk')")
    assert key != other.look("sessionStorage.getItem('walk')")
    other.look(f"sessionStorage.setItem('walk', '{key}')")
    other.reload()
    tab.until("$('message').textContent.startsWith('this walk goes on in another tab')")
    assert other.look("facts.walk") == tab.look("facts.walk")


@pytest.mark.slow
@needs_browser
def test_a_page_that_finds_no_room_says_so_until_there_is_some(tab: Any, address: str) -> None:
    tab.look("patience = 1e8; facts = null; socket.close()")  # it comes back when it is told to
    with ExitStack() as others:
        number = taken = 0
        while taken < MOST_GUESTS:  # the server may not have seen yet that the tab has gone
            walk = f"{address.replace('http', 'ws')}play?walk=guest-{(number := number + 1):04d}"
            taken += "facts" in json.loads(others.enter_context(connect(walk, max_size=None)).recv())
        tab.look("patience = 500; sessionStorage.setItem('walk', 'one-too-many'); connect()")
        full = f"$('message').textContent == '{MOST_GUESTS} pages play already; close one'"
        tab.until(full)
        tab.until("socket.readyState == WebSocket.CLOSED")
        assert tab.look(full)
    tab.until("facts !== null && facts.step >= 0")


@pytest.mark.slow
@needs_browser
def test_where_a_film_goes_is_shown_before_and_after(tab: Any, films: Path, tmp_path: Path) -> None:
    told = tab.text("film")
    path = Path(told.removeprefix("a film will be "))
    assert path.parent == films.resolve() and not path.exists()
    assert str(path) in tab.look("document.querySelector('[data-do=record]').title")
    tab.press("f")
    tab.until(f"$('film').textContent == 'recording {path}'")
    tab.press(".", "Period")
    tab.press("f")
    tab.until(f"$('film').textContent == 'recorded {path}'")
    assert path.stat().st_size > 0
    tab.picture(tmp_path / "film.png")
