"""A transfer report on disk: `transfer.json`, figures as PNG, and one HTML page that holds everything."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wm_env.agents.transfer.quantities import LEARNED, SIM, TRUE
from wm_env.agents.transfer.report import PolicyScore, TransferReport
from wm_env.bench.page import how, leading, number, table, words, write_figures, write_page
from wm_env.bench.row_file import write_json
from wm_env.model.metrics.intervals import MIN_SCENES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUANTITIES = {
    "over_blind_success": "success in the twin: learned-world training over blind",
    "over_random_success": "success in the twin: learned-world training over random",
    "over_ablated_success": "success in the twin: learned-world training over training with ablate=dit",
    "regret_success": "success in the twin: twin training over learned-world training",
    "over_blind": "return in the twin: learned-world training over blind",
    "over_random": "return in the twin: learned-world training over random",
    "over_ablated": "return in the twin: learned-world training over training with ablate=dit",
    "optimism": "optimism G: its return in the learned world minus in the twin",
    "relative_optimism": "relative optimism omega",
    "transfer_ratio": "transfer ratio rho (1: no loss, 0: random)",
    "regret": "regret: return in the twin lost against training there",
    "reverse_ratio": "reverse ratio rho' (twin training, scored in the learned world)",
}


def check_figures() -> None:
    """Raise `ValueError` naming the extra to install where figures cannot be drawn."""
    _figures()


def _figures() -> Any:
    try:
        import wm_env.agents.transfer.figures as figures
    except ImportError as error:
        raise ValueError(
            f"the report's figures need matplotlib ({error}): pip install 'wm-env[bench]'"
        ) from error
    return figures


def write_report(out: Path, report: TransferReport) -> list[Path]:
    """Write `transfer.json`, the figures and `report.html` into `out` and return their paths."""
    write_json(out / "transfer.json", report.to_json(), indent=1)
    paths, blocks = write_figures(out, _draw(_figures(), report))
    name = f"Transfer of {report.settings.learner.task} from {report.world}"
    page = write_page(out / "report.html", name, [*_text(report, blocks)])
    return [out / "transfer.json", *paths, page]


def verdict(report: TransferReport) -> str:
    """Return the report's one sentence."""
    if report.claim is None:
        return f"No claim about transfer: {report.nulls['claim']}."
    found = report.quantities["over_blind_success"]
    seeds = report.scores[LEARNED][TRUE].training_seeds
    over = f"success in the twin over the blind agent {found.text()}"
    told = f"{over}, {found.n} starts, {seeds} training seed(s)"
    if report.claim:
        return f"What was learned in the learned world transfers to the twin: {told}."
    return f"Transfer is not shown: {told}; the interval reaches zero or below."


def _draw(figures: Any, report: TransferReport) -> Iterator[tuple[str, str, Figure]]:
    """Yield (file stem, caption, figure)."""
    yield "scores", "Success rate and return of every policy in both environments.", figures.scores(report)
    if report.curves:
        caption = "Learning curves: the same policies scored in the learned world and in the twin."
        yield "curves", caption, figures.curves(report)
    if report.horizon:
        yield "horizon", "Return by horizon and the gap between the environments.", figures.horizons(report)
    if len(report.temperature) > 1:
        yield "temperature", "Score against the learned world's temperature.", figures.temperatures(report)
    if report.ranking is not None:
        yield "ranking", "Does the learned world order policies as the twin does?", figures.order(report)


WORDS = (
    *("ablation", "blind policy", "clearly", "optimism", "paired", "SPL", "start"),
    *("success", "transfer", "twin", "[95%]"),
)


def _text(report: TransferReport, figures: Sequence[str]) -> list[str]:
    """Return the page: the verdict, the scores as a figure and as tables, and folded how it was measured."""
    parts = [leading(verdict(report)), *figures[:1]]
    if min(cell[TRUE].training_seeds for cell in report.scores.values()) < MIN_SCENES:
        parts.append(
            "<p class='note'>Intervals cover starts and the training seeds there are; with fewer than "
            f"{MIN_SCENES} trainings of a policy they say little about training it again.</p>"
        )
    blind = [role for role, sees in report.walked_in_both.items() if not sees]
    parts.append(
        "<p class='note'>Rewards, collisions and endings come from the true scene in both environments; only "
        f"the picture differs. Equal by construction and walked once: {html.escape(', '.join(blind))}.</p>"
    )
    for environment in (SIM, TRUE):
        parts.append(f"<h2>In the {environment}</h2>")
        rows = {role: _score_cells(cell[environment]) for role, cell in report.scores.items()}
        titles = ["success", "return", "SPL", "SoftSPL", "final distance (m)", "collisions/m", "episodes"]
        parts.append(table(titles, rows, LEARNED))
    parts.append("<h2>What is kept, what is lost</h2>")
    found, nulls = report.quantities, report.nulls
    cells = {
        text: [found[name].text() if name in found else f"- ({nulls[name]})"]
        for name, text in QUANTITIES.items()
    }
    parts.append(table(["mean [95%]"], cells))
    parts += ["<h2>J in the learned world minus J in the twin</h2>"]
    parts.append(table(["mean [95%]"], {role: [gap.text()] for role, gap in report.gaps.items()}))
    parts += _replay(report) + _order(report)
    shown = {*QUANTITIES, "claim"}
    parts += [f"<p><b>{key}</b>: {html.escape(why)}</p>" for key, why in nulls.items() if key not in shown]
    more = ["<h2>Figures</h2>", *figures[1:]] if figures[1:] else []
    return [*parts, *more, how(report, report.settings), words(WORDS)]


def _score_cells(cell: PolicyScore) -> list[str]:
    bands = [one.text() for one in (cell.success, cell.reward, cell.spl, cell.soft_spl)]
    means = [number(cell.distance), number(cell.collisions_per_metre)]
    return [*bands, *means, f"{cell.episodes} ({cell.training_seeds} training seed(s))"]


def _replay(report: TransferReport) -> list[str]:
    rows = {
        f"to step {one.until_step}": [
            number(one.reward_gap, 6),
            str(one.endings),
            number(one.precision),
            number(one.recall),
        ]
        for one in report.replay
    }
    titles = ["|r_sim - r_true|", "endings", "precision", "recall"]
    return ["<h2>The same actions replayed in both</h2>", table(titles, rows)]


def _order(report: TransferReport) -> list[str]:
    parts = []
    if report.ranking is not None:
        order = report.ranking
        values = [number(x, 3) for x in (order.pearson, order.spearman, order.kendall, order.mmrv)]
        titles = ["Pearson", "Spearman", "Kendall", "MMRV", "policies"]
        row = {"order of returns": [*values, str(order.n)]}
        parts += ["<h2>Does the learned world order policies rightly?</h2>", table(titles, row)]
    if report.exploitation is not None:
        parts.append(
            f"<p>Exploitation X = {report.exploitation:.3f}: what the return in the learned world gained "
            "after the checkpoint that is best in the twin, beyond what the twin's gained. Policies are the "
            "last ones of training; no checkpoint was selected.</p>"
        )
    seeds = report.iqm.success_in_twin
    titles = ["IQM of success over training seeds"]
    return [*parts, table(titles, {role: [cell.text()] for role, cell in seeds.items()})]
