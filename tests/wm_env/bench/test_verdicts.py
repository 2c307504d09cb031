"""Every report begins with what its numbers say, and standing cameras are in no average."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wm_env.agents.transfer import page as transfer_page
from wm_env.bench import fidelity, glossary, throughput
from wm_env.bench.context import report as context_report
from wm_env.bench.drift import page as drift_page
from wm_env.bench.drift.report import DriftReport
from wm_env.bench.drift.rollouts import CODEC, REPEAT
from wm_env.bench.drift.rows_table import Rows
from wm_env.bench.drift.verdict import averaged, verdict
from wm_env.bench.fidelity import report as fidelity_report
from wm_env.bench.published import PublishedReport, markdown
from wm_env.bench.published import report as published_report
from wm_env.bench.records import load
from wm_env.bench.throughput import report as throughput_report
from wm_env.bench.trust import report as trust_report

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGES = sorted((DOCS / "reports").rglob("report.html"))
TABLES = [
    DOCS / "performance" / f"{name}.md" for name in ("fidelity-tiny", "fidelity-tiny-pure", "throughput")
]


@pytest.fixture(scope="module")
def drifted() -> DriftReport:
    return load(DriftReport, DOCS / "reports" / "drift-tiny" / "drift.json")


def row(name: str, trajectory: str, scene: int, psnr: float) -> dict[str, Any]:
    return {"row": name, "trajectory": trajectory, "scene": scene, "noise": 0, "psnr": [psnr] * 6}


def test_a_trajectory_stands_still_where_the_repeated_frame_is_the_truth() -> None:
    rows = [
        row(name, trajectory, scene, psnr)
        for name, trajectory, scene, psnr in (
            *(("mine", "idle", 0, 28.0), (REPEAT, "idle", 0, 100.0), (REPEAT, "idle", 1, 100.0)),
            *(("mine", "walk", 0, 25.0), (REPEAT, "walk", 0, 18.0)),
            *(("mine", "blocked", 0, 25.0), (REPEAT, "blocked", 0, 100.0), (REPEAT, "blocked", 1, 31.0)),
        )
    ]
    table = Rows(rows, "mine")
    assert table.standing() == ("idle",)
    assert table.moving().trajectories == ["walk", "blocked"] and table.moving().scenes == [0, 1]
    still = [one for one in rows if one["trajectory"] == "idle"]
    assert Rows(still, "mine").moving().trajectories == ["idle"], "where every camera stands, all is averaged"
    assert Rows([one for one in rows if one["row"] == "mine"], "mine").standing() == ()


def test_no_average_of_the_drift_report_holds_a_standing_camera(drifted: DriftReport) -> None:
    assert drifted.standing == ("idle",)
    repeat = drifted.rows()[REPEAT]
    assert all(cell.values["psnr"].mean < 40 for cell in repeat)  # type: ignore[union-attr]
    still = drifted.trajectories["idle"][REPEAT]
    assert all(cell.values["psnr"].mean == 100 for cell in still)  # type: ignore[union-attr]
    assert drifted.bins[0].n + drifted.trajectories["idle"]["tiny"][0].n == drifted.settings.scenes
    assert "stands still (idle)" in averaged(drifted)
    assert averaged(replace(drifted, standing=())) == ""


def test_the_verdict_of_a_drift_report_is_what_its_numbers_say(drifted: DriftReport) -> None:
    first, last = drifted.bins[0].values["psnr"], drifted.bins[-1].values["psnr"]
    said = verdict(drifted)
    assert said.startswith(f"Over 16 s tiny goes from {first.mean:.1f} to {last.mean:.1f} dB")  # type: ignore[union-attr]
    assert "above a repeated first frame in 6 of 6 bins (clearly in 6; 18.5 to 16.7 dB)" in said
    assert "its codec alone would reach 34.0 to 35.7 dB" in said and said.endswith("(H50) for 0.0 s.")

    below = tuple(replace(cell, mean=-2.0, p_holm=0.001) for cell in drifted.gain_over[REPEAT])
    said = verdict(replace(drifted, gain_over={REPEAT: below}))
    assert "in 0 of 6 bins (clearly in 0, clearly below in 6;" in said
    few = tuple(replace(cell, p=None, p_holm=None) for cell in below)
    assert "n too small to say how surely" in verdict(replace(drifted, gain_over={REPEAT: few}))
    horizon = drifted.horizon_h50["tiny"]
    assert horizon is not None
    lasting = replace(drifted, horizon_h50={"tiny": replace(horizon, median_s=None)})
    assert verdict(lasting).endswith("(H50) to the end and longer.")
    bare = replace(drifted, baselines={k: v for k, v in drifted.baselines.items() if k != CODEC})
    assert "codec alone" not in verdict(bare)
    turned = replace(drifted, settings=replace(drifted.settings, context="turn"))
    assert verdict(turned).startswith("Over 16 s tiny, shown a turn before, goes from")
    blind = replace(drifted, nulls={"psnr": "no twin"})
    assert "Nothing true to compare tiny with" in verdict(blind) and "first 2.7 s" in verdict(blind)


def test_the_verdict_on_fidelity_says_above_below_and_neither() -> None:
    report = load(fidelity.FidelityReport, DOCS / "performance" / "fidelity-tiny-pure.json")
    said = fidelity.verdict(report)
    assert "4.2, 4.7 and 3.5 dB above a repeated first frame (clearly at 3 of 3)" in said
    assert "5.2, 9.4 and 14.0 dB below its codec (val; heldout: 26.0, 22.5 and 20.6 dB)" in said
    split = report.splits["val"]
    mixed = dict(split.gain_over)
    bands = mixed[REPEAT]
    mixed[REPEAT] = {**bands, "64": bands["64"]._replace(mean=-1.0, lo=-2.0)}
    odd = replace(report, splits={"val": replace(split, gain_over=mixed)})
    assert "+4.2, +4.7 and -1.0 dB over a repeated first frame (clearly at 2 of 3)" in fidelity.verdict(odd)


@pytest.mark.parametrize(
    ("lo", "hi", "word"), [(-1, 1, "neither slower"), (1, 2, "slower"), (-2, -1, "faster")]
)
def test_the_verdict_on_throughput_says_whether_length_matters(lo: float, hi: float, word: str) -> None:
    report = load(throughput.ThroughputReport, DOCS / "performance" / "throughput.json")
    found = replace(report.length["tiny"], lo=lo, hi=hi)
    said = throughput.verdict(replace(report, length={"tiny": found}))
    one, sixteen = (
        next(row.frames_per_s for row in report.rows if (row.world, row.batch) == ("tiny", slots))
        for slots in (1, 16)
    )
    assert said.startswith(
        f"`tiny` makes {one:.1f} frames/s in 1 slot and {sixteen:.1f} frames/s in 16 slots; over 1000 steps"
    )
    assert f"a step becomes {word}" in said


def test_the_published_protocol_says_what_is_scored_and_what_is_not() -> None:
    overall = {"psnr": 21.25, "ssim": 0.5, "lpips": None, "pairs": 7}
    report = PublishedReport(
        benchmark="published", method="tiny", weights_sha256=None, fps=16, resolution=(64, 64), seed=42,
        videos={"simple": 2}, problems={"simple": {"scene_3": "its picture is broken"}},
        drops_first_frame=False, evaluations={"simple": {"revisit_consistency": {"overall": overall}}},
        poses={}, nulls={"simple/vbench_scores": "no evaluator wrote it"},
    )  # fmt: skip
    text = markdown(report).splitlines()
    assert text[2] == (
        "**simple: 2 videos of tiny, 7 revisits at PSNR 21.2 dB, SSIM 0.500. 1 scene could not be used. "
        "Upstream's evaluators have still to score 1 part.**"
    )
    assert "| simple | 2 | 7 | 21.25 | 0.500 |" in text and "- simple/scene_3: its picture is broken" in text
    nothing = replace(report, evaluations={"simple": {"revisit_consistency": None}}, problems={}, nulls={})
    assert "2 videos of tiny, no revisit scored.**" in markdown(nothing)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_a_page_begins_with_its_verdict_and_a_picture(page: Path) -> None:
    body = page.read_text().partition("</h1>")[2]
    pieces = re.findall(r"^<[^>]*>", body, re.M)
    assert pieces[0] == "<p class='verdict'>"
    assert pieces.index(next(piece for piece in pieces if piece == "<figure>")) < pieces.index("<table>")
    if page.parent.name != "transfer-quick":
        assert ": truth, generated, error" in body[: body.index("</figure>")]
    told = re.sub(r"<details>.*?</details>", "", body)
    assert "Settings:" not in told and "sha256" not in told
    assert "Settings:" in body and "<summary>What the words mean</summary>" in body


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_table_begins_with_its_verdict_and_folds_how_it_was_measured(path: Path) -> None:
    text = path.read_text()
    assert re.fullmatch(r"\*\*.+\*\*", text.splitlines()[2])
    assert text.count("<details>") == text.count("</details>") == 2
    assert text.index("|---|") < text.index("<details><summary>How it was measured</summary>\n\n")


def test_every_word_that_a_report_uses_is_explained_and_every_explanation_is_used() -> None:
    reports = (
        drift_page,
        transfer_page,
        *(fidelity_report, context_report, throughput_report, published_report, trust_report),
    )
    used = {word for report in reports for word in report.WORDS}
    assert used == set(glossary.TERMS)
    assert list(glossary.TERMS) == sorted(glossary.TERMS, key=str.casefold)
    with pytest.raises(KeyError):
        glossary.lines(["skil"])
