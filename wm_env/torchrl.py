"""`SanaWMEnv` for TorchRL: a batched `EnvBase` whose frames stay on the world's device (extra `torchrl`).

    from wm_env.torchrl import SanaWMEnv
    env = SanaWMEnv(num_envs=8, task="objectnav")
    data = env.rollout(32, break_when_any_done=False)        # TensorDict [8, 32]
    futures = SanaWMEnv(num_envs=4, task="objectnav")
    futures.restore(env.snapshot()[:1].expand(4))            # four futures of one moment

Ended slots are reset by the mask that TorchRL's collectors and `step_and_maybe_reset` hand over.
"""

from __future__ import annotations

import json
from typing import Any, Unpack

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from wm_env.config import EnvSettings
from wm_env.snapshots import Snapshot
from wm_env.vector import SanaWMVectorEnv
from wm_env.whole import VectorSnapshot

try:
    from tensordict import NonTensorStack, TensorDict, TensorDictBase
    from torchrl.data import Binary, Bounded, Categorical, Composite, TensorSpec, Unbounded
    from torchrl.envs import EnvBase
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] not in ("torchrl", "tensordict"):
        raise
    raise ModuleNotFoundError(
        'wm_env.torchrl needs TorchRL, which is not installed: pip install "wm-env[torchrl]"', name=error.name
    ) from error

OBSERVATION = "observation"  # of environments whose observation is one array
_FACTS, _CONFIG = "facts", "config"


