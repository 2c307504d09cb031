"""Numbers of `wm-env bench fidelity` and `wm-env bench throughput`."""

from __future__ import annotations

from collections.abc import Sequence

from of_imagination import imagined, renewed
from written import SPLITS, Files, Report, band, bold, lines, listed, made, means, span

HORIZONS = ("4", "16", "64")
WORLDS = ("tiny", "tiny-pure")


def at_horizons(found: Report, between: str = " / ") -> str:
    return listed((found[h]["mean"] for h in HORIZONS), 1, between)


def psnr(files: Files, world: str, row: str) -> list[str]:
    """Return PSNR at the three horizons, a cell a split."""
    return [at_horizons(files.fidelity(world)["splits"][split]["psnr"][row]) for split in SPLITS]


def forgets(files: Files, world: str) -> list[float]:
    """Return what the GDN state is worth after looking away, dB to the truth.

    val after 0 and 8 steps walked, then heldout after 0 and 8.
    """
    row = f"{world} minus ablate=gdn_state"
    return [
        files.fidelity(world)["splits"][split]["look_away"][lead][row]["truth"]["mean"]
        for split in SPLITS
        for lead in ("lead_0", "lead_8")
    ]


def steps_per_s(files: Files, world: str, batch: int = 1) -> float:
    [row] = [one for one in files.speed["rows"] if (one["world"], one["batch"]) == (world, batch)]
    return float(row["env_steps_per_s"])


def readme_table(files: Files) -> str:
    rows = [
        ["repeat the first frame", *psnr(files, "tiny", "repeat first frame"), ""],
        ["`tiny` (3D memory, refiner)", *psnr(files, "tiny", "tiny"), f"{steps_per_s(files, 'tiny'):.1f}"],
        ["`tiny`, shown a full turn before", *psnr(files, "tiny", "context=turn"), ""],
        ["`tiny`, wrong actions", *psnr(files, "tiny", "wrong actions"), ""],
        ["`tiny-pure` (plain path)", *psnr(files, "tiny-pure", "tiny-pure")],
        ["`tiny-pure` without its GDN state", *psnr(files, "tiny-pure", "ablate=gdn_state"), ""],
        ["the autoencoder alone, fed the truth", *psnr(files, "tiny", "codec alone"), ""],
    ]
    rows[4].append(f"{steps_per_s(files, 'tiny-pure'):.1f}")
    return lines(["", "val scenes", "unseen layouts and textures", "env steps/s (x 4 frames)"], rows)


def fidelity_rows(files: Files) -> str:
    rows = [
        ["repeat the first frame", *psnr(files, "tiny", "repeat first frame")],
        ["codec alone (fed the truth)", *psnr(files, "tiny", "codec alone")],
    ]
    for world, parts in (("tiny", ("dit", "memory", "gdn_state")), ("tiny-pure", ("dit", "gdn_state"))):
        rows.append(bold([world, *psnr(files, world, world)]))
        rows += [[f'{world}, `ablate="{part}"`', *psnr(files, world, f"ablate={part}")] for part in parts]
        rows.append([f"{world}, wrong actions", *psnr(files, world, "wrong actions")])
    return lines(["row", *SPLITS], rows)


def after_contexts(files: Files) -> str:
    """Return PSNR at the three horizons after each context that was measured, and on what it has shown."""
    rows = []
    for world in WORLDS:
        splits = [files.fidelity(world)["splits"][split] for split in SPLITS]
        for kind in splits[0]["shown"]:
            cells = []
            for found in splits:
                shown = found["shown"][kind]
                share = " / ".join(f"{100 * shown['share'][h]['mean']:.0f}%" for h in HORIZONS)
                cells += [at_horizons(found["psnr"][f"context={kind}"])]
                cells += [at_horizons(shown["psnr"]), share]
            rows.append([f"{world}, {kind}", *cells])
    titles = ["context"]
    for split in SPLITS:
        titles += [split, "on shown pixels", "share of them"]
    return lines(titles, rows)


def returns(files: Files) -> str:
    """Return how well a turn is drawn after parts of another, by pictures shown."""
    rows = []
    for world in WORLDS:
        for shown, row in files.context(world)["rows"].items():
            if shown.isdigit():
                gain = "" if row["gain"] is None else band(row["gain"], 1)
                share = f"{100 * row['share']['mean']:.0f}%"
                cells = [f"{row[name]['mean']:.1f}" for name in ("psnr", "seen")]
                rows.append([world, shown, cells[0], gain, share, cells[1]])
    return lines(["world", "pictures", "PSNR", "over one picture", "pixels shown", "PSNR on them"], rows)


