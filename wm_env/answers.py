"""The first answers of a world and a task are looked at: what does not fit the protocols is named.

A world or a task of one's own is asked by `wm_env.core` at every step. Its answers at the start of an episode
and at the first step are checked for type, dtype and shape; what is wrong is one sentence that names the
object, the call, what came and what was expected. Later answers are taken as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from wm_env.model.state import leaves
from wm_env.model.world import Chunk, WorldSpec
from wm_env.tasks import TaskOutcome

FACTS = ("distance_to_goal", "is_success", "spl")


def check_spaces(name: str, spaces: Any) -> dict[str, gym.Space[Any]]:
    """Return what a task's `spaces` returned, or raise `TypeError` where it is no dict of spaces."""
    if not isinstance(spaces, dict) or not all(isinstance(space, gym.Space) for space in spaces.values()):
        raise TypeError(f"task {name}: spaces returned {_kind(spaces)}; expected a dict of Gymnasium spaces")
    return spaces


def check_shown_chunk(call: str, answer: Any, spec: WorldSpec, batch: int, frames: int) -> None:
    """Raise `TypeError` or `ValueError` where a world's answer is not `(Chunk, state)` as its spec says.

    frames: pixel frames of the chunk.
    """
    who = f"world {spec.name}: {call}"
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], Chunk)):
        raise TypeError(f"{who} returned {_kind(answer)}; expected the pair (Chunk, state)")
    chunk, state = answer
    height, width = spec.frame_size
    _check_tensor(f"{who}: frames", chunk.frames, (batch, frames, height, width, 3), (torch.uint8,))
    if spec.latent_shape is not None:
        _check_tensor(f"{who}: latent", chunk.latent, (batch, *spec.latent_shape), _FLOATS)
    elif chunk.latent is not None:
        raise ValueError(f"{who}: there is a latent, but spec.latent_shape is None")
    if chunk.depth is not None:
        _check_tensor(f"{who}: depth", chunk.depth, (batch, frames, height, width), _FLOATS)
    check_state(f"{who}: the state", state, batch)


def check_state(who: str, state: Any, batch: int) -> None:
    """Raise where `state` is no tree of tensors with the batch axis first."""
    try:
        found = list(leaves(state))
    except TypeError as error:
        raise TypeError(f"{who} cannot be kept: {error}") from None
    for name, leaf in found:
        if leaf.ndim == 0 or leaf.shape[0] != batch:
            raise ValueError(
                f"{who}: {name or 'the tensor'} has shape {tuple(leaf.shape)}; the first axis is the batch, "
                f"{batch} here"
            )


def check_next_state(who: str, before: Any, after: Any, batch: int) -> None:
    """Raise where a state has changed its structure, shapes or dtypes, which slots at other steps share."""
    check_state(who, after, batch)
    was, now = ({name: (tuple(x.shape), x.dtype) for name, x in leaves(tree)} for tree in (before, after))
    odd = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
    if odd:
        name = odd[0]
        raise ValueError(
            f"{who}: {name or 'the tensor'} was {_shape(was.get(name))} and is {_shape(now.get(name))}; its "
            "parts, shapes and dtypes stay the same over an episode"
        )


def check_outcome(name: str, answer: Any, before: Any, batch: int) -> None:
    """Raise where a task's `step` returned no `(state, TaskOutcome)`."""
    who = f"task {name}: step"
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], TaskOutcome)):
        raise TypeError(f"{who} returned {_kind(answer)}; expected the pair (state, TaskOutcome)")
    state, outcome = answer
    _check_tensor(f"{who}: the reward", outcome.reward, (batch,), _FLOATS)
    _check_tensor(f"{who}: terminated", outcome.terminated, (batch,), (torch.bool,))
    check_next_state(f"{who}: the state", before, state, batch)


def check_observed(name: str, seen: Any, spaces: Mapping[str, gym.Space[Any]], batch: int) -> None:
    """Raise where a task's `observe` did not return the values of its `spaces`, batched."""
    who = f"task {name}: observe"
    if not isinstance(seen, dict) or set(seen) != set(spaces):
        came = f"the entries {sorted(map(str, seen))}" if isinstance(seen, dict) else _kind(seen)
        raise TypeError(f"{who} returned {came}; spaces has {sorted(spaces)}")
    for entry, values in seen.items():
        space = spaces[entry]
        shape, dtype = (batch, *(space.shape or ())), space.dtype
        if not isinstance(values, np.ndarray) or values.shape != shape or values.dtype != dtype:
            raise ValueError(f"{who}: {entry!r} is {_kind(values)}; expected a NumPy array {shape} {dtype}")


def check_facts(name: str, facts: Any, batch: int) -> None:
    """Raise where a task's `facts` did not return tensors `(B,)` with the three that every task has."""
    who = f"task {name}: facts"
    if not isinstance(facts, dict):
        raise TypeError(f"{who} returned {_kind(facts)}; expected a dict of tensors ({batch},)")
    missing = [fact for fact in FACTS if fact not in facts]
    if missing:
        raise ValueError(
            f"{who}: {', '.join(missing)} missing; a task without a goal returns no_goal_facts(batch) of "
            "wm_env.tasks.protocol, and what it likes beside"
        )
    for fact, values in facts.items():
        _check_tensor(f"{who}: {fact!r}", values, (batch,), None)


_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _check_tensor(
    who: str, value: Any, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...] | None
) -> None:
    kinds = "" if dtypes is None else f" {_dtype(dtypes[0])}"
    if not isinstance(value, Tensor):
        raise TypeError(f"{who} is {_kind(value)}; expected a tensor {shape}{kinds}")
    if tuple(value.shape) != shape or (dtypes is not None and value.dtype not in dtypes):
        raise ValueError(f"{who} is {_kind(value)}; expected {shape}{kinds}")


def _kind(value: Any) -> str:
    """Return what a value is, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} {_dtype(value.dtype)}"
    if isinstance(value, np.ndarray):
        return f"a NumPy array {value.shape} {value.dtype}"
    if value is None:
        return "None"
    name = type(value).__name__
    if type(value) in (tuple, list):
        return f"a {name} of {len(value)}"
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


def _shape(found: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "absent" if found is None else f"{found[0]} {_dtype(found[1])}"


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
