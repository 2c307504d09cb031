"""What a world imagines, from numbers by scene to intervals and Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wm_env.bench.fidelity.imagination import FIRST, OTHER, TEMPLATE, TRUE
from wm_env.bench.records import Record
from wm_env.model.metrics.intervals import Band, band, ratio_band


@dataclass(frozen=True, kw_only=True)
class Standing(Record):
    """A camera that stands: PSNR (dB) to the start picture by env steps, and the share of events that show.

    events: of prompts such as "lights dim", those that move their statistic in the named direction, told at
    the start and after the last of those steps.
    """

    psnr: dict[str, Band]
    events: dict[str, Band]


@dataclass(frozen=True, kw_only=True)
class Imagination(Record):
    """What long rollouts show where there is no one true picture; rows are the world and its cases.

    judge: SHA-256 of the network that finds floor and ceiling. frames: that were looked at. seen, never: PSNR
    (dB) by row and horizon on pixels that earlier true frames have shown, and on the others; share: of the
    former. looks: statistics over the truth's (1 = equal) by name, row and period. frechet: distance to true
    frames in the judge's features. told_apart: accuracy of a new classifier at telling frames from true ones
    (0.5 = chance). structure: how far floor and ceiling are in place (1 = all); in_place: how much of that is
    the world's, 0 for the template and 1 for true frames. geometry: error of a step by motion and depth over
    the error without (0 = explained).
    """

    judge: str
    frames: tuple[int, ...]
    seen: dict[str, dict[str, Band]]
    never: dict[str, dict[str, Band]]
    share: dict[str, Band]
    looks: dict[str, dict[str, dict[str, Band]]]
    frechet: dict[str, Band]
    told_apart: dict[str, Band]
    structure: dict[str, Band]
    in_place: Band
    geometry: dict[str, Band]
    standing: Standing | None = None


def imagination(name: str, found: Mapping[str, Any], standing: Mapping[str, Any] | None) -> Imagination:
    """Return the measures of the world `name` with intervals, of numbers by scene and of its standing."""
    looks, structure = found["looks"], {row: _array(x) for row, x in found["structure"].items()}
    return Imagination(
        judge=found["judge"],
        frames=tuple(found["frames"]),
        seen={row: _bands(cells) for row, cells in found["known"]["seen"].items()},
        never={row: _bands(cells) for row, cells in found["known"]["never"].items()},
        share=_bands(found["known"]["share"]),
        looks={
            statistic: {
                row: {
                    period: _ratio(cells[statistic][period], true)
                    for period, true in looks[TRUE][statistic].items()
                }
                for row, cells in looks.items()
                if row != TRUE
            }
            for statistic in looks[TRUE]
        },
        frechet={row: Band(*cell) for row, cell in found["frechet"].items()},
        told_apart=_bands(found["told_apart"]),
        structure={row: band(values) for row, values in structure.items()},
        in_place=_ratio(structure[name] - structure[TEMPLATE], structure[TRUE] - structure[TEMPLATE]),
        geometry={row: _ratio(cell["warped"], cell["still"]) for row, cell in found["geometry"].items()},
        standing=None
        if standing is None
        else Standing(psnr=_bands(standing["psnr"]), events=_bands(standing["events"])),
    )


def _array(values: Any) -> np.ndarray:
    """Return numbers by scene; None becomes not a number."""
    return np.array(values, dtype=float)


def _bands(found: Mapping[str, Any]) -> dict[str, Band]:
    return {key: band(_array(values)) for key, values in found.items()}


def _ratio(above: Any, below: Any) -> Band:
    """Return the ratio of two means over the same scenes, none where the lower one is not above 0."""
    upper, lower = _array(above), _array(below)
    if lower.mean() < 1e-9:
        return Band(None, None, None, 0)
    return ratio_band(upper, lower)


def imagination_lines(split: str, found: Imagination) -> list[str]:
    """Return the section of a split's report, as Markdown lines."""
    first, last = found.frames[0], found.frames[-1]
    lines = [
        f"## {split}: what is imagined",
        "",
        f"{len(found.frames)} frames a walk, {first}-{last}. Best case: `{OTHER}` (a real room that is not "
        f"the one asked for). Worst: `{FIRST}`. Judge sha256 `{found.judge}`.",
        "",
        f"### {split}: PSNR (dB) on pixels that earlier true frames have shown, and never shown",
        "",
    ]
    known = {f"{row}, {part}": cells for part, table in (("seen", found.seen), ("never seen", found.never))
             for row, cells in table.items()}  # fmt: skip
    known["share seen"] = found.share
    lines += [*_table("row", known, [f"frame {h}" for h in found.share]), ""]
    lines += [f"### {split}: frames over true ones (1 = equal), by frames", ""]
    looks = {f"{statistic}, {row}": cells for statistic, rows in found.looks.items()
             for row, cells in rows.items()}  # fmt: skip
    periods = list(next(iter(looks.values())))
    lines += [*_table("statistic", looks, periods), ""]
    rows = dict.fromkeys([*found.structure, *found.frechet, *found.told_apart, *found.geometry])
    measures = {
        "Frechet distance": found.frechet,
        "told from true frames": found.told_apart,
        "floor and ceiling in place": found.structure,
        "step unexplained by motion": found.geometry,
    }
    titles = list(measures)
    lines += [f"### {split}: do they look and move like rooms?", ""]
    cells = {row: {title: table.get(row) for title, table in measures.items()} for row in rows}
    lines += [*_table("row", cells, titles), ""]
    lines += [
        f"Floor and ceiling in place, of the true frames' above the template's: {found.in_place.text()}."
    ]
    lines += [""]
    if found.standing is not None:
        standing = {f"after {steps} steps, dB": cell for steps, cell in found.standing.psnr.items()}
        standing |= {f"events that show, told {when}": cell for when, cell in found.standing.events.items()}
        lines += [f"### {split}: a camera that stands", ""]
        lines += [*_table("measure", {key: {"": cell} for key, cell in standing.items()}, ["value"]), ""]
    return lines


def _table(corner: str, rows: Mapping[str, Mapping[str, Band | None]], titles: list[str]) -> list[str]:
    lines = [f"| {' | '.join([corner, *titles])} |", "|" + "---|" * (len(titles) + 1)]
    for row, cells in rows.items():
        texts = ["" if cell is None else cell.text(2) for cell in cells.values()]
        lines.append(f"| {' | '.join([row, *texts])} |")
    return lines
