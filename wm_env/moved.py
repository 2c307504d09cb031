"""Names that 0.1 had elsewhere: importing one says in one line where it is now."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "wm_env.snapshot": "wm_env.snapshots (Snapshot, load_snapshot and restore are names of wm_env itself)",
    "wm_env.world": "wm_env.model.world (World, Start, Chunk and WorldSpec are names of wm_env itself)",
    "wm_env.files": "wm_env.model.storage.atomic",
    "wm_env.video": "wm_env.model.data.clip_files",
    "wm_env.model.checkpoint": "wm_env.model.storage.checkpoint",
    "wm_env.model.released.folder": "wm_env.model.storage.folder",
    "wm_env.model.released.tensor_files": "wm_env.model.storage.tensor_files",
    "wm_env.model.released.text": "wm_env.model.gemma",
    "wm_env.model.released_names": "wm_env.model.released.names",
    "wm_env.model.spec": "wm_env.model.world",
    "wm_env.model.released.bench": "wm_env.model.released.measure",
    "wm_env.agents.transfer_figures": "wm_env.agents.transfer.figures",
    "wm_env.agents.transfer_metrics": "wm_env.agents.transfer.quantities",
    "wm_env.agents.transfer_players": "wm_env.agents.transfer.players",
    "wm_env.agents.transfer_report": "wm_env.agents.transfer.page",
    "wm_env.agents.transfer_summary": "wm_env.agents.transfer.score",
    "wm_env.bench.behaviour": "wm_env.bench.drift.behaviour",
    "wm_env.bench.bins": "wm_env.bench.drift.bins",
    "wm_env.bench.clip_metrics": "wm_env.bench.drift.clip_metrics",
    "wm_env.bench.drift_probes": "wm_env.bench.drift.probes",
    "wm_env.bench.error_split": "wm_env.bench.drift.error_split",
    "wm_env.bench.figures": "wm_env.bench.drift.figures",
    "wm_env.bench.figures_walks": "wm_env.bench.drift.figures_walks",
    "wm_env.bench.intervals": "wm_env.model.metrics.intervals",
    "wm_env.bench.pose_estimate": "wm_env.bench.drift.pose_estimate",
    "wm_env.bench.report": "wm_env.bench.drift.page",
    "wm_env.bench.revisit": "wm_env.bench.drift.revisit",
    "wm_env.bench.rollouts": "wm_env.bench.drift.rollouts",
    "wm_env.bench.rows_table": "wm_env.bench.drift.rows_table",
    "wm_env.bench.statistics": "wm_env.model.metrics.appearance",
    "wm_env.bench.summary": "wm_env.bench.drift.score",
    "wm_env.bench.survival": "wm_env.bench.drift.survival",
    "wm_env.bench.telemetry": "wm_env.bench.drift.telemetry",
    "wm_env.model.memory": "wm_env.model.point_memory",
    "wm_env.model.frames": "wm_env.model.frame_counts",
    "wm_env.agents.sight": "wm_env.agents.goal_features",
    "wm_env.agents.moves": "wm_env.agents.key_combinations",
    "wm_env.agents.starts": "wm_env.agents.episode_starts",
    "wm_env.model.training.loop": "wm_env.model.training.run (Run) and .schedule (LoopConfig)",
    "wm_env.model.training.vae": "wm_env.model.training.parts.vae",
    "wm_env.model.training.depth": "wm_env.model.training.parts.depth",
    "wm_env.model.training.refiner": "wm_env.model.training.parts.refiner",
    "wm_env.model.training.refiner_rollouts": "wm_env.model.training.parts.refiner_rollouts",
    "wm_env.model.training.world": "wm_env.model.training.parts.world and .world_folder (export_world)",
    "wm_env.model.training.self_forcing": "wm_env.model.training.parts.self_forcing",
    "wm_env.model.training.distill": "wm_env.model.training.parts.distill",
    "wm_env.model.training.distill_steps": "wm_env.model.training.parts.distill_steps",
    "wm_env.model.training.flow_matching": "wm_env.model.training.losses.flow_matching and .batches",
    "wm_env.model.training.clip_loss": "wm_env.model.training.losses.clip",
    "wm_env.model.training.vivid": "wm_env.model.training.losses.appearance",
    "wm_env.model.training.distill_losses": "wm_env.model.training.losses.distillation",
}


class Moved(MetaPathFinder):
    """Asked last, for modules that nobody has found."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in MOVED:
            raise ModuleNotFoundError(f"{fullname} is now {MOVED[fullname]}", name=fullname)
        return None


def tell_where_names_moved() -> None:
    """Let Python say where a module of 0.1 is now; a second call does nothing."""
    if not any(isinstance(finder, Moved) for finder in sys.meta_path):
        sys.meta_path.append(Moved())
