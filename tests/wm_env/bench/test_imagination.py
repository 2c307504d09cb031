"""What a world imagines: every measure is moved by the fault that it is there for, and by no other."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.bench.fidelity import FidelitySettings
from wm_env.bench.fidelity import imagination as measures
from wm_env.bench.fidelity.figure import BETWEEN, GAP, walks_figure
from wm_env.bench.fidelity.imagination import FIRST, OTHER, TEMPLATE, TRUE, WRONG, imagined, structure
from wm_env.bench.fidelity.imagination_report import Imagination, imagination, imagination_lines
from wm_env.bench.fidelity.standing import choose_event, standing, standing_steps
from wm_env.bench.seen import seen_by_walk, share_shown
from wm_env.bench.walks import Rolled, Walks, no_steps, walks
from wm_env.model.judge.network import load_judge
from wm_env.model.metrics.told_apart import telling_accuracy
from wm_env.model.scenes.captions import EVENTS
from wm_env.model.scenes.paths import trajectory
from wm_env.model.scenes.worlds import make_scene
from wm_env.model.world import Chunk
from wm_env.twin import TWIN_SPEC, TwinState, TwinWorld

SETTINGS = FidelitySettings(scenes=4, horizons=(4, 16))


@pytest.fixture(scope="module")
def truth() -> Walks:
    """Four random walks of 32 frames."""
    seeds = range(SETTINGS.scenes)
    return walks(TWIN_SPEC, split="val", seeds=seeds, keys=[trajectory("random_walk", 8, s) for s in seeds])


@pytest.fixture
def measured(truth: Walks, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function from frames (and depth) to the report of a world, with a classifier of few steps."""

    def measure(frames: Tensor, depth: Tensor | None = truth.depth, steps: int = 1) -> Imagination:
        monkeypatch.setattr(measures, "telling_accuracy", partial(telling_accuracy, steps=steps))
        made = Rolled(frames, None, depth)
        return imagination("mine", imagined("mine", TWIN_SPEC, truth, made, SETTINGS, load_judge()), None)

    return measure


def haze(frames: Tensor) -> Tensor:
    """Return what a mean of rooms looks like: two by two blurred patches, pale and greyish."""
    x = frames.flatten(0, 1).movedim(-1, 1).float()
    x = F.interpolate(F.adaptive_avg_pool2d(x, 2), (64, 64), mode="bilinear")
    x = 128 + 0.3 * (x - 128)
    return x.movedim(1, -1).round().to(torch.uint8).unflatten(0, frames.shape[:2])


def test_the_truth_is_perfect_and_haze_fails_everything_but_the_grid(truth: Walks, measured: Any) -> None:
    best, worst = measured(truth.frames), measured(haze(truth.frames), steps=20)
    assert {cell.mean for rows in (best.seen, best.never) for cell in rows["mine"].values()} == {100.0}
    for statistic, rows in best.looks.items():
        assert [cell.mean for cell in rows["mine"].values()] == [1.0] * 3
        if statistic != "token grid":
            assert all(cell.mean < 0.5 for cell in worst.looks[statistic]["mine"].values())
    assert best.frechet["mine"].mean == pytest.approx(0, abs=1e-6)
    assert worst.frechet["mine"].mean > worst.frechet[OTHER].mean > 0
    assert best.told_apart["mine"].mean == 0.5 < 0.9 < worst.told_apart["mine"].mean
    assert best.in_place.mean == 1.0 and worst.in_place.mean < 0
    assert best.structure[TRUE].mean > best.structure[TEMPLATE].mean > worst.structure["mine"].mean
    assert best.geometry["mine"] == best.geometry[TRUE] and best.geometry[TRUE].mean < 0.5
    assert worst.geometry["mine"].mean > 1.5 * best.geometry[TRUE].mean
    assert best.geometry[WRONG].mean > 2 * best.geometry[TRUE].mean
    assert (best.judge, best.frames) == (load_judge().sha256, worst.frames)
    text = "\n".join(imagination_lines("val", best))
    assert "| true frames |" in text and f"| {FIRST} |" in text and "n too small" in text


def test_sharp_but_blind_and_frozen_worlds_are_seen_as_such(truth: Walks, measured: Any) -> None:
    elsewhere, depth = truth.frames.roll(1, 0), truth.depth.roll(1, 0)
    blind = measured(elsewhere, depth)  # real rooms, along another's motion
    assert blind.geometry["mine"].mean > 2 * blind.geometry[TRUE].mean
    assert blind.in_place.mean < 0.7 and max(cell.mean for cell in blind.seen["mine"].values()) < 20
    frozen = measured(truth.frames[:, :1].expand_as(truth.frames))
    assert frozen.geometry["mine"].mean is None  # nothing moves, so nothing can be explained
    assert frozen.seen["mine"] == frozen.seen[FIRST]
    assert frozen.geometry.keys() == {"mine", TRUE, WRONG}
    assert measured(truth.frames, None).geometry.keys() == {TRUE, WRONG}  # a world without depth


