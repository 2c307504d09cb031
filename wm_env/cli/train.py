"""`wm-env train ...`: the command line of `model/training/command.py` with progress bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wm_env.model.training.command import main
from wm_env.model.training.inputs import Progress
from wm_env.progress import Bar


def train(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Run the command `name`, such as "train vae", with its options; return its result as JSON values."""
    return main([name.removeprefix("train "), *words], prog="wm-env train", bars=bar)


def bar(unit: str) -> Progress:
    """Return a progress report that draws a bar from the first call on."""
    bars: list[Bar] = []

    def report(done: float, total: float, loss: float | None = None) -> None:
        if not bars:
            bars.append(Bar(total, "", unit=unit, done=done - 1))
        if loss is not None:
            bars[0].set_postfix(loss=f"{loss:.4f}", refresh=False)
        bars[0].to(done)
        if done >= total:
            bars.pop().close()  # another split may follow

    return report
