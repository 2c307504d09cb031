"""What goes from machine to machine: bfloat16 averages of the stages that are still needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from wm_env.model.storage.atomic import write_atomic
from wm_env.model.training.run import Run
from wm_env.model.training.schedule import Clock


class Carried:
    """What a folder carries from machine to machine: `STAGE.safetensors` and `progress.json`."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.stages: dict[str, dict[str, Any]] = {}
        if folder is not None and (folder / "progress.json").is_file():
            self.stages = json.loads((folder / "progress.json").read_text(encoding="utf-8"))["stages"]

    def weights(self, stage: str) -> dict[str, Tensor]:
        """Return the averaged weights of a stage, float32."""
        assert self.folder is not None
        tensors = load_tensors((self.folder / f"{stage}.safetensors").read_bytes())
        return {name: tensor.float() for name, tensor in tensors.items()}

    def clock(self, stage: str) -> Clock:
        """Return where a stage stood; its optimizers begin anew there."""
        facts = self.stages[stage]
        return Clock(facts["steps"], facts["seconds"], facts["skipped"], warm_from=facts["steps"])

    def keep(self, stage: str, run: Run, superseded: Sequence[str]) -> None:
        """Write where `stage` stands; files of `superseded` stages, no longer needed, go."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: tensor.to("cpu", torch.bfloat16).contiguous() for name, tensor in run.ema_weights().items()
        }
        write_atomic(self.folder / f"{stage}.safetensors", tensor_bytes(weights))
        clock = run.clock
        self.stages[stage] = {
            "steps": clock.step, "seconds": round(clock.seconds, 1), "skipped": clock.skipped,
            "finished": run.finished, "metrics": run.metrics,
        }  # fmt: skip
        text = json.dumps({"stages": self.stages}, indent=2) + "\n"
        write_atomic(self.folder / "progress.json", text.encode())
        for old in superseded:
            (self.folder / f"{old}.safetensors").unlink(missing_ok=True)
