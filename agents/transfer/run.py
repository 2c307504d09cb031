"""`wm-env bench transfer`: settings of the learner, the run, and everything that is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wm_env.agents.transfer.page import check_figures, verdict, write_report
from wm_env.agents.transfer.players import learner_settings
from wm_env.agents.transfer.report import TransferReport
from wm_env.agents.transfer.rows import transfer
from wm_env.agents.transfer.score import score
from wm_env.agents.transfer.settings import TransferSettings
from wm_env.bench.provenance import command_line, provenance
from wm_env.bench.records import read_json
from wm_env.worlds import resolve_world

QUICK_EPISODES, QUICK_TEMPERATURES = 30, (0.0,)


def run(
    out: Path,
    learner: Mapping[str, Any],
    compared: Mapping[str, Any],
    *,
    task: str,
    source: str | None = None,
    steps: int | None = None,
    checkpoints: int = 8,
    quick: bool = False,
    policy: str | None = None,
) -> tuple[TransferReport, list[Path], str]:
    """Return the report, the files written into `out`, and the report's one sentence.

    learner, compared: fields of `PPOSettings` and of `TransferSettings` that differ from their sources: the
    run folder or policy `source` (None: the policy shipped for `task`), and the defaults. steps: of every
    training, None for the learner's own; checkpoints: of one. quick: score the shipped policies on few
    starts and train none. policy: a user's own to score beside them. What `out` holds of the same settings is
    not done again. Raises `ValueError` for impossible settings and where figures cannot be drawn.
    """
    check_figures()
    settings = _settings(learner, compared, task, source, steps, checkpoints, quick)
    spec = resolve_world(settings.learner.world, device=settings.learner.device).spec
    walked = transfer(settings, out, shipped=quick, policy=policy)
    replayed = read_json(out / "episodes" / "replay.json")
    found = score(walked, replayed, settings.learner.max_episode_steps, settings.seed)
    report = TransferReport(
        benchmark="transfer",
        **provenance(spec, command_line("transfer")),
        settings=settings,
        policies=_digests(walked),
        **vars(found),
    )
    return report, write_report(out, report), verdict(report)


def _settings(
    learner: Mapping[str, Any],
    compared: Mapping[str, Any],
    task: str,
    source: str | None,
    steps: int | None,
    checkpoints: int,
    quick: bool,
) -> TransferSettings:
    """Return what is trained and walked; roles vary blind, ablate and temperature."""
    base = learner_settings(source, task)
    steps = base.steps if steps is None else steps
    own = {
        "task": task,
        "steps": steps,
        "checkpoint_every": max(1, steps // checkpoints),
        "evaluate_every": steps + 1,  # the curves come from the checkpoints
        "blind": False,
        "ablate": None,
        "temperature": 1.0,
    }
    few = {"seeds": 1, "episodes": QUICK_EPISODES, "temperatures": QUICK_TEMPERATURES} if quick else {}
    return TransferSettings(**{**compared, **few, "learner": dataclasses.replace(base, **{**own, **learner})})


def _digests(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of every policy's file by role and training seed."""
    found: dict[str, dict[str, str]] = {}
    for one in records:
        if one["checkpoint"] is None and one["policy_sha256"]:
            found.setdefault(one["role"], {})[str(one["seed"])] = one["policy_sha256"]
    return found
