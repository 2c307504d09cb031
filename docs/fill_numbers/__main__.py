"""Fill the numbers of README.md and docs/ from the JSON files that hold them.

    python docs/fill_numbers        (rewrites what stands between marks)
    python docs/fill_numbers --check     (exit code 1 if that would change a page, and which number)

A mark in a page names its number, `<!--=turn-->36<!--/-->`, and `PAGES` below says from which file it comes
(`wm_env.model.marked_pages` has the marks); the words of docs/glossary.md are those of the reports. Numbers
without a mark have no file in the repository; the text beside them says on what they were measured, and when.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from of_agents import RANDOM, agent_numbers, percent, scored, training_time, transfer_table
from of_annotate import annotated
from of_context_check import context_check
from of_drift import by_bin, drift_table, memory_table, readme_drift, student_numbers, training
from of_fidelity import (
    WORLDS,
    benchmarks,
    fidelity,
    forgets,
    gains_at,
    readme_table,
    steps_per_s,
    ten_turns,
    turn,
)
from of_hardness import hardness
from of_scaling import growth
from of_weights import weights
from written import Files, band, interval, listed, made, means, span

from wm_env.bench import glossary
from wm_env.model.marked_pages import arguments, refused, rewrite

ROOT = Path(__file__).resolve().parents[2]


def readme(files: Files) -> dict[str, str]:
    ratios = [x for key in ("contrast", "saturation") for x in means(files, "tiny", "appearance", key)]
    slots = [steps_per_s(files, world, 16) / steps_per_s(files, world) for world in WORLDS]
    policy = scored(files, "objectnav")["score"]["success"]
    time = training_time(files)
    return {
        "fidelity": readme_table(files),
        "machine": made(*(files.fidelity(world) for world in WORLDS), files.speed),
        "agents-machine": made(files.agents),
        "policy": percent(policy, 0),
        "policy-interval": interval(policy, 0, 100),
        "blind": percent(scored(files, "objectnav-blind")["score"]["success"], 0),
        "random": percent(scored(files, RANDOM)["score"]["success"]),
        "expert": percent(scored(files, "goal")["score"]["success"], 0),
        "env-steps": time["env-steps"],
        "minutes": time["minutes"],
        "slots": span(slots, 1),
        **readme_drift(files),
        "return-one": f"{files.context('tiny')['rows']['1']['psnr']['mean']:.1f}",
        "return-all": f"{files.context('tiny')['rows']['101']['psnr']['mean']:.1f}",
        "turn": turn(files, 0),
        "ten-turns": ten_turns(files, 0),
        "ratios": span(ratios, 1),
        "state": span(gains_at(files, "tiny-pure", "ablate=gdn_state", "16"), 1),
        "away": span(forgets(files, "tiny-pure"), 1, "-"),
    }


def reports(files: Files) -> dict[str, str]:
    over = [cell["mean"] for cell in files.drift["gain_over"]["ablate=dit"]]
    still = files.drift["trajectories"]["idle"]
    found = files.transfer
    hot = next(one for one in found["temperature"] if one["temperature"] == 0)
    truth = [cell["truth"] for cell in files.drift["revisit"]["tiny"] if cell["memory"] is not None]
    return {
        "drift": drift_table(files),
        "drift-machine": made(files.drift),
        "drift-weights": files.drift["weights_sha256"][:12],
        "moving": str(files.drift["bins"][0]["n"]),
        "over-dit": f"{over[0]:.1f}",
        "over-dit-last": f"{over[-1]:.1f}",
        "still": listed((cell["psnr"]["mean"] for cell in still["tiny"]), 1),
        "still-codec": span((cell["psnr"]["mean"] for cell in still["codec alone"]), 1),
        "h50": f"{files.drift['horizon_h50']['tiny']['median_s']:.1f}",
        "memory": memory_table(files),
        "memory-truth": span(truth, 0, "-"),
        "minute": by_bin(files.minute, "tiny", "psnr", 1),
        "minute-still": by_bin(files.minute, "repeat first frame", "psnr", 1),
        "transfer": transfer_table(files),
        "transfer-starts": str(found["settings"]["episodes"]),
        "over-blind": f"{found['quantities']['over_blind_success']['mean']:+.2f} "
        f"{interval(found['quantities']['over_blind_success'])}",
        "optimism": band(found["quantities"]["optimism_success"]),
        "cold": f"{hot['success']['mean']:.2f}",
    }


PAGES: Mapping[str, Callable[[Files], dict[str, str]]] = {
    "README.md": readme,
    "docs/clips.md": lambda files: context_check(files) | annotated(files),
    "docs/environment.md": lambda files: {"turn": turn(files, 1), "ten-turns": ten_turns(files, 1)},
    "docs/training.md": lambda files: training(files) | weights(files),
    "docs/benchmarks.md": benchmarks,
    "docs/performance/fidelity.md": fidelity,
    "docs/performance/agents.md": agent_numbers,
    "docs/performance/reliability.md": hardness,
    "docs/performance/distillation.md": student_numbers,
    "docs/reports/README.md": reports,
    "docs/scaling.md": growth,
    "docs/glossary.md": lambda files: {"words": glossary.table()},
}


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(__doc__, ROOT, words)
    files = Files(options.folder)
    try:
        return rewrite(options.folder, {page: of(files) for page, of in PAGES.items()}, check=options.check)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return refused(error)


if __name__ == "__main__":
    sys.exit(main())
