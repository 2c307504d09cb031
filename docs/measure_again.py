"""Measure again what depends on the weights of the embedded worlds, after these have changed.

    python docs/measure_again.py            (lists what is stale, in the order in which it is to be run)
    python docs/measure_again.py --run      (runs it: some six hours on one core; started again it goes on)

A file is stale where its `weights_sha256` is not that of the world which it is about. Policies come before
what scores them. Afterwards `python docs/fill_numbers` and `python docs/render_reports.py` put the numbers
into the pages; sentences that say what a number means are read by a person.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_env.model.embedded import EMBEDDED, load_embedded

ROOT = Path(__file__).resolve().parent.parent
POLICY = (
    "agent train --task objectnav --starts in-view --lead-in 12 --action-type multikeys --moves w,a,d "
    "--sight goal-color --obs-size 64 --max-episode-steps 60 --rollout 64 --batch-size 128 --epochs 8 "
    "--learning-rate 1e-3 --gamma 0.98 --reward-scale 0.1 --evaluate-starts near --evaluate-episodes 50 "
    "--evaluate-every 1000000 --checkpoint-every 4096 --steps 20480 --threads 1"
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A file of numbers. command: what writes it, words of `wm-env` or a script's path. minutes: on one core.

    world: whose weights it depends on. ships: files of a policy's run that go to agents/weights.
    """

    file: str
    command: str
    minutes: int
    world: str = "tiny"
    ships: str = ""


NUMBERS: tuple[Measured, ...] = (
    Measured(
        file="model/weights/tiny.trust.json",
        command="wm-env trust calibrate --world tiny --overwrite --out model/weights/tiny.trust.json",
        minutes=25,
    ),
    Measured(
        file="model/weights/tiny-pure.trust.json",
        command="wm-env trust calibrate --world tiny-pure --overwrite "
        "--out model/weights/tiny-pure.trust.json",
        minutes=25,
        world="tiny-pure",
    ),
    Measured(
        file="agents/weights/objectnav.json",
        command=f"wm-env {POLICY} --world tiny --out build/objectnav",
        minutes=20,
        ships="build/objectnav",
    ),
    Measured(
        file="docs/performance/fidelity-tiny.json",
        command="wm-env bench fidelity --world tiny --context none turn walk --out docs/performance",
        minutes=30,
    ),
    Measured(
        file="docs/performance/fidelity-tiny-pure.json",
        command="wm-env bench fidelity --world tiny-pure --context none turn walk --out docs/performance",
        minutes=25,
        world="tiny-pure",
    ),
    Measured(
        file="docs/performance/context-tiny.json",
        command="wm-env bench context --out docs/performance",
        minutes=6,
    ),
    Measured(
        file="docs/performance/context-tiny-pure.json",
        command="wm-env bench context --world tiny-pure --out docs/performance",
        minutes=5,
        world="tiny-pure",
    ),
    Measured(
        file="docs/performance/trust-tiny.json",
        command="wm-env bench trust --out docs/performance",
        minutes=40,
    ),
    Measured(
        file="docs/performance/trust-tiny-pure.json",
        command="wm-env bench trust --world tiny-pure --out docs/performance",
        minutes=35,
        world="tiny-pure",
    ),
    Measured(
        file="docs/performance/context_steps.json",
        command="docs/measure_context_steps.py",
        minutes=3,
    ),
    Measured(file="docs/performance/context_check.json", command="docs/measure_context_check.py", minutes=20),
    Measured(file="docs/performance/contact.json", command="docs/measure_contact.py", minutes=5),
    Measured(file="docs/performance/goals.json", command="docs/measure_goals.py", minutes=2),
    Measured(file="docs/performance/turns.json", command="docs/measure_turns.py", minutes=5),
    Measured(
        file="docs/performance/throughput.json",
        command="wm-env bench throughput --world tiny tiny-pure --envs 1 16 --steps 60 --length 1000 "
        "--out docs/performance",
        minutes=15,
    ),
    Measured(
        file="docs/reports/drift-tiny/drift.json",
        command="wm-env bench drift --world tiny --scenes 32 --horizon 16s --spread "
        "--out docs/reports/drift-tiny",
        minutes=30,
    ),
    Measured(
        file="docs/reports/drift-tiny/60s/drift.json",
        command="wm-env bench drift --world tiny --scenes 2 --horizon 60s --trajectories random_walk "
        "--out docs/reports/drift-tiny/60s",
        minutes=8,
    ),
    Measured(file="docs/performance/scaling.json", command="docs/measure_scaling.py", minutes=20),
    Measured(file="docs/performance/agents.json", command="docs/measure_agents.py", minutes=35),
    Measured(
        file="docs/reports/transfer-quick/transfer.json",
        command="wm-env bench transfer --quick --threads 1 --out docs/reports/transfer-quick",
        minutes=60,
    ),
)


def weights() -> dict[str, str]:
    """Return the SHA-256 of the weights of every embedded world."""
    return {name: str(load_embedded(name).spec.weights_sha256) for name in EMBEDDED}


def of_other_weights(one: Measured, now: Mapping[str, str], root: Path = ROOT) -> bool:
    """Return whether a file is missing or about other weights than `now`."""
    path = root / one.file
    if not path.is_file():
        return True
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return str(found.get("world_sha256") or found.get("weights_sha256")) != now[one.world]


def words(one: Measured) -> list[str]:
    """Return the command as a process is started with."""
    first, *rest = shlex.split(one.command)
    if first == "wm-env":
        return [sys.executable, "-m", "wm_env.cli", *rest]
    return [sys.executable, str(ROOT / first), *rest]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", action="store_true", help="run what is stale, in order")
    run = parser.parse_args(arguments).run
    now = weights()
    stale = [one for one in NUMBERS if of_other_weights(one, now)]
    print(
        f"{len(stale)} of {len(NUMBERS)} are stale, {sum(one.minutes for one in stale)} minutes of one core"
    )
    for one in stale:
        print(f"  {one.file}: {one.command}", flush=True)
        if not run:
            continue
        subprocess.run(words(one), cwd=ROOT, check=True)
        if one.ships:
            for suffix in (".safetensors", ".json"):
                kept = (ROOT / one.ships / f"policy{suffix}").read_bytes()
                (ROOT / one.file).with_suffix(suffix).write_bytes(kept)


if __name__ == "__main__":
    main()
