"""The list of what depends on weights is whole, and says what is stale."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OTHERS = {
    "docs/reports/distillation/drift.json",  # of worlds that do not ship
    "docs/performance/reliability.json",  # of the code, whatever the weights
}


@pytest.fixture(scope="module")
def again() -> object:
    spec = importlib.util.spec_from_file_location("measure_again", ROOT / "docs" / "measure_again.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["measure_again"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_file_of_numbers_that_names_weights_is_on_the_list(again) -> None:  # type: ignore[no-untyped-def]
    listed = {one.file for one in again.NUMBERS}
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "docs").rglob("*.json")
        if (held := json.loads(path.read_text())).get("weights_sha256") and isinstance(held, dict)
    }
    assert found - OTHERS == {file for file in listed if file.startswith("docs/")}
    assert all((ROOT / file).is_file() for file in listed)


def test_commands_are_ones_that_there_are(again) -> None:  # type: ignore[no-untyped-def]
    from wm_env.cli import COMMANDS

    for one in again.NUMBERS:
        first, *rest = one.command.split()
        known = (ROOT / first).is_file() if first != "wm-env" else " ".join(rest[:2]) in COMMANDS
        assert known, one.command


def test_a_file_is_stale_where_it_is_about_other_weights(again, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    one = again.Measured(file="a.json", command="docs/measure_turns.py", minutes=1)
    now = {"tiny": "11", "tiny-pure": "22"}
    assert again.of_other_weights(one, now, tmp_path)
    (tmp_path / "a.json").write_text(json.dumps({"weights_sha256": "11"}))
    assert not again.of_other_weights(one, now, tmp_path)
    assert again.of_other_weights(one, {**now, "tiny": "33"}, tmp_path)
