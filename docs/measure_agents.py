"""Write docs/performance/agents.json: how the shipped policies and the scripted agents do, with provenance.

    python docs/measure_agents.py            (about half an hour on one core; --resume after an interruption)

Every row is one `wm-env agent eval`; its words are in the row. The rows of the first group play the same
episodes, so its first agent is compared with each other one episode by episode. `in_view` counts the episodes
that begin with the beacon in the start picture, and the successes among them.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from gymnasium.utils import seeding

from wm_env.agents.episode_starts import fits
from wm_env.bench.provenance import provenance
from wm_env.cli.agent import AgentEval
from wm_env.episodes import draw_seeds
from wm_env.model.embedded import load_embedded
from wm_env.model.metrics.intervals import band
from wm_env.model.storage.atomic import atomic_path

OUT = Path(__file__).parent / "performance" / "agents.json"
NEAR = "--task objectnav --world twin --starts near --max-episode-steps 60 --episodes 200"
ANY = "--world twin --max-episode-steps 120 --episodes 100"
GROUPS: Mapping[str, Mapping[str, str]] = {
    "objectnav in the twin": {
        "objectnav": "objectnav --world twin --episodes 200",
        "goal": f"goal {NEAR}",
        "random, the policy's moves": f"random {NEAR} --moves w,a,d",
        "objectnav-blind": "objectnav-blind --world twin --episodes 200",
        "random": f"random {NEAR}",
    },
    "objectnav in tiny": {"objectnav": "objectnav --world tiny --episodes 50"},
    "objectnav in tiny after a turn": {"objectnav": "objectnav --world tiny --context turn --episodes 200"},
    "any start": {
        "pointnav, goal": f"goal --task pointnav {ANY}",
        "pointnav, random": f"random --task pointnav {ANY}",
        "objectnav, goal": f"goal --task objectnav {ANY}",
        "imagenav, goal": f"goal --task imagenav {ANY}",
    },
}


def row(words: str) -> dict[str, Any]:
    """Return one agent's score, with the seed and the success of every episode."""
    told = tyro.cli(AgentEval, args=[*shlex.split(words), "--threads", "1"]).run()
    episodes = told.pop("episodes")
    won = [episode["success"] for episode in episodes]
    seeds = [episode["seed"] for episode in episodes]
    in_view = [told["task"] == "objectnav" and seen(seed, told["split"]) for seed in seeds]
    return {
        "command": f"wm-env agent eval {words} --threads 1",
        **told,
        "in_view": {
            "episodes": sum(in_view),
            "success": sum(one and view for one, view in zip(won, in_view, strict=True)),
        },
        "first_seed": min(seeds),
        "last_seed": max(seeds),
        "won": "".join(str(int(one)) for one in won),
    }


def seen(seed: int, split: str) -> bool:
    """Return whether the beacon is in the picture that episode `seed` starts with."""
    generator, _ = seeding.np_random(seed)
    return fits(draw_seeds(generator)[0], split, "in-view")


def paired(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the first agent's success minus every other one's, with bootstrap intervals over episodes."""
    first, *others = rows
    won = {name: np.array([int(one) for one in rows[name]["won"]], dtype=float) for name in rows}
    return {name: band(won[first] - won[name]).to_dict() for name in others}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="file to write")
    parser.add_argument("--resume", action="store_true", help="keep the rows of an interrupted run")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    about = provenance(load_embedded("tiny").spec, "python docs/measure_agents.py")
    groups: dict[str, Any] = {name: {"rows": {}, "first_minus": {}} for name in GROUPS}
    if options.resume:
        left = json.loads(options.out.read_text(encoding="utf-8"))
        if any(left[key] != about[key] for key in ("weights_sha256", "hardware", "torch")):
            raise SystemExit(
                f"{options.out} has rows of other weights or of another machine; leave out --resume"
            )
        groups |= left["groups"]
    for name, commands in GROUPS.items():
        rows = groups[name]["rows"]
        for agent, line in commands.items():
            if agent in rows:
                continue
            rows[agent] = row(line)
            if name == "objectnav in the twin":
                groups[name]["first_minus"] = paired(rows)
            with atomic_path(options.out) as temporary:
                report = {"benchmark": "agents", **about, "groups": groups}
                temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
