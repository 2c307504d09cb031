"""Where weights come from: the cards of a world, of its parts and of training runs, as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wm_env.model.embedded import EMBEDDED, world_path
from wm_env.model.storage.checkpoint import card_path, load_card, sha256_of

WIDTH = 100  # characters of a line of settings


def find_card(what: Path) -> Path | None:
    """Return the card that `what` names, None if it names none.

    what: an embedded preset, a world folder, a run folder (`card.json`), or a `.safetensors` with its card.
    """
    if str(what) in EMBEDDED:
        return card_path(world_path(str(what)))
    if what.suffix == ".safetensors" and card_path(what).is_file():
        return card_path(what)
    if (what / "card.json").is_file():
        return what / "card.json"
    weights = sorted(what.glob("*.safetensors"))
    if len(weights) == 1 and card_path(weights[0]).is_file():
        return card_path(weights[0])
    return None


def provenance(card_file: Path) -> dict[str, Any]:
    """Return the card as JSON values, with `intact`: whether the weights beside it have its SHA-256.

    `intact` is None for a run folder's card, which belongs to no single file. Raises `ValueError` for a file
    that is not a card.
    """
    weights = card_file.with_suffix(".safetensors")
    if weights.is_file():
        card = load_card(weights)
        return {**card, "intact": sha256_of(weights) == card["sha256"]}
    try:
        card = json.loads(card_file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{card_file} is not JSON: {error}") from error
    if not isinstance(card, dict) or "settings" not in card:
        raise ValueError(f"{card_file} is not the card of a training: it has no settings")
    return {**card, "intact": None}


def card_lines(card: Mapping[str, Any]) -> list[str]:
    """Return a card as lines of text: the whole first, then every part with all that it records."""
    lines = []
    intact = {True: "intact", False: "DAMAGED: the file has another digest", None: "not checked"}
    if "sha256" in card:
        size = f"{card['bytes'] / 1e6:.1f} MB, {card['values']:,} values, "
        lines.append(
            f"{card.get('name', 'weights')}: {size}sha256 {card['sha256']} ({intact[card['intact']]})"
        )
    if "world" in card:
        lines.append(
            f"  trained to {card['world']['trained_steps']} steps, sampler {card['world']['sampler']}"
        )
    for name, part in card.get("parts", {}).items():
        lines += _part_lines(name, part, "  ")
    if "settings" in card:
        lines += _part_lines(card.get("part", "training"), card, "")
    return lines


def _part_lines(name: str, card: Mapping[str, Any], indent: str) -> Iterator[str]:
    time = f"{card['wall_seconds'] / 60:.1f} min on {card['hardware']}"
    yield f"{indent}{name}: {card['steps']} steps, seed {card['seed']}, {time}"
    inner = indent + "  "
    processes = f", {card['processes']} process(es)" if "processes" in card else ""
    yield f"{inner}commit {card['commit'] or 'unknown'}, torch {card['torch']}{processes}"
    if "sha256" in card and indent:
        yield f"{inner}sha256 {card['sha256']}"
    for heading in ("data", "metrics", "settings"):
        values = [f"{key}={value}" for key, value in flat(card.get(heading, {}))]
        yield from _wrapped(f"{inner}{heading:<9}", values or ["not recorded"])
    if "codec" in card:
        yield from _part_lines(f"{name} started from", card["codec"], inner)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `(dotted key, value)` of nested mappings; lists stay values, floats get four digits."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", f"{value:.4g}" if isinstance(value, float) else value


def _wrapped(heading: str, values: list[str]) -> Iterator[str]:
    line = heading
    for value in values:
        if len(line) + len(value) > WIDTH and line.strip() and line != " " * len(heading):
            yield line.rstrip()
            line = " " * len(heading)
        line += f"{value} "
    yield line.rstrip()
