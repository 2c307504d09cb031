"""What users of Gymnasium's Sync- and AsyncVectorEnv ask of single environments, answered by a batch.

    envs.call("render")                one frame a slot
    envs.get_attr("_max_episode_steps")

One world steps all slots, so there are no environments to hand a name on to: `OF_SLOTS` are the calls that a
slot answers for itself, `OF_ALL` the facts that are equal in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

from wm_env.model.names import did_you_mean
from wm_env.model.storage.facts import shown
from wm_env.modes import as_prompt


def _rendered(envs: Any) -> tuple[Any, ...]:
    frames = envs.render()
    return (None,) * envs.num_envs if frames is None else frames


def _told(envs: Any, prompt: Any) -> tuple[None, ...]:
    envs.set_prompt([prompt] * envs.num_envs)
    return (None,) * envs.num_envs


OF_SLOTS: Mapping[str, Callable[..., tuple[Any, ...]]] = {
    "render": _rendered,
    "snapshot": lambda envs: tuple(envs.snapshot(slot) for slot in range(envs.num_envs)),
    "set_prompt": _told,
    "prompt": lambda envs: tuple(envs.prompts),
    "np_random": lambda envs: envs.np_random,
    "np_random_seed": lambda envs: envs.np_random_seed,
}
OF_ALL: Mapping[str, Callable[[Any], Any]] = {
    "action_space": lambda envs: envs.single_action_space,
    "observation_space": lambda envs: envs.single_observation_space,
    "single_action_space": lambda envs: envs.single_action_space,
    "single_observation_space": lambda envs: envs.single_observation_space,
    "spec": lambda envs: envs.spec,
    "metadata": lambda envs: envs.metadata,
    "render_mode": lambda envs: envs.render_mode,
    "max_episode_steps": lambda envs: envs.max_episode_steps,
    "_max_episode_steps": lambda envs: envs.max_episode_steps,
    "config": lambda envs: envs.config,
    "task": lambda envs: envs.rules.task.name,
    "world": lambda envs: envs.world,
    "frames_per_step": lambda envs: envs.frames_per_step,
    "steps_per_second": lambda envs: envs.steps_per_second,
    "trained_steps": lambda envs: envs.world.spec.trained_steps,
    "get_keys_to_action": lambda envs: envs.rules.actions.keys_to_action(),
}


class SlotCalls:
    """`call`, `get_attr` and `set_attr` of a vector environment without environments in it."""

    num_envs: int

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return what every slot answers to a call, or to the name of a fact, as Gymnasium's own do.

        Raises `AttributeError` for a name that slots do not have, `TypeError` for arguments that do not fit.
        """
        if name in OF_SLOTS:
            return OF_SLOTS[name](self, *args, **kwargs)
        if name in OF_ALL:
            if args or kwargs:
                raise TypeError(f"{name!r} takes no arguments")
            return (OF_ALL[name](self),) * self.num_envs
        raise AttributeError(_unknown(name))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return a fact of every slot; the names are those of `call`."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Raise `AttributeError`: settings are given at construction, to one world for all slots."""
        raise AttributeError(
            f"{name!r} cannot be set: the slots share one world, configured when it is made; prompts are "
            "told by set_prompt"
        )


def _unknown(name: str) -> str:
    known = (*OF_SLOTS, *OF_ALL)
    return f"slots have no {name!r}{did_you_mean(name, known) or '.'} There are {', '.join(known)}"


def mask_of_slots(mask: Any, num_envs: int, begun: bool) -> np.ndarray:
    """Return which slots a reset is of, bool `(num_envs,)`, all where `mask` is None.

    begun: whether there are episodes. Raises `ValueError` for what is no such mask, `ResetNeeded` where the
    first reset leaves a slot out.
    """
    if mask is None:
        return np.ones(num_envs, bool)
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (num_envs,):
        raise ValueError(f"options['reset_mask'] must be a numpy bool array of shape ({num_envs},)")
    if not mask.any():
        raise ValueError("options['reset_mask'] selects no slot")
    if not begun and not mask.all():
        raise ResetNeeded("the first reset starts every slot; call reset() without a reset_mask")
    return mask


def seeds_of_slots(seed: Any, num_envs: int) -> list[int | None]:
    """Return a seed for every slot: an integer counts up from slot to slot, None seeds none."""
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
        return [int(seed) + slot for slot in range(num_envs)]
    scalar = isinstance(seed, np.ndarray) and seed.ndim != 1
    if not isinstance(seed, Sequence | np.ndarray) or isinstance(seed, str | bytes) or scalar:
        raise ValueError(f"seed={shown(seed)} is neither an integer nor one for each env")
    if len(seed) != num_envs:
        raise ValueError(f"{len(seed)} seeds were given for {num_envs} envs")
    return [int(one) if isinstance(one, np.integer) else one for one in seed]


def prompts_of_slots(prompts: Any, num_envs: int) -> list[str | None]:
    """Return a prompt for every slot, None where it keeps its own; one text is for all."""
    array = isinstance(prompts, np.ndarray) and prompts.ndim == 1
    if not isinstance(prompts, str | list | tuple) and not array:
        raise ValueError(f"prompts are a {type(prompts).__name__}; expected a text, or one for each env")
    told = [prompts] * num_envs if isinstance(prompts, str) else list(prompts)
    if len(told) != num_envs:
        raise ValueError(f"{len(told)} prompts were given for {num_envs} envs")
    return [None if prompt is None else as_prompt(prompt) for prompt in told]


def check_none_ended(ended: np.ndarray, mode: AutoresetMode) -> None:
    """Raise `ResetNeeded` where a slot has ended and nothing resets it by itself."""
    if mode is AutoresetMode.DISABLED and ended.any():
        slots = np.flatnonzero(ended).tolist()
        raise ResetNeeded(f"slots {slots} have ended; reset them with options['reset_mask']")
