"""Attacks, long use, kills, the caller's settings and slots against episodes alone; what is found is written.

    python tests/hardness                      a short form, some minutes
    python tests/hardness --inputs 100000 --steps 20000 --vector-steps 4000 --kills 20 --out FILE.json

Everything is seeded and bounded; the page on reliability takes its tables from the file. `--only` runs some
of the parts and keeps what the file has of the others.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

import torch  # noqa: E402
from callers import matrix  # noqa: E402
from endurance import long_episode, long_vector  # noqa: E402
from hostile_targets import targets  # noqa: E402
from hostility import attack  # noqa: E402
from killed import COMMANDS, kill  # noqa: E402
from slots import compare  # noqa: E402

from wm_env.bench.provenance import provenance  # noqa: E402
from wm_env.model.storage.atomic import write_text  # noqa: E402
from wm_env.worlds import resolve_world  # noqa: E402

OUT = ROOT / "docs" / "performance" / "reliability.json"
SHARES = {
    "reset": 30,
    "step": 25,
    "vector": 20,
    "play messages": 13,
    "clip folders": 6,
    "snapshot files": 4,
    "cards": 2,
}


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--inputs", type=int, default=2000, help="hostile inputs in all")
    add("--steps", type=int, default=100, help="steps of one episode of tiny")
    add("--vector-steps", type=int, default=30, help="steps of 8 slots of tiny with partial resets")
    add("--kills", type=int, default=1, help="kills of every long command")
    add("--slot-steps", type=int, default=6, help="steps of slots beside episodes alone")
    add("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to run")
    add("--seed", type=int, default=0, help="of inputs, steps and moments")
    add("--out", type=Path, default=OUT, help="file to write")
    return parser.parse_args(words)


def inputs(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, target in targets(Path(folder)).items():
            outcome = attack(target, options.inputs * SHARES[name] // 100, options.seed)
            found[name] = outcome.to_json()
            print(
                f"{name}: {outcome.inputs} inputs, {outcome.refused} refused, {outcome.faults()}", flush=True
            )
    return found


def kills(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = kill(name, options.kills, Path(folder), options.seed)
        print(f"{name}: {found[name]}", flush=True)
    return found


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "inputs": inputs,
    "episode": lambda options: long_episode("tiny", options.steps, options.seed),
    "vector": lambda options: long_vector("tiny", options.vector_steps, seed=options.seed),
    "kills": kills,
    "callers": lambda options: matrix(),
    "slots": lambda options: [compare(world, 8, options.slot_steps) for world in ("tiny", "tiny-pure")],
}


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    torch.set_num_threads(1)
    report = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {"parts": {}}
    report |= {
        "benchmark": "hardness",
        **provenance(resolve_world("tiny").spec, "python tests/hardness"),
        "seed": options.seed,
    }
    for part in options.only:
        report["parts"][part] = PARTS[part](options)
        print(f"{part}: done", flush=True)
        write_text(options.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
