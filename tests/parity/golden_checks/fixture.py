"""A golden fixture: tensors and JSON metadata of one file, its tolerances, and the errors measured."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

NEAR_ZERO_DEG = 0.25  # below it a float32 arccos cannot tell angles apart to the usual tolerance
MODULE_TOLERANCE = {"rel": 5e-6}  # where a fixture states none: float32 noise of a few attention modules


FRAME_TABLES = {
    "snap_num_frames",
    "snap_stride24",
    "latent_frames",
    "pose_index_of_latent",
    "plucker_raw_frames_of_latent",
}


class Measured(NamedTuple):
    """One comparison: the worst error and the tolerance it was held to, in the unit `measure` names."""

    file: str
    name: str
    measure: str
    error: float
    tolerance: float


@dataclass
class Fixture:
    """One file of the folder. `kind` is None where nothing in the file says what it is.

    Reading a tensor or comparing with it marks it as used, so that nothing is left unread by accident.
    """

    path: Path
    kind: str | None
    meta: dict[str, Any]
    tensors: dict[str, Tensor]
    measured: list[Measured] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> Tensor:
        self.used.add(name)
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def get(self, name: str) -> Tensor | None:
        return self[name] if name in self.tensors else None

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.tensors if name.startswith(prefix))

    def weights(self) -> dict[str, Tensor]:
        """Return the module's tensors under their checkpoint keys."""
        return {name.removeprefix("weight."): self[name] for name in self.names("weight.")}

    def tolerance(self, name: str) -> dict[str, float] | None:
        """Return the tolerance of a tensor: longest matching prefix, `*` a number; None: do not test."""
        found: dict[str, float] | None = MODULE_TOLERANCE
        longest = -1
        for prefix, tolerance in self.meta.get("tolerances", {}).items():
            pattern = re.escape(prefix).replace(r"\*", r"\d+(\.\d+)?")
            if len(prefix) > longest and re.match(pattern, name):
                found, longest = tolerance, len(prefix)
        return found

    def check(self, name: str, ours: Tensor) -> None:
        """Compare `ours` with the recorded tensor `name` at its tolerance."""
        self.used.add(name)
        if self.tolerance(name) is not None:
            self.check_value(name, ours, self.tensors[name])

    def check_value(self, name: str, ours: Tensor, recorded: Tensor, like: str | None = None) -> None:
        """Compare with a recorded value that need not be a tensor of the file; `like`: whose tolerance."""
        tolerance = self.tolerance(like or name)
        if tolerance is None:
            return
        assert ours.shape == recorded.shape, f"{name}: shape {tuple(ours.shape)}, not {tuple(recorded.shape)}"
        assert bool(torch.isfinite(ours.double()).all()), f"{name}: not finite"
        ours, recorded = ours.detach().double(), recorded.double()
        difference = (ours - recorded).abs()
        largest = float(difference.max()) if difference.numel() else 0.0
        if "rel" in tolerance:
            scale = float(recorded.abs().max()) if recorded.numel() else 0.0
            self._record(name, "relative", largest / scale if scale > 0 else largest, tolerance["rel"])
        elif "abs" in tolerance:
            self._record(name, "absolute", largest, tolerance["abs"])
        else:
            small = torch.maximum(ours.abs(), recorded.abs()) < NEAR_ZERO_DEG
            for part, key in ((small, "abs_deg_near_zero"), (~small, "abs_deg")):
                if bool(part.any()):
                    self._record(name, "degrees", float(difference[part].max()), tolerance[key])

    def _record(self, name: str, measure: str, error: float, tolerance: float) -> None:
        self.measured.append(Measured(self.path.name, name, measure, error, tolerance))

    def failures(self) -> list[str]:
        return [
            f"{m.name}: {m.measure} error {m.error:.3g} is above {m.tolerance:.3g}"
            for m in self.measured
            if not m.error <= m.tolerance
        ]

    def unread(self) -> list[str]:
        return sorted(set(self.tensors) - self.used)


def load(path: Path) -> Fixture:
    """Return the fixture of a file; its kind comes from its content, never from its name."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            meta = {key: _decode(text) for key, text in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Fixture(path, meta.get("kind"), meta, tensors)
    if path.suffix == ".json":
        meta = json.loads(path.read_text())
        keys = set(meta) if isinstance(meta, dict) else set()
        kind = "actions_json" if "strings" in keys else "frames" if keys & FRAME_TABLES else None
        return Fixture(path, kind, meta, {})
    if path.suffix == ".npy":
        array = np.load(path)
        kind = {(4, 4): "poses", (3, 3): "intrinsics"}.get(array.shape[-2:])
        return Fixture(path, kind, {}, {"array": torch.from_numpy(array)})
    return Fixture(path, None, {}, {})


def _decode(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
