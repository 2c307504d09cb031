"""Four futures of a moment: what would be seen if one of four keys were held for a while.

All four draw the noise that the walk itself would draw, so they differ by the keys alone, and going to one is
going on from where its keys lead.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wm_env.env import SanaWMEnv
from wm_env.recording import pressed
from wm_env.snapshots import Snapshot

CHOICES = (("forward", "w"), ("turn left", "a"), ("turn right", "d"), ("back", "s"))  # label, keys held


class Future(NamedTuple):
    """Where one choice leads.

    label, keys: of `CHOICES`. frame: uint8 `(h, w, 3)`, the last one. moment: what to restore to go there.
    steps: taken, fewer where the episode ended. reward: their sum, as the task gives it. ended: whether the
    episode did.
    """

    label: str
    keys: str
    frame: np.ndarray
    moment: Snapshot
    steps: int
    reward: float
    ended: bool


def imagine(env: SanaWMEnv, steps: int) -> tuple[Future, ...]:
    """Return one future per entry of `CHOICES`, `steps` env steps ahead; `env` stays where it is.

    env: acts by `multikeys`, in an episode that has not ended.
    """
    branched = env.branch(len(CHOICES), noise="shared")
    actions = np.stack([pressed(keys) for _, keys in CHOICES])  # (4, 8)
    rewards = np.zeros(len(CHOICES))
    futures: dict[int, Future] = {}
    for step in range(1, steps + 1):
        _, reward, ended, _, _ = branched.step(actions)
        rewards += reward
        for slot, (label, keys) in enumerate(CHOICES):
            if slot in futures or not (ended[slot] or step == steps):
                continue  # one that has ended is kept as it ended: the next step would start it afresh
            frame = branched.state.frames[slot, -1].cpu().numpy().copy()
            futures[slot] = Future(
                label, keys, frame, branched.snapshot(slot), step, float(rewards[slot]), bool(ended[slot])
            )
    return tuple(futures[slot] for slot in range(len(CHOICES)))
