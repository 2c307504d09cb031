"""What the worlds imagine, beside what was wanted: docs/performance/fidelity.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from written import SPLITS, Files, judged, lines, listed, means

OTHER = "true, another walk"


class Wanted(NamedTuple):
    """A measure: its words, where a report has it (of a row), and its gate, from `least` to `most`."""

    told: str
    found: Callable[[Any, str], float | None]
    least: float | None = None
    most: float | None = None
    digits: int = 2

    @property
    def gate(self) -> str:
        if self.least is None:
            return "" if self.most is None else f"<= {self.most:g}"
        return f">= {self.least:g}" if self.most is None else f"{self.least:g}-{self.most:g}"

    def met(self, value: float | None) -> bool:
        """Return whether a value is within the gate; without a gate any is."""
        if self.gate == "":
            return True
        low, high = self.least, self.most
        return value is not None and (low is None or value >= low) and (high is None or value <= high)


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
    Wanted("contrast, of the truth's", _looks("contrast"), 0.85, 1.15),
    Wanted("saturation", _looks("saturation"), 0.85, 1.15),
    Wanted("gradient energy, every pixel", _looks("gradient at 1"), 0.7, 1.3),
    Wanted("gradient energy, every second pixel", _looks("gradient at 2"), 0.7, 1.3),
    Wanted("gradient energy, every fourth pixel", _looks("gradient at 4"), 0.7, 1.3),
    Wanted("energy on the token grid", _looks("token grid"), most=1.2),
    Wanted("floor and ceiling in place, of the truth's share, above the template's", _own("in_place"), 0.8),
    Wanted("Frechet distance", _table("frechet"), digits=0),
    Wanted("told from true frames", _table("told_apart"), most=0.9),
    Wanted("step unexplained by the commanded motion", _table("geometry")),
    Wanted("PSNR on seen pixels, frame 16", _seen("16"), digits=1),
    Wanted("PSNR on seen pixels, frame 64", _seen("64"), digits=1),
    Wanted("32 steps without a command, dB", _own("standing", "psnr", "32"), 36, digits=1),
    Wanted("prompt events that show, told after 32 steps", _own("standing", "events", "after 32 steps"), 0.8),
)


class Gate(NamedTuple):
    """What a value is asked for by the one before. limit: the worst that will do; most: a smaller one is
    better."""

    told: str
    limit: Callable[[float], float]
    most: bool = False

    def met(self, now: float, before: float) -> bool:
        worst = self.limit(before)
        return now <= worst if self.most else now >= worst


class Beside(NamedTuple):
    """A measure of `tiny` and what it was of the world that shipped before, a value a split or a part."""

    told: str
    found: Callable[[Files], list[float]]
    before: tuple[float, ...]
    gate: Gate | None = None
    digits: int = 1

    def row(self, files: Files) -> list[str]:
        now = self.found(files)
        cells = [self.told, "", listed(self.before, self.digits), listed(now, self.digits)]
        if self.gate is not None:
            met = all(self.gate.met(*pair) for pair in zip(now, self.before, strict=True))
            cells[1], cells[3] = self.gate.told, judged(cells[3], met)
        return cells


def _imagination(one: Wanted) -> Callable[[Files], list[float]]:
    def found(files: Files) -> list[float]:
        values = [one.found(files.fidelity("tiny")["splits"][s]["imagination"], "tiny") for s in SPLITS]
        return [value for value in values if value is not None]

    return found


def _means(*path: str) -> Callable[[Files], list[float]]:
    return lambda files: means(files, "tiny", *path)


def _known(column: str) -> Callable[[Files], list[float]]:
    return lambda files: [cell[column] for cell in files.drift["bins"]]


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
BETTER, HALF = Gate(">= before", float), Gate("<= half of before", lambda old: old / 2, most=True)
NEARLY = Gate(">= before - 1", lambda old: old - 1)
TURN = Gate(">= 33", lambda _: 33.0)
GATES = {
    "Frechet distance": Gate("<= 0.4 of before", lambda old: 0.4 * old, most=True),
    "PSNR on seen pixels, frame 16": BETTER,
    "PSNR on seen pixels, frame 64": BETTER,
}
# The rest, of the same two worlds; the camera by `bench drift --world FOLDER --scenes 32 --horizon 16s
# --spread`, with the estimator that the present report was made with, in six parts of 16 s.
RENEWED = (
    *(
        Beside(one.told, _imagination(one), before, GATES.get(one.told), one.digits)
        for one, before in zip(WANTED, BEFORE, strict=True)
    ),
    Beside("PSNR, frame 4", _means("psnr", "tiny", "4"), (29.14, 29.52), NEARLY),
    Beside("PSNR, frame 16", _means("psnr", "tiny", "16"), (23.77, 24.78), NEARLY),
    Beside(
        "a view after a full turn, to itself, dB",
        _means("look_away", "full_turn", "tiny", "itself"),
        (36.39, 36.80),
        TURN,
        digits=2,
    ),
    Beside(
        "rotation error on known views, deg, by sixths of 16 s",
        _known("rot_err_deg_known"),
        (3.71, 12.08, 11.29, 17.77, 7.39, 11.76),
        HALF,
    ),
    Beside(
        "translation error there, m",
        _known("trans_err_known"),
        (0.155, 0.323, 0.285, 0.482, 0.249, 0.346),
        HALF,
        digits=2,
    ),
)


def renewed(files: Files) -> str:
    """Return the table of `tiny` beside the one that shipped before."""
    rows = [one.row(files) for one in RENEWED]
    return lines(["val and heldout; statistics of frames 198-256", "gate", "before", "now"], rows)


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
            cells.append(judged(listed(values, one.digits), all(map(one.met, values))))
        other = one.found(found[worlds[0], "val"], OTHER)
        rows.append([one.told, one.gate, *cells, "" if other is None else listed([other], one.digits)])
    return lines(["frames 198-256, val and heldout", "gate", *worlds, "another room, val"], rows)
