"""The model cards in docs/cards are those of the shipped weights."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from wm_env.model.cards import page, trainings, write_pages
from wm_env.model.embedded import EMBEDDED, world_path
from wm_env.model.storage.checkpoint import load_card

CARDS = Path(__file__).resolve().parents[2] / "docs/cards"


def test_the_pages_are_made_from_the_shipped_cards(tmp_path: Path) -> None:
    made = {path.name: path.read_bytes() for path in write_pages(tmp_path)}
    assert made == {path.name: path.read_bytes() for path in CARDS.glob("*.md")}, (
        "make them again: python -m wm_env.model.cards docs/cards"
    )


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_page_tells_the_provenance_of_every_training(name: str) -> None:
    card = load_card(world_path(name))
    text = page(card)
    facts = [card["sha256"], f"{card['values']:,}", *(part["sha256"] for part in card["parts"].values())]
    for _, training in trainings(card["parts"]):
        facts += [training["commit"][:12], f"| {training['steps']} | {training['wall_seconds']:.0f} |"]
    assert [fact for fact in facts if fact not in text] == []
    for part in card["parts"].values():
        part["wall_seconds"] += 1000
    assert page(card) != text


def test_a_metric_without_words_is_refused() -> None:
    card = copy.deepcopy(load_card(world_path("tiny")))
    card["parts"]["dit"]["metrics"]["luck"] = 1.0
    with pytest.raises(ValueError, match="luck"):
        page(card)
