"""Action spaces, and the command each action gives the camera (docs/reference/environment.md#actions).

    keys             Discrete(9)        none, w, s, a, d, i, k, j, l
    multikeys        MultiBinary(8)     the same keys held together
    camera           Box(-1, 1, (6,))   one body twist held over the chunk
    camera_sequence  Box(-1, 1, (K, 6)) one body twist per pixel frame

A twist row is right, down, forward (times `max_translation`, metres per pixel frame), then pitch, yaw, roll
(times `max_rotation_deg`, degrees per pixel frame); positive pitch looks up, yaw right, roll clockwise.
Everything is checked here, before anything moves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.error import InvalidAction
from torch import Tensor

from wm_env.model.kinematics import KEYS
from wm_env.model.names import unknown
from wm_env.model.plain_arrays import plain_array
from wm_env.model.storage.facts import brief, number, shown

ACTION_TYPES = ("keys", "multikeys", "camera", "camera_sequence")

MAX_METRES, MAX_DEGREES = 10, 180  # per pixel frame
_OPPOSITES = {frozenset(pair) for pair in ("ws", "ad", "ik", "jl")}
_KEY_TWISTS = {  # right, down, forward, pitch, yaw, roll
    "w": (0, 0, 1, 0, 0, 0),
    "s": (0, 0, -1, 0, 0, 0),
    "a": (0, 0, 0, 0, -1, 0),
    "d": (0, 0, 0, 0, 1, 0),
    "i": (0, 0, 0, 1, 0, 0),
    "k": (0, 0, 0, -1, 0, 0),
    "j": (-1, 0, 0, 0, 0, 0),
    "l": (1, 0, 0, 0, 0, 0),
}


class Command(NamedTuple):
    """What the cameras are told for one chunk; exactly one of the two is present.

    held: `(B, 8)` bool in the order of `kinematics.KEYS`. twists: `(B, K, 6)` float64, metres and radians per
    pixel frame.
    """

    held: Tensor | None
    twists: Tensor | None


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """One action type at one world's speeds."""

    kind: str
    frames_per_step: int
    max_translation: float
    max_rotation_deg: float

    def __post_init__(self) -> None:
        if self.kind not in ACTION_TYPES:
            raise ValueError(unknown("action_type", self.kind, ACTION_TYPES))
        for name, value in (
            ("max_translation", self.max_translation),
            ("max_rotation_deg", self.max_rotation_deg),
        ):
            most = {"max_translation": MAX_METRES, "max_rotation_deg": MAX_DEGREES}[name]
            if not number(value, 0, most) or value == 0:
                raise ValueError(f"{name}={shown(value)} must be a finite number above 0, at most {most}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a single action."""
        return {"keys": (), "multikeys": (8,), "camera": (6,), "camera_sequence": (self.frames_per_step, 6)}[
            self.kind
        ]

    def space(self) -> gym.Space[Any]:
        """Return the space of a single action."""
        if self.kind == "keys":
            return gym.spaces.Discrete(len(KEYS) + 1)
        if self.kind == "multikeys":
            return gym.spaces.MultiBinary(len(KEYS))
        return gym.spaces.Box(-1.0, 1.0, self.shape, np.float32)

    def command(self, actions: Any, batch: int) -> Command:
        """Return the command of `batch` stacked actions; `InvalidAction` for anything outside the space."""
        array = self._checked(actions, batch)
        if self.kind == "keys":
            chosen = torch.from_numpy(array.astype(np.int64))  # (B,)
            return Command(torch.nn.functional.one_hot(chosen, len(KEYS) + 1)[:, 1:].bool(), None)
        if self.kind == "multikeys":
            return Command(torch.from_numpy(array.astype(bool)), None)
        rows = torch.from_numpy(array.astype(np.float64))
        if self.kind == "camera":
            rows = rows[:, None].expand(-1, self.frames_per_step, -1)  # (B, K, 6)
        speed, turn = self.max_translation, math.radians(self.max_rotation_deg)
        return Command(None, rows * rows.new_tensor([speed, speed, speed, turn, turn, turn]))

    def _checked(self, actions: Any, batch: int) -> np.ndarray:
        try:
            array = plain_array(actions, 16 * batch * max(1, math.prod(self.shape)))
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidAction(
                f"the action is not an array of shape {self.shape} for {self.kind!r}: {brief(error)}"
            ) from error
        expected = (batch, *self.shape)
        if array.dtype.kind not in "biuf":
            raise InvalidAction(f"an action of {self.kind!r} holds numbers, not {array.dtype}")
        if array.shape != expected:
            raise InvalidAction(
                f"the action has shape {array.shape[1:] if array.shape[:1] == (batch,) else array.shape}; "
                f"{self.kind!r} needs {self.shape}" + (f" for each of {batch} envs" if batch > 1 else "")
            )
        if not np.isfinite(array).all():
            raise InvalidAction(f"the action is not finite: {shown(array.tolist())}")
        if self.kind == "keys":
            if array.dtype.kind not in "iu":
                raise InvalidAction(
                    f"an action of 'keys' is an integer from 0 to {len(KEYS)}, not {array.dtype}"
                )
            inside = (array >= 0) & (array <= len(KEYS))
        elif self.kind == "multikeys":
            inside = (array == 0) | (array == 1)
        else:
            inside = np.abs(array) <= 1
        if not inside.all():
            low, high = {"keys": (0, len(KEYS)), "multikeys": (0, 1)}.get(self.kind, (-1, 1))
            raise InvalidAction(
                f"the action {shown(array.tolist())} leaves the space of {self.kind!r}: {low} to {high}"
            )
        return array

    def keys_to_action(self) -> dict[str, Any]:
        """Return what each keyboard combination means, for `gymnasium.utils.play.play`."""
        if self.kind == "keys":
            return {key: index + 1 for index, key in enumerate(KEYS)}
        pairs = [first + second for first, second in combinations(KEYS, 2)]
        combos = [*KEYS, *(pair for pair in pairs if frozenset(pair) not in _OPPOSITES)]
        if self.kind == "multikeys":
            return {combo: np.array([key in combo for key in KEYS], np.int8) for combo in combos}
        rows = {
            combo: np.sum([_KEY_TWISTS[key] for key in combo], axis=0).astype(np.float32) for combo in combos
        }
        return {combo: np.broadcast_to(row, self.shape).copy() for combo, row in rows.items()}
