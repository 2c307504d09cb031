"""All slots of a vector environment at one moment, as a value and as bytes.

    kept = envs.snapshot_all()          # between two steps
    envs.restore_all(kept)              # here, in another process, in another environment of equal settings
    data = kept.to_bytes()              # safetensors, no pickle; vector_snapshot_from_bytes(data) reads it

What follows equals what followed the first time, bit for bit on a CPU: actions, resets and autoresets alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes

from wm_env.model.isolation import undisturbed
from wm_env.model.state import cat, select
from wm_env.model.storage.facts import brief, check_fact, content_sha256, parse_json, whole
from wm_env.snapshots import Snapshot, metadata_of, sealed, unpack

_METADATA_KEY = "wm_env.vector_snapshot"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class VectorSnapshot:
    """One moment of every slot.

    slots: a snapshot of each. elapsed: steps of their episodes that count towards the time limit. ended:
    which have ended and wait for their reset. settings: time limit and autoreset mode, which the environment
    that goes on must have.
    """

    slots: tuple[Snapshot, ...]
    elapsed: tuple[int, ...]
    ended: tuple[bool, ...]
    settings: dict[str, Any]

    @undisturbed()
    def to_bytes(self) -> bytes:
        """Return all of it as the bytes of one safetensors file."""
        tensors = {
            f"{slot}/{name}": tensor.detach().cpu().clone().contiguous()
            for slot, one in enumerate(self.slots)
            for name, tensor in one.tensors.items()
        }
        content = {
            "format": FORMAT,
            "config": dict(self.slots[0].config),
            "facts": [dict(one.facts) for one in self.slots],
            "elapsed": list(self.elapsed),
            "ended": list(self.ended),
            "settings": self.settings,
        }
        return sealed(tensors, content, _METADATA_KEY)


@undisturbed()
def vector_snapshot_from_bytes(data: bytes) -> VectorSnapshot:
    """Return the snapshot that `VectorSnapshot.to_bytes` gave.

    Raises `ValueError` where the bytes are none, or not as they were given: a SHA-256 covers all of it.
    """
    try:
        tensors = load_bytes(data)
    except SafetensorError as error:
        raise ValueError(f"these bytes are no snapshot of a vector environment: {brief(error)}") from error
    text = metadata_of(data).get(_METADATA_KEY)
    if text is None:
        raise ValueError("these bytes are safetensors, but no snapshot of a vector environment of wm_env")
    content = parse_json(text, "the description of a vector snapshot")
    check_fact(content, "format", lambda value: value == FORMAT, f"{FORMAT}, what this reads")
    claimed = content.pop("sha256", None)
    if claimed != content_sha256(tensors, content):
        raise ValueError("the SHA-256 of a vector snapshot is not the one that was written; it was damaged")
    slots = []
    for slot, facts in enumerate(content["facts"]):
        begin = f"{slot}/"
        own = {name.removeprefix(begin): x for name, x in tensors.items() if name.startswith(begin)}
        slots.append(Snapshot(config=content["config"], facts=facts, tensors=own))
    count = len(slots)
    wanted = f"{count} values, one a slot"
    check_fact(content, "elapsed", lambda value: _all(value, count, int), wanted)
    check_fact(content, "ended", lambda value: _all(value, count, bool), wanted)
    return VectorSnapshot(
        slots=tuple(slots),
        elapsed=tuple(content["elapsed"]),
        ended=tuple(content["ended"]),
        settings=content["settings"],
    )


class WholeSnapshots:
    """`snapshot_all` and `restore_all` of `SanaWMVectorEnv`."""

    num_envs: int
    max_episode_steps: int | None
    autoreset_mode: AutoresetMode

    @undisturbed()
    def snapshot_all(self) -> VectorSnapshot:
        """Return the moment of all slots, the ended ones too; `restore_all` goes on from it."""
        own: Any = self
        return VectorSnapshot(
            slots=tuple(own.snapshot(slot) for slot in range(self.num_envs)),
            elapsed=tuple(own._elapsed.tolist()),
            ended=tuple(own._ended.tolist()),
            settings=self._settings(),
        )

    @undisturbed()
    def restore_all(self, snapshot: VectorSnapshot) -> None:
        """Make every slot go on from its part of a snapshot; nothing changes where that cannot be.

        Raises `ValueError` naming the difference where the snapshot is of other settings, another world or
        another number of slots, `ClosedEnvironmentError` where the environment is closed.
        """
        own: Any = self
        own._check_open()
        if not isinstance(snapshot, VectorSnapshot):
            raise TypeError(
                f"restore_all takes a VectorSnapshot, as snapshot_all() returns it, not a "
                f"{type(snapshot).__name__}"
            )
        if len(snapshot.slots) != self.num_envs:
            raise ValueError(f"the snapshot has {len(snapshot.slots)} slots, this has {self.num_envs}")
        wanted = self._settings()
        if snapshot.settings != wanted:
            raise ValueError(f"the snapshot is of the settings {snapshot.settings}, these are {wanted}")
        like = None if own._state is None else select(own._state, [0])
        moments = []
        for one in snapshot.slots:
            moments.append(unpack(own._rules, one, like))
            like = moments[0].state
        own._state = cat([moment.state for moment in moments])
        own._prompts = [moment.prompt for moment in moments]
        own._generators = [moment.generator for moment in moments]
        own._seeds = [moment.seed for moment in moments]
        own._elapsed = np.array(snapshot.elapsed, np.int64)
        own._ended = np.array(snapshot.ended, bool)

    def _settings(self) -> dict[str, Any]:
        return {"max_episode_steps": self.max_episode_steps, "autoreset_mode": self.autoreset_mode.value}


def _all(values: Any, count: int, kind: type) -> bool:
    """Return whether a JSON value is `count` counts (int) or truths (bool)."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        return False
    if kind is bool:
        return all(isinstance(value, bool) for value in values)
    return all(whole(value, 0) for value in values)
