"""What a kind of stages makes of one, and the pictures that it shows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wm_env.model.training.optimizers import ParameterGroup
from wm_env.model.training.run import EvalFn, StepFn

SHEET = 16  # pictures in a row of a contact sheet


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a kind makes of a stage: the model at its start, and what `Run` needs of it.

    settings: what decides the run, as JSON values. close: ends helper processes.
    """

    model: nn.Module
    step: StepFn
    evaluate: EvalFn
    settings: Mapping[str, Any]
    rule: Callable[[str, nn.Parameter], ParameterGroup]
    close: Callable[[], None]


def grid(rows: Sequence[Tensor]) -> np.ndarray:
    """Return pictures uint8 `(n, H, W, 3)` of several rows as one image."""
    lines = [torch.cat(list(row.cpu()), dim=1) for row in rows]
    return torch.cat(lines, dim=0).numpy()
