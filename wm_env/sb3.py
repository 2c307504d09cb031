"""The Stable-Baselines3 interface: `SanaWMVecEnv`, one world call per step for all slots.

SB3 differs from Gymnasium's vector environments in its calls, not in what happens: a slot that ends is reset
within the same step, its last observation is in `info["terminal_observation"]`, infos are one dict a slot.
Needs the extra `rl`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Unpack

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from wm_env.config import EnvSettings
from wm_env.modes import frame_rate
from wm_env.registration import DEFAULT_MAX_EPISODE_STEPS
from wm_env.slots import OF_ALL, OF_SLOTS
from wm_env.vector import SanaWMVectorEnv

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise ImportError("wm_env.sb3 needs Stable-Baselines3: pip install 'wm-env[rl]'") from error

SLOT_METHODS = ("snapshot", "set_prompt", "render")
FACTS = {*OF_SLOTS, *OF_ALL} - {*SLOT_METHODS, "get_keys_to_action"}


class SanaWMVecEnv(VecEnv):
    """`num_envs` slots of `SanaWMVectorEnv` as an SB3 `VecEnv`.

    Arguments are those of `SanaWMVectorEnv` without `autoreset_mode`; `max_episode_steps` is the registered
    time limit unless given. `reset()` returns observations only, its infos are in `reset_infos`. `step()`
    returns observations, rewards float32 `(num_envs,)`, dones bool `(num_envs,)` and a list of infos: of the
    step that ended, where one did, with `terminal_observation` and `TimeLimit.truncated`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int = DEFAULT_MAX_EPISODE_STEPS,
        render_mode: str | None = None,
        **settings: Unpack[EnvSettings],
    ) -> None:
        self.envs = SanaWMVectorEnv(
            num_envs,
            max_episode_steps=max_episode_steps,
            autoreset_mode=AutoresetMode.SAME_STEP,
            render_mode=render_mode,
            **settings,
        )
        super().__init__(num_envs, self.envs.single_observation_space, self.envs.single_action_space)
        fps = frame_rate(self.envs.world.spec, "rgb_array")  # SB3's recorder keeps one frame a step
        self.metadata: dict[str, Any] = {**self.metadata, "render_fps": fps}
        self._actions: np.ndarray | None = None

    def reset(self) -> Any:
        """Start all slots with the seeds of `seed()` and the options of `set_options()`, used once."""
        seeds, options = list(self._seeds), self._options
        observed, info = self.envs.reset(seed=seeds, options=options[0])
        self.reset_infos = [_of_slot(info, slot) for slot in range(self.num_envs)]
        for slot in range(1, self.num_envs):
            if options[slot] != options[0]:
                mask = np.arange(self.num_envs) == slot
                told = [seed if here else None for seed, here in zip(seeds, mask, strict=True)]
                observed, info = self.envs.reset(seed=told, options={**options[slot], "reset_mask": mask})
                self.reset_infos[slot] = _of_slot(info, slot)
        self._reset_seeds()
        self._reset_options()
        return observed

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = np.asarray(actions)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        if self._actions is None:
            raise RuntimeError("step_wait() was called without step_async() before it")
        actions, self._actions = self._actions, None
        observed, rewards, terminated, truncated, info = self.envs.step(actions)
        dones = terminated | truncated
        infos = []
        for slot in range(self.num_envs):
            fresh = _of_slot(info, slot)
            last, final = fresh.pop("final_obs", None), fresh.pop("final_info", None)
            if dones[slot]:
                self.reset_infos[slot], fresh = fresh, final
                fresh["terminal_observation"] = last
            fresh["TimeLimit.truncated"] = bool(truncated[slot] and not terminated[slot])
            infos.append(fresh)
        return observed, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Forget the episodes; may be called twice."""
        self.envs.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return each slot's newest frame at full size."""
        return [frame.copy() for frame in self.envs.state.frames[:, -1].numpy()]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return what each asked slot answers (`wm_env.slots`), or an attribute of the vector environment."""
        if attr_name in FACTS:
            values = self.envs.get_attr(attr_name)
            return [values[slot] for slot in self._slots(indices)]
        value = getattr(self.envs, attr_name)
        return [value for _ in self._slots(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Raise: settings are given at construction."""
        raise AttributeError(f"{attr_name!r} cannot be set: a SanaWMVecEnv is configured when it is made")

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call `snapshot()`, `set_prompt(prompt)` or `render()` for each asked slot."""
        slots = self._slots(indices)
        if method_name == "snapshot":
            return [self.envs.snapshot(slot, *method_args, **method_kwargs) for slot in slots]
        if method_name == "set_prompt":
            (prompt,) = method_args or tuple(method_kwargs.values())
            self.envs.set_prompt([prompt if slot in slots else None for slot in range(self.num_envs)])
            return [None for _ in slots]
        if method_name == "render":
            images = self.get_images()
            return [images[slot] for slot in slots]
        raise AttributeError(f"slots have no method {method_name!r}; there are {', '.join(SLOT_METHODS)}")

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        """Return False for each asked slot: nothing wraps a slot."""
        return [False for _ in self._slots(indices)]

    def _slots(self, indices: int | Iterable[int] | None) -> list[int]:
        return [int(slot) for slot in self._get_indices(indices)]


def _of_slot(info: dict[str, Any], slot: int) -> dict[str, Any]:
    """Return one slot's entries of a Gymnasium vector info (arrays with `_name` masks) as plain values."""
    own: dict[str, Any] = {}
    for name, values in info.items():
        if name.startswith("_") or (f"_{name}" in info and not info[f"_{name}"][slot]):
            continue
        if isinstance(values, dict):
            own[name] = _of_slot(values, slot)
        else:
            value = values[slot]
            own[name] = value.item() if isinstance(value, np.generic) else value
    return own
