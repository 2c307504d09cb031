"""What the worlds imagine, beside what was wanted: docs/performance/fidelity.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from written import Files, lines

SPLITS = ("val", "heldout")
OTHER = "true, another walk"


class Wanted(NamedTuple):
    """A measure: its words, its gate in words and as a test, and where a report has it (of a row)."""

    told: str
    gate: str
    met: Callable[[float], bool]
    found: Callable[[Any, str], float | None]
    digits: int = 2


def _looks(statistic: str) -> Callable[[Any, str], float | None]:
    def found(report: Any, row: str) -> float | None:
        periods = report["looks"][statistic].get(row)
        return None if periods is None else float(list(periods.values())[-1]["mean"])

    return found


def _table(name: str) -> Callable[[Any, str], float | None]:
    return lambda report, row: report[name][row]["mean"] if row in report[name] else None


def _seen(horizon: str) -> Callable[[Any, str], float | None]:
    return lambda report, row: report["seen"][row][horizon]["mean"]


def _own(*path: str) -> Callable[[Any, str], float | None]:
    """Return the reader of a number that only a world has."""

    def found(report: Any, row: str) -> float | None:
        if row == OTHER or report.get("standing") is None:
            return None
        for key in path:
            report = report[key]
        return float(report["mean"])

    return found


WANTED = (
    Wanted("contrast, of the truth's", "0.85-1.15", lambda x: 0.85 <= x <= 1.15, _looks("contrast")),
    Wanted("saturation", "0.85-1.15", lambda x: 0.85 <= x <= 1.15, _looks("saturation")),
    *(
        Wanted(
            f"gradient energy, every {scale}",
            "0.7-1.3",
            lambda x: 0.7 <= x <= 1.3,
            _looks(f"gradient at {n}"),
        )
        for n, scale in ((1, "pixel"), (2, "second pixel"), (4, "fourth pixel"))
    ),
    Wanted("energy on the token grid", "<= 1.2", lambda x: x <= 1.2, _looks("token grid")),
    Wanted(
        "floor and ceiling in place, of the truth's share, above the template's",
        ">= 0.8",
        lambda x: x >= 0.8,
        _own("in_place"),
    ),
    Wanted("Frechet distance", "", lambda x: True, _table("frechet"), 0),
    Wanted("told from true frames", "<= 0.9", lambda x: x <= 0.9, _table("told_apart")),
    Wanted("step unexplained by the commanded motion", "", lambda x: True, _table("geometry")),
    Wanted("PSNR on seen pixels, frame 16", "", lambda x: True, _seen("16"), 1),
    Wanted("PSNR on seen pixels, frame 64", "", lambda x: True, _seen("64"), 1),
    Wanted("32 steps without a command, dB", ">= 36", lambda x: x >= 36, _own("standing", "psnr", "32"), 1),
    Wanted(
        "prompt events that show, told after 32 steps",
        ">= 0.8",
        lambda x: x >= 0.8,
        _own("standing", "events", "after 32 steps"),
    ),
)


# The `tiny` that shipped until 27 November 2026 (sha256 497155ab...), by `bench fidelity --world FOLDER` in
# the hour in which the present one was measured, same machine; val, heldout, in the order of `WANTED`.
BEFORE = (
    (0.588, 0.691),
    (0.705, 0.665),
    (0.670, 0.792),
    (0.528, 0.640),
    (0.482, 0.583),
    (1.414, 1.476),
    (0.270, 0.489),
    (62.6, 59.6),
    (0.978, 0.973),
    (0.263, 0.243),
    (24.93, 25.67),
    (21.50, 22.45),
    (32.02, 31.92),
    (0.844, 0.844),
)


def renewed(files: Files) -> str:
    """Return the table of `tiny` beside the one that shipped before."""
    found = {split: files.fidelity("tiny")["splits"][split]["imagination"] for split in SPLITS}
    rows = []
    for one, before in zip(WANTED, BEFORE, strict=True):
        now = [one.found(found[split], "tiny") for split in SPLITS]
        rows.append(
            [one.told, *(", ".join(_written(x, one.digits) for x in values) for values in (before, now))]
        )
    return lines(["frames 198-256, val and heldout", "before", "now"], rows)


def imagined(files: Files, worlds: tuple[str, ...]) -> str:
    """Return the table of both worlds and of true frames of another walk."""
    found = {
        (world, split): files.fidelity(world)["splits"][split]["imagination"]
        for world in worlds
        for split in SPLITS
    }
    rows = []
    for one in WANTED:
        cells = []
        for world in worlds:
            values = [one.found(found[world, split], world) for split in SPLITS]
            told = ", ".join(_written(value, one.digits) for value in values)
            missed = one.gate and not all(value is not None and one.met(value) for value in values)
            cells.append(f"{told} (**missed**)" if missed else told)
        other = one.found(found[worlds[0], "val"], OTHER)
        rows.append([one.told, one.gate, *cells, "" if other is None else _written(other, one.digits)])
    return lines(["frames 198-256, val and heldout", "gate", *worlds, "another room, val"], rows)


def _written(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
