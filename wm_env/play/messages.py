"""What a page may say: one small JSON object, `{"do": command, ...}`, checked before a session sees it."""

from __future__ import annotations

from typing import Any

from wm_env.model.kinematics import KEYS
from wm_env.model.storage.facts import parse_json, shown
from wm_env.play.session import COMMANDS

MAX_MESSAGE = 16_384  # bytes; a prompt of MAX_PROMPT characters fits, whatever they are
MAX_PROMPT = 2_000  # characters; it is sent back with every frame


def read_message(said: str | bytes | None) -> dict[str, Any]:
    """Return what a page asks for, or raise `ValueError` with one short sentence.

    said: the text of a message; bytes or None for a message that is none.
    """
    if not isinstance(said, str):
        raise ValueError("a message is a text with a JSON object, not bytes")
    if len(said) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(said)} characters was sent; at most {MAX_MESSAGE} are read")
    asked = parse_json(said, "the message")
    do = asked.get("do")
    if not isinstance(do, str) or do not in COMMANDS:
        raise ValueError(f"unknown command {shown(do)}; known are {', '.join(COMMANDS)}")
    if do == "keys":
        held = asked.get("held")
        if not isinstance(held, str) or len(set(held)) < len(held) or set(held) - set(KEYS):
            raise ValueError(f"held keys {shown(held)} are not among {KEYS}, each once")
    if do == "prompt":
        text = asked.get("text")
        if not isinstance(text, str):
            raise ValueError(f"a prompt is a text, not a {type(text).__name__}")
        if len(text) > MAX_PROMPT:
            raise ValueError(f"the prompt has {len(text)} characters; at most {MAX_PROMPT} are read")
    return asked
