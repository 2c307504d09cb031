"""Words that the single and the vector environment read alike: prompts, render and autoreset modes."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from wm_env.model.names import unknown
from wm_env.model.world import WorldSpec

RENDER_MODES = ["rgb_array", "rgb_array_list"]
AUTORESET_MODES = {
    "next_step": AutoresetMode.NEXT_STEP,
    "same_step": AutoresetMode.SAME_STEP,
    "disabled": AutoresetMode.DISABLED,
}


def as_prompt(prompt: Any) -> str:
    """Return `prompt`, or raise `ValueError` where it is no string."""
    if not isinstance(prompt, str):
        raise ValueError(f"a prompt is a string, not a {type(prompt).__name__}")
    return prompt


def autoreset_mode_of(mode: str | AutoresetMode) -> AutoresetMode:
    """Return the autoreset mode of a name, or raise `ValueError` with the names that there are."""
    if isinstance(mode, AutoresetMode):
        return mode
    named = AUTORESET_MODES | {member.value: member for member in AutoresetMode}
    if not isinstance(mode, str) or mode not in named:
        raise ValueError(unknown("autoreset_mode", mode, AUTORESET_MODES))
    return named[mode]


def frame_rate(spec: WorldSpec, render_mode: str | None) -> int:
    """Return the `render_fps` of an environment: frames a second where `render` is called once a step.

    `rgb_array` gives the newest frame, so max(1, round(16 / K)), what film recorders take; otherwise all are
    given, 16.
    """
    rate = spec.fps / spec.frames_per_step if render_mode == "rgb_array" else spec.fps
    return max(1, round(rate))


def copied(generator: np.random.Generator) -> np.random.Generator:
    """Return a generator of its own that goes on with the same numbers."""
    twin = np.random.Generator(np.random.PCG64())
    twin.bit_generator.state = generator.bit_generator.state
    return twin
