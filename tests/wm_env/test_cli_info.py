"""`wm-env info WORLD` prints the whole card of every part; damage is said, not hidden."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from wm_env.cli import main
from wm_env.cli.provenance import card_lines, find_card, flat
from wm_env.model.embedded import world_path
from wm_env.worlds import PRESETS


def said(*words: str | Path, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["info", *(str(word) for word in words)])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_every_fact_on_the_card_of_every_part_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    text = said("tiny", capsys=capsys)
    card = json.loads(world_path("tiny").with_suffix(".json").read_text())
    assert card["sha256"] in text and "(intact)" in text
    for name, part in card["parts"].items():
        assert f"{name}: {part['steps']} steps, seed {part['seed']}" in text
        for fact in (part["commit"], part["hardware"], part["sha256"], part["torch"]):
            assert fact in text
        for heading in ("metrics", "settings"):
            assert all(f"{key}={value}" in text for key, value in flat(part[heading]))


def test_a_damaged_file_is_called_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in (".safetensors", ".json"):
        shutil.copy(world_path("tiny-pure").with_suffix(suffix), tmp_path)
    weights = tmp_path / "tiny-pure.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "DAMAGED" in said(tmp_path, capsys=capsys)


def test_a_run_folder_has_a_card_and_other_folders_have_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_card(tmp_path) is None
    card = {"settings": {"loop": {"lr": 0.001}}, "seed": 4, "commit": None, "steps": 12, "wall_seconds": 90.0}
    card |= {"hardware": "an abacus", "torch": "2.13", "metrics": {"loss": 0.5}, "data": {"clips": 8}}
    (tmp_path / "card.json").write_text(json.dumps(card))
    text = said(tmp_path, "--json", tmp_path / "out.json", capsys=capsys)
    assert text.splitlines() == card_lines({**card, "intact": None})
    for fact in ("12 steps, seed 4, 1.5 min on an abacus", "commit unknown", "clips=8", "loop.lr=0.001"):
        assert fact in text
    assert json.loads((tmp_path / "out.json").read_text())["steps"] == 12


def test_the_overview_is_a_dozen_short_lines_and_verbose_adds_all_facts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    short = said(capsys=capsys)
    assert len(short.splitlines()) <= 12 and max(len(line) for line in short.splitlines()) <= 110
    assert all(name in short for name in PRESETS)
    digest = json.loads(world_path("tiny").with_suffix(".json").read_text())["sha256"]
    assert digest not in short and digest[:8] in short
    assert digest in said("--verbose", capsys=capsys)
