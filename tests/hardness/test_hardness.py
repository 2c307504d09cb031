"""The short form: some hundred hostile inputs, some steps, a kill; `__main__.py` has the long one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from callers import matrix
from endurance import long_episode, long_vector
from hostile_targets import Cards, Clips, Messages, Single, SnapshotFiles, Vector, write_random_world
from hostility import attack
from killed import kill
from slots import compare

SEED = 7


def cards(folder: Path) -> Cards:
    (folder / "world").mkdir()
    write_random_world(folder / "world")
    return Cards(folder / "world")


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda folder: Single("reset"), 60),
        (lambda folder: Single("step"), 150),
        (lambda folder: Single("observe"), 30),
        (lambda folder: Vector(), 60),
        (SnapshotFiles, 60),
        (cards, 6),
        (Clips, 60),
        (Messages, 120),
    ],
    ids=["reset", "step", "observe", "vector", "snapshot files", "cards", "clip folders", "play messages"],
)
def test_hostile_inputs_are_refused_rightly_and_change_nothing(make: Any, count: int, tmp_path: Path) -> None:
    outcome = attack(make(tmp_path), count, SEED)
    assert outcome.inputs == count and outcome.refused > count // 3
    assert outcome.faults() == {}


class Careless:
    """A target with every fault that `attack` is to find."""

    def __init__(self) -> None:
        self.count, self.kept = 0, 0

    def attempt(self, rng: np.random.Generator) -> tuple[str, Any]:
        self.count += 1
        return f"input {self.count}", [self._wrong, self._changed, self._long, self._large, int][
            self.count - 1
        ]

    def _wrong(self) -> None:
        raise TypeError

    def _changed(self) -> None:
        self.kept += 1
        raise ValueError

    def _long(self) -> None:
        raise ValueError("x" * 5000)

    def _large(self) -> None:
        np.ones(2**24).sum()  # 128 MiB
        raise ValueError

    def state(self) -> int:
        return self.kept

    def settle(self) -> str:
        return "accepted"


def test_every_fault_is_found() -> None:
    np.ones(2**25).sum()  # freed memory that the process may keep, in which a fault could hide
    kinds = {"wrong_kind", "state_changed", "long_message", "allocated", "wrongly_accepted"}
    assert attack(Careless(), 5, SEED).faults().keys() == kinds


@pytest.mark.slow
def test_long_use_keeps_descriptors_and_threads() -> None:
    episode, vector = long_episode("tiny-pure", 50), long_vector("twin", 40, slots=3)
    assert len(episode["descriptors"]) == len(episode["threads"]) == 1 and episode["pairs"]["number"] == 2
    assert len(vector["descriptors"]) == len(vector["threads"]) == 1 and vector["resets"] > 0


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_undisturbed_result(tmp_path: Path) -> None:
    found = kill("bench fidelity", 1, tmp_path, SEED)
    assert found["failed"] == found["different"] == [] and found["survivors"] == 0
    assert found["equal"] == 1


def test_no_setting_of_the_caller_reaches_a_frame() -> None:
    found = matrix(("twin",))
    assert found["different"] == [] and found["pairs"] == len(found["settings"]) >= 15


def test_slots_are_episodes() -> None:
    found = compare("twin", 2, 2)
    assert found["differ"] == 0 and found["values"] == 2 * 2 * 4 * 64 * 64 * 3