def test_a_view_that_came_before_is_seen_and_a_new_one_is_not(measured: Any) -> None:
    walked = walks(TWIN_SPEC, split="val", seeds=[3], keys=[["d"] * 6 + ["a"] * 6])  # aside and back
    share = {frame: float(seen_by_walk(TWIN_SPEC, walked, frame).double().mean()) for frame in (4, 24, 48)}
    assert share[48] > 0.98 and share[4] < 0.9 and share[24] < 0.9
    told = share_shown(TWIN_SPEC, walked, "none", torch.tensor([1, 24, 48]))
    assert told[0, 0] > 0.8 and told[0, 1] < share[24] and told[0, 2] > 0.98
    assert share_shown(TWIN_SPEC, walked, "turn", torch.tensor([24])).item() > 0.9 > share[24]
    start = seen_by_walk(TWIN_SPEC, walked, 1)  # hardly turned: all but a stripe
    assert 0.8 < float(start.double().mean()) < 1


def test_grey_where_nothing_was_seen_costs_the_never_seen_alone(truth: Walks, measured: Any) -> None:
    frames = truth.frames.clone()
    frames[:, 16][~seen_by_walk(TWIN_SPEC, truth, 16)] = 128
    found = measured(frames)
    assert found.seen["mine"]["16"].mean == 100 > 30 > found.never["mine"]["16"].mean
    assert found.never["mine"]["4"].mean == 100


def test_floor_and_ceiling_count_only_where_they_belong(truth: Walks) -> None:
    kinds = (
        torch.tensor([[1, 1, 2, 0]]).T.repeat_interleave(2, 0).expand(8, 8)
    )  # ceiling over wall over floor
    right = kinds.expand(2, 3, 8, 8)
    found = structure({"same": right, "flipped": right.flip(-2), "wall": torch.full_like(right, 2)}, right)
    assert found == {"same": [1.0] * 2, "flipped": [0.0] * 2, "wall": [0.0] * 2, TEMPLATE: [1.0] * 2}
    moved = right.clone()
    moved[0] = right[0].roll(2, -2)  # floor on top in one scene of two; the template knows one answer
    assert structure({}, moved)[TEMPLATE] != [1.0, 1.0]


class Fading(TwinWorld):
    """A twin that loses a tenth of its contrast a step."""

    made = 0

    def step_chunk(self, state: TwinState, c2w: Tensor) -> tuple[Chunk, TwinState]:
        chunk, state = super().step_chunk(state, c2w)
        self.made += 1
        grey = 128 + 0.9**self.made * (chunk.frames.float() - 128)
        return chunk._replace(frames=grey.to(torch.uint8)), state


def test_a_standing_twin_stays_and_shows_every_event_and_a_deaf_one_none() -> None:
    truth = walks(TWIN_SPEC, split="val", seeds=range(6), keys=[["w"]] * 6)
    ticks: list[int] = []
    found = standing(TwinWorld(), truth, 2, 4, ticks.append)
    assert found["psnr"] == {"1": [100.0] * 6, "2": [100.0] * 6}
    assert found["events"] == {"at the start": [1.0] * 6, "after 2 steps": [1.0] * 6}
    assert sum(ticks) == 6 * standing_steps(2)
    deaf = TwinWorld()
    deaf.set_prompt = lambda state, prompts: state  # type: ignore[method-assign]
    assert sum(standing(deaf, truth, 1, 6, no_steps)["events"]["at the start"]) == 0


def test_every_kind_of_event_is_told_and_beacons_only_where_one_is_in_view() -> None:
    scenes = [make_scene(seed, "val") for seed in range(12)]
    told = [{choose_event(scene, seed, beacon).split()[0] for seed, scene in enumerate(scenes)}
            for beacon in (True, False)]  # fmt: skip
    assert told == [{event.split()[0] for event in EVENTS}, {"lights", "fog"}]


def test_a_picture_that_fades_is_farther_from_the_start_with_every_step() -> None:
    truth = walks(TWIN_SPEC, split="val", seeds=[0], keys=[["w"]])
    found = standing(Fading(), truth, 6, 1, no_steps)["psnr"]
    assert found["6"][0] < found["3"][0] < 40


def test_the_figure_has_the_truth_above_the_world_in_two_rows_a_scene(truth: Walks) -> None:
    sheet = walks_figure(truth.frames, 255 - truth.frames)
    block = 2 * 64 + GAP + BETWEEN
    assert sheet.shape == (4 * block - BETWEEN, 9 * (64 + GAP) - GAP, 3)
    for scene, (column, frame) in ((0, (0, 0)), (3, (8, 32)), (1, (2, 8))):
        left = column * (64 + GAP)
        rows = [
            sheet[scene * block + top : scene * block + top + 64, left : left + 64] for top in (0, 64 + GAP)
        ]
        assert (rows[0] == truth.frames[scene, frame].numpy()).all()
        assert (rows[1] == 255 - truth.frames[scene, frame].numpy()).all()
    with pytest.raises(ValueError, match="must be of one shape"):
        walks_figure(truth.frames, truth.frames[:, :9])
