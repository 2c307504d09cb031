"""Options that several commands share: types and texts of the environment's own settings.

What `gym.make` says of a setting, docs/api.md prints and `--help` shows; all three come from the docstring of
`EnvConfig`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from wm_env.config import EnvConfig
from wm_env.documented import fields_of
from wm_env.model.released import parts

_TEXTS = fields_of(EnvConfig)


def setting(name: str) -> Any:
    """Return the mark that shows the text of an `EnvConfig` field as an option's help."""
    text, *_ = _TEXTS[name].split("; in Python ")  # what only code can pass
    return tyro.conf.arg(help=text[0].upper() + text[1:])


World = Annotated[str, setting("world")]
Task = Annotated[Literal["explore", "pointnav", "objectnav", "imagenav", "follow"], setting("task")]
Scene = Annotated[int | None, setting("scene")]
Split = Annotated[Literal["train", "val", "heldout"], setting("split")]
Image = Annotated[Path | None, setting("image")]
Context = Annotated[str, setting("context")]
Prompt = Annotated[str | None, setting("prompt")]
Temperature = Annotated[float, setting("temperature")]
Device = Annotated[str, setting("device")]
Calibration = Annotated[Path | None, setting("calibration")]
Ablate = Annotated[Literal["dit", "gdn_state", "memory"] | None, setting("ablate")]
Weights = Annotated[Path | None, setting("weights")]
Refiner = Annotated[Literal["default", "none", "tiny", "ltx2"], setting("refiner")]
Dtype = Annotated[Literal["float32", "bfloat16"] | None, setting("dtype")]
Offload = Annotated[tuple[parts.Offload, ...], setting("offload")]
FrameSize = Annotated[tuple[int, int] | None, setting("frame_size")]
Precision = Annotated[str, setting("precision")]
RefinerHistory = Annotated[int, setting("refiner_history")]
Window = Annotated[int | None, setting("window")]
CameraDtype = Annotated[Literal["float32", "bfloat16"], setting("camera_dtype")]