class SanaWMEnv(EnvBase):
    """`num_envs` slots of the environment that `wm_env.SanaWMEnv` documents, batch size `[num_envs]`.

    num_envs, max_episode_steps (None: no time limit), threads and settings: as `SanaWMVectorEnv` takes them,
    less `autoreset_mode`, `render_mode` and `output`, which TorchRL decides.

    Observations: `observation`, or the names of a task's dict (`image`, `goal`), as they come, uint8 frames
    `(N, h, w, 3)`. Actions: `Categorical` for keys, `Binary` for multikeys, `Bounded` for camera and twist.
    Reward float32 `(N, 1)`. done, terminated, truncated: bool `(N, 1)`.
    """

    batch_locked = True

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = 256,
        threads: int | None = None,
        **settings: Unpack[EnvSettings],
    ) -> None:
        if settings.get("output", "torch") != "torch":
            raise ValueError(f"output={settings['output']!r}: TorchRL takes tensors; leave output out")
        asked: dict[str, Any] = {**settings, "output": "torch"}
        self._envs = SanaWMVectorEnv(
            num_envs, max_episode_steps=max_episode_steps, autoreset_mode="disabled", threads=threads, **asked
        )
        count = self._envs.num_envs
        super().__init__(device=torch.device(asked.get("device", "cpu")), batch_size=torch.Size([count]))
        space = self._envs.single_observation_space
        named = space.spaces if isinstance(space, gym.spaces.Dict) else {OBSERVATION: space}
        shape = torch.Size([count])
        self.observation_spec = Composite(
            {name: _spec(one, count, self.device) for name, one in named.items()}, shape=shape
        )
        self.action_spec = _spec(self._envs.single_action_space, count, self.device)
        self.reward_spec = Unbounded(shape=(count, 1), dtype=torch.float32, device=self.device)
        flags = {
            name: Categorical(2, shape=(count, 1), dtype=torch.bool, device=self.device)
            for name in ("done", "terminated", "truncated")
        }
        self.done_spec = Composite(flags, shape=shape)
        self._seed: int | None = None

    @property
    def envs(self) -> SanaWMVectorEnv:
        """The vector environment inside; step it by `step` of this one alone."""
        return self._envs

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        """Reset all slots, or those of the entry `_reset` (bool `(N, 1)` or `(N,)`)."""
        options = {}
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if mask is not None:
            options = {"reset_mask": mask.reshape(self._envs.num_envs, -1).any(-1).cpu().numpy()}
        seed, self._seed = self._seed, None
        seen, _ = self._envs.reset(seed=seed, options=options)
        return TensorDict(
            {**self._named(seen), **self._flags(self._zeros(), self._zeros())},
            batch_size=self.batch_size,
            device=self.device,
        )

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Move all slots for one chunk."""
        answer: Any = self._envs.step(tensordict.get(self.action_key))  # tensors, for output="torch"
        seen, reward, terminated, truncated, _ = answer
        return TensorDict(
            {
                **self._named(seen),
                "reward": reward.float()[:, None],
                **self._flags(terminated, truncated),
            },
            batch_size=self.batch_size,
            device=self.device,
        )

    def _set_seed(self, seed: int | None) -> None:
        """Remember the seed of the next reset; slot i has seed + i."""
        self._seed = seed

    def snapshot(self) -> TensorDictBase:
        """Return the moment of all slots, batch size `[N]`: index, expand, store it, and `restore` it.

        Entries are the tensors of the state by their names, and two of text: what a slot is besides, and what
        environments must share. Nothing of it changes when the environment goes on.
        """
        kept = self._envs.snapshot_all()
        names = list(kept.slots[0].tensors)
        tensors = {name: torch.cat([slot.tensors[name] for slot in kept.slots]) for name in names}
        facts = [
            {"facts": dict(slot.facts), "elapsed": elapsed, "ended": ended}
            for slot, elapsed, ended in zip(kept.slots, kept.elapsed, kept.ended, strict=True)
        ]
        shared = json.dumps({"config": dict(kept.slots[0].config), "settings": kept.settings})
        return TensorDict(
            {
                "state": TensorDict(tensors, batch_size=self.batch_size),
                _FACTS: NonTensorStack(*[json.dumps(one) for one in facts]),
                _CONFIG: NonTensorStack(*[shared for _ in facts]),
            },
            batch_size=self.batch_size,
        )

    def restore(self, moment: TensorDictBase) -> None:
        """Go on from such a moment of N slots, each its own or copies of one.

        Raises `ValueError` where it is of another number of slots, another world or other settings.
        """
        if moment.batch_size != self.batch_size:
            raise ValueError(
                f"the moment is of batch size {list(moment.batch_size)}, this environment of "
                f"{list(self.batch_size)}; index or expand it"
            )
        facts = [json.loads(text) for text in _texts(moment, _FACTS)]
        shared = [json.loads(text) for text in _texts(moment, _CONFIG)]
        tensors = moment.get("state")
        slots = [
            Snapshot(
                config=shared[slot]["config"],
                facts=facts[slot]["facts"],
                tensors={name: tensors.get(name)[slot : slot + 1] for name in tensors.keys()},  # noqa: SIM118
            )
            for slot in range(len(facts))
        ]
        self._envs.restore_all(
            VectorSnapshot(
                slots=tuple(slots),
                elapsed=tuple(one["elapsed"] for one in facts),
                ended=tuple(one["ended"] for one in facts),
                settings=shared[0]["settings"],
            )
        )

    def _named(self, seen: Any) -> dict[str, Tensor]:
        return dict(seen) if isinstance(seen, dict) else {OBSERVATION: seen}

    def _flags(self, terminated: Tensor, truncated: Tensor) -> dict[str, Tensor]:
        ends = {"terminated": terminated, "truncated": truncated, "done": terminated | truncated}
        return {name: flag[:, None] for name, flag in ends.items()}

    def _zeros(self) -> Tensor:
        return torch.zeros(self.batch_size, dtype=torch.bool, device=self.device)


def _texts(moment: TensorDictBase, name: str) -> list[str]:
    """Return the text of every slot of an entry."""
    found = moment.get(name).tolist()
    return [str(text) for text in found]


def _spec(space: gym.Space[Any], count: int, device: torch.device | None) -> TensorSpec:
    """Return the spec of `count` slots of a space."""
    if isinstance(space, gym.spaces.Discrete):
        return Categorical(int(space.n), shape=(count,), dtype=torch.int64, device=device)
    if isinstance(space, gym.spaces.MultiBinary):
        return Binary(shape=(count, *space.shape), dtype=torch.int8, device=device)
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(f"TorchRL has no spec here for {space}; use a task of arrays")
    shape, dtype = (count, *space.shape), torch.from_numpy(np.zeros(0, space.dtype)).dtype
    if np.isfinite(space.low).all() and np.isfinite(space.high).all():
        low, high = (torch.as_tensor(x, device=device).expand(shape) for x in (space.low, space.high))
        return Bounded(low=low, high=high, shape=shape, dtype=dtype, device=device)
    return Unbounded(shape=shape, dtype=dtype, device=device)


__all__ = ["OBSERVATION", "SanaWMEnv"]
