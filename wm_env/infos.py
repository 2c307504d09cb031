"""What `info` tells of a state: facts of every slot, fresh and deterministic.

See docs/reference/environment.md#info.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from wm_env.answers import check_facts
from wm_env.core import EpisodeRules, State, young
from wm_env.trust import trust_info, untrusted


def infos(rules: EpisodeRules, state: State) -> list[dict[str, Any]]:
    """Return one info dict a slot, fresh and deterministic (docs/reference/environment.md#info)."""
    known = rules.task.facts(state.task)
    if young(state, 1):
        check_facts(rules.task.name, known, state.chunk.shape[0])
    facts = {name: values.tolist() for name, values in known.items()}
    frames_per_step = rules.world.spec.frames_per_step
    c2w, intrinsics = state.c2w.numpy(), state.intrinsics.numpy()
    out = []
    for slot, chunk in enumerate(state.chunk.tolist()):
        info: dict[str, Any] = {
            "c2w": c2w[slot, -1].copy(),
            "c2w_frames": c2w[slot].copy(),
            "intrinsics": intrinsics[slot].copy(),
            "chunk_index": chunk,
            "frame_index": chunk * frames_per_step,
            "context_frames": int(state.context_frames[slot]),
        }
        info |= {name: values[slot] for name, values in facts.items()}
        if bool(state.has_scene[slot]) or rules.collision == "world":
            info["collision"] = bool(state.collided[slot])
        if rules.depth and rules.output == "numpy" and state.depth is not None:
            info["depth"] = state.depth[slot].numpy().copy()
        if rules.trust is not None and state.trust is not None:
            info |= trust_info(rules.trust, state.trust, slot, rules.output == "numpy")
        out.append(info)
    return out


def tensors_of_info(rules: EpisodeRules, state: State) -> dict[str, Tensor]:
    """Return what `info` has as tensors of all slots where the output is tensors."""
    if rules.output == "numpy":
        return {}
    found = {"depth": state.depth if rules.depth else None}
    found["trust_map"] = None if state.trust is None else state.trust.map
    device = state.frames.device
    return {name: one.clone().to(device) for name, one in found.items() if one is not None}


def cut_short(rules: EpisodeRules, state: State) -> np.ndarray:
    """Return which slots `(B,)` bool are trusted less than `min_trust` now."""
    return np.zeros(len(state.chunk), bool) | untrusted(rules.trust, state.trust)
