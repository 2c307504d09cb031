"""`wm-env bench fidelity`: measure a world."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from wm_env.bench.fidelity import FidelitySettings, fidelity, markdown
from wm_env.cli import write_json
from wm_env.files import atomic_path, check_writable
from wm_env.model.rollout import LearnedWorld
from wm_env.world import World
from wm_env.worlds import resolve_world


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """PSNR against the true twin by horizon, the look-away test, and the appearance of long rollouts.

    Writes OUT/fidelity-WORLD.json and .md with rows for the world, its ablations, the codec alone, the first
    frame repeated and wrong actions. 32 scenes of two splits take about 10 minutes on one CPU core.
    """

    out: Path
    """Folder to write to; it is made if missing."""
    world: str = "tiny"
    """Preset or checkpoint folder."""
    splits: tuple[Literal["train", "val", "heldout"], ...] = ("val", "heldout")
    """Scene splits."""
    scenes: int = 32
    """Scenes of every split; fewer than 5 give no confidence interval."""
    seed: int = 0
    """First scene seed; walks and noise follow from it."""
    horizons: tuple[int, ...] = (4, 16, 64)
    """Pixel frames after the start at which frames are compared."""
    long_steps: int = 64
    """Env steps of the appearance test (4 pixel frames each)."""
    batch: int = 8
    """Walks in one world call."""
    device: str = "cpu"
    """Torch device of the world."""
    threads: int = 1
    """CPU threads of torch."""
    json: Path | None = None
    """File for the result as JSON, beside the one in OUT."""

    def run(self) -> dict[str, Any]:
        settings = FidelitySettings(
            splits=tuple(self.splits),
            scenes=self.scenes,
            seed=self.seed,
            horizons=tuple(self.horizons),
            long_steps=self.long_steps,
            batch=self.batch,
        )
        worlds = with_ablations(self.world, self.device)
        table, text = (_inside(self.out, f"fidelity-{self._stem()}.{kind}") for kind in ("json", "md"))
        torch.set_num_threads(self.threads)
        phases = len(settings.splits) * (4 + len(worlds) - int(len(worlds) == 1))
        with tqdm(total=phases, unit="part") as bar:
            result = fidelity(worlds, settings, command_line("fidelity"), _telling(bar))
        write_json(table, result)
        with atomic_path(text) as temporary:
            temporary.write_text(markdown(result))
        print(f"{text}\n{table}")
        return result

    def _stem(self) -> str:
        return Path(self.world).name


def with_ablations(world: str, device: str) -> dict[str, World]:
    """Return the world by its name, and its ablations as `ablate=PART` where it has parts to remove."""
    whole = resolve_world(world, device)
    worlds: dict[str, World] = {whole.spec.name: whole}
    if isinstance(whole, LearnedWorld):
        parts = ("dit", "gdn_state", "memory") if whole.refiner is not None else ("dit", "gdn_state")
        worlds |= {f"ablate={part}": resolve_world(world, device, part) for part in parts}
    return worlds


def command_line(name: str) -> str:
    """Return the command that a report is the result of, as it was typed."""
    words = sys.argv[1:]
    typed = words if words[:2] == ["bench", name] else ["bench", name]
    return "wm-env " + shlex.join(typed)


def _telling(bar: tqdm) -> Callable[[str], None]:
    """Return `report(what begins now)`, which moves the bar to the part that ended."""
    begun: list[str] = []

    def report(what: str) -> None:
        bar.update(int(bool(begun)))
        begun.append(what)
        bar.set_postfix_str(what)

    return report


def _inside(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return check_writable(folder / name)