def contact(files: Files) -> str:
    """Return how often a camera is stopped where it has to be, by world and context."""
    rows = []
    for row in files.contact["rows"]:
        counts = [str(row[name]) for name in ("right", "missed", "wrong")]
        found = [f"{row[name]:.2f}" for name in ("precision", "recall")]
        rows.append([row["world"], row["context"], *counts, *found])
    return lines(["depth", "context", "right", "missed", "wrong", "precision", "recall"], rows)


def goals(files: Files) -> str:
    """Return how many places that a world's depth calls open can be reached, by depth and context."""
    rows = []
    for row in files.goals["rows"]:
        shares = [f"{100 * row[name]:.0f}%" for name in ("reached", "reached_slim")]
        rows.append([row["depth"], row["context"], *shares, str(row["scenes"])])
    return lines(["depth", "context", "reached", "by a body of 0.25 m", "scenes with such places"], rows)


Check = tuple[str, bool]
"""Where a target is looked at, and whether it is met there."""


def verdict(checks: Sequence[Check]) -> str:
    """Return whether a target is met, and where not."""
    missed = [where for where, met in checks if not met]
    if not missed:
        return "met"
    return "**missed**" if len(missed) == len(checks) else f"met but for {'; '.join(missed)}"


def over_still(files: Files, world: str, least: Sequence[float]) -> list[str]:
    """Return the row of the gains over the repeated first frame."""
    gains = {
        split: files.fidelity(world)["splits"][split]["gain_over"]["repeat first frame"] for split in SPLITS
    }
    checks = [
        (f"{h} frames on {split}: {band(gains[split][h])}", gains[split][h]["mean"] >= bound)
        for split in SPLITS
        for h, bound in zip(HORIZONS, least, strict=True)
    ]
    target = f"`{world}` over the repeated frame >= {' / '.join(f'{x:g}' for x in least)} dB"
    return [target, ", ".join(at_horizons(gains[split]) for split in SPLITS), verdict(checks)]


def gains_at(files: Files, world: str, row: str, horizon: str) -> list[float]:
    return means(files, world, "gain_over", row, horizon)


def aim(files: Files, world: str, least: Sequence[float]) -> list[str]:
    found = files.fidelity(world)["splits"]["val"]["psnr"][world]
    checks = [(f"{h} frames", found[h]["mean"] >= bound) for h, bound in zip(HORIZONS, least, strict=True)]
    target = f"aims {' / '.join(f'{x:g}' for x in least)} (`{world}`)"
    return [target, at_horizons(found), verdict(checks)]


def appearance(files: Files, what: str, key: str) -> list[str]:
    """Return the row of a ratio to the truth after 256 frames, which has to be within a tenth of 1."""
    found = {world: means(files, world, "appearance", key) for world in WORLDS}
    checks = [
        (f"{split} of `{world}`", abs(value - 1) <= 0.1)
        for world, values in found.items()
        for split, value in zip(SPLITS, values, strict=True)
    ]
    told = "; ".join(f"{listed(values, 2)} (`{world}`)" for world, values in found.items())
    return [f"256 frames: {what} within 10%", told, verdict(checks)]


def targets(files: Files) -> str:
    wrong = {world: gains_at(files, world, "wrong actions", "16") for world in WORLDS}
    dit = [gains_at(files, "tiny", "ablate=dit", h) for h in ("16", "64")]
    state = [
        files.fidelity("tiny-pure")["splits"][split]["gain_over"]["ablate=gdn_state"]["16"]
        for split in SPLITS
    ]
    away = forgets(files, "tiny-pure")
    freeze = {world: means(files, world, "appearance", "freeze") for world in WORLDS}
    of_worlds = [f"{split} of `{world}`" for world in WORLDS for split in SPLITS]
    rows = [
        over_still(files, "tiny", (3, 6, 5)),
        over_still(files, "tiny-pure", (0.5, 3, 2)),
        [
            "wrong actions worse by >= 3 dB at 16",
            "; ".join(f"{listed(wrong[world], 1)} (`{world}`)" for world in WORLDS),
            verdict(
                [(o, x >= 3) for o, x in zip(of_worlds, [*wrong["tiny"], *wrong["tiny-pure"]], strict=True)]
            ),
        ],
        [
            '`tiny` over `ablate="dit"` >= 1 dB at 16, 2 at 64',
            ", ".join(listed(pair, 1, " and ") for pair in zip(*dit, strict=True)),
            verdict(
                [
                    (f"{h} frames on {split}", value >= bound)
                    for h, bound, found in zip((16, 64), (1, 2), dit, strict=True)
                    for split, value in zip(SPLITS, found, strict=True)
                ]
            ),
        ],
        [
            "GDN state worth >= 0.5 dB at 16 in `tiny-pure`",
            ", ".join(band(found, 1) for found in state),
            verdict([(split, x["mean"] >= 0.5) for split, x in zip(SPLITS, state, strict=True)]),
        ],
        [
            "and >= 1 dB after looking away for 8 steps",
            f"{listed(away[:2], 1, ' and ')}, {listed(away[2:], 1, ' and ')} (0 and 8 steps walked before)",
            verdict([(f"{x:.1f} dB", x >= 1) for x in away]),
        ],
        aim(files, "tiny", (28, 25, 20)),
        aim(files, "tiny-pure", (24, 21.5, 16)),
        appearance(files, "mean luma", "luma"),
        appearance(files, "contrast", "contrast"),
        appearance(files, "saturation", "saturation"),
        [
            "freeze index under 5%",
            "; ".join(f"{', '.join(f'{x:.1%}' for x in freeze[world])} (`{world}`)" for world in WORLDS),
            verdict(
                [
                    (o, x < 0.05)
                    for o, x in zip(of_worlds, [*freeze["tiny"], *freeze["tiny-pure"]], strict=True)
                ]
            ),
        ],
    ]
    return lines(["target", "measured (val, heldout)", ""], rows)


def turns(files: Files) -> str:
    """Return how a view comes back after one full turn, val / heldout."""

    def row(told: str, world: str, name: str) -> list[str]:
        return [
            told,
            *(
                listed(means(files, world, "look_away", "full_turn", name, to), 1, " / ")
                for to in ("itself", "truth")
            ),
        ]

    rows = [
        bold(row("tiny", "tiny", "tiny")),
        row('tiny, `ablate="memory"`', "tiny", "ablate=memory"),
        row("tiny-pure", "tiny-pure", "tiny-pure"),
        row('tiny-pure, `ablate="gdn_state"`', "tiny-pure", "ablate=gdn_state"),
    ]
    return lines(["", "against what it was", "against the twin"], rows)


def turn(files: Files, digits: int) -> str:
    """Return how like itself a view of `tiny` comes back after one full turn on val scenes, dB."""
    return f"{means(files, 'tiny', 'look_away', 'full_turn', 'tiny', 'itself')[0]:.{digits}f}"


def ten_turns(files: Files, digits: int) -> str:
    """Return the same after ten full turns, which is a minute."""
    return f"{files.turns['turns']['10']['itself']['mean']:.{digits}f}"


def fidelity(files: Files) -> dict[str, str]:
    return {
        "machine": made(*(files.fidelity(world) for world in WORLDS)),
        "rows": fidelity_rows(files),
        "contexts": after_contexts(files),
        "return": returns(files),
        "contact": contact(files),
        "contact-scenes": str(files.contact["settings"]["scenes"]),
        "imagined": imagined(files, WORLDS),
        "renewed": renewed(files),
        "goals": goals(files),
        "goals-scenes": str(files.goals["settings"]["scenes"]),
        "context-steps": span([row["ratio"] for row in files.context_steps["rows"]], 2),
        "return-scenes": str(files.context("tiny")["settings"]["scenes"]),
        "targets": targets(files),
        "turns": turns(files),
        "ten-turns": ten_turns(files, 1),
        "turn-scenes": str(files.turns["settings"]["scenes"]),
        "state-16": span(gains_at(files, "tiny", "ablate=gdn_state", "16"), 1),
        "state-away": span(forgets(files, "tiny"), 1, "-"),
    }


def benchmarks(files: Files) -> dict[str, str]:
    rate = steps_per_s(files, "tiny", 16)
    return {"rate": f"{rate:.0f}", "hours": f"{200_000 / rate / 3600:.1f}", "machine": made(files.speed)}
