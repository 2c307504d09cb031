"""The stream of rooms: the same plans whoever makes them, and pixels that fit the poses."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from wm_env.model.data.stream import (
    FIRST_SCENE,
    Stream,
    StreamConfig,
    captions,
    draw,
    frames_of,
    plan_group,
    standing,
)
from wm_env.model.scenes.captions import caption, every_caption
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import make_scene, make_scenes
from wm_env.model.state import leaves, select

CONFIG = StreamConfig(latents=5, group=3, event_fraction=0.5)
CPU = torch.device("cpu")


def test_plans_do_not_depend_on_the_number_of_workers_or_where_the_reader_begins() -> None:
    alone = Stream(CONFIG)
    here = [next(alone) for _ in range(4)]
    helped = Stream(CONFIG, first=1, workers=2)
    try:
        there = [next(helped) for _ in range(3)]
    finally:
        helped.close()
    for a, b in zip(here[1:], there, strict=True):
        assert all(torch.equal(x, y) for (_, x), (_, y) in zip(leaves(a), leaves(b), strict=True))
    assert not torch.equal(here[0].c2w, here[1].c2w)


def test_no_scene_of_a_stream_is_one_of_the_rendered_sets() -> None:
    first = plan_group(0, StreamConfig(latents=3, group=2, event_fraction=0.0))
    again = make_scenes([FIRST_SCENE, FIRST_SCENE + 1], "train")
    assert torch.equal(first.scenes.materials, again.materials)
    other = plan_group(0, StreamConfig(latents=3, group=2, event_fraction=0.0, seed=1))
    assert not torch.equal(first.scenes.materials, other.scenes.materials)


def test_drawn_frames_are_the_scene_seen_from_the_walk() -> None:
    plan = plan_group(2, CONFIG)
    clip, latent = torch.tensor([0, 2, 2]), torch.tensor([3, 0, 4])
    rgb, depth = draw(plan, clip, latent, 64, CPU)
    assert rgb.shape == (3, 4, 64, 64, 3) and depth.shape == (3, 4, 64, 64)
    for row, (c, t) in enumerate(zip(clip.tolist(), latent.tolist(), strict=True)):
        scene = select(plan.scenes, [int(plan.part[c, t])])
        poses = plan.absolute[c, [max(0, 4 * t - 3 + k) for k in range(4)]]
        colours, metres = render(scene, poses[None], plan.intrinsics[c : c + 1], 64, 64)
        assert torch.equal(rgb[row], colours[0]) and torch.equal(depth[row], metres[0].clamp(max=1000.0))
    last, _ = draw(plan, clip, latent, 64, CPU, last=True)
    assert torch.equal(last[:, 0], rgb[:, 3])


def test_a_camera_that_stands_sees_what_it_saw_first_until_something_changes() -> None:
    plan = plan_group(1, dataclasses.replace(CONFIG, event_fraction=0.0))
    still = standing(plan, torch.tensor([True, False, True]), torch.tensor([2, 2, 0]))
    for clip, first in ((0, 2), (2, 0)):
        rgb, _ = draw(still, torch.full((3,), clip), torch.arange(2, 5), 32, CPU)
        seen, _ = draw(plan, torch.tensor([clip]), torch.tensor([first]), 32, CPU, last=True)
        assert (rgb == seen[0, 0]).all()
        assert torch.equal(still.c2w[clip], plan.c2w[clip, 4 * first].expand(17, 4, 4))
    assert torch.equal(still.c2w[1], plan.c2w[1]) and torch.equal(still.absolute[1], plan.absolute[1])
    changing = plan_group(0, dataclasses.replace(CONFIG, event_fraction=1.0))
    still = standing(changing, torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.int64))
    clips, latents = torch.arange(3).repeat_interleave(5), torch.arange(5).repeat(3)
    rgb = draw(still, clips, latents, 32, CPU, last=True)[0].unflatten(0, (3, 5))
    assert not (rgb == rgb[:, :1]).all(), "the light of a standing camera's room may change"


def test_an_event_changes_scene_and_caption_from_one_frame_on() -> None:
    plan = plan_group(0, StreamConfig(latents=6, group=8, event_fraction=1.0))
    assert len(plan.scenes.light) == 16
    for clip in range(8):
        parts, words = plan.part[clip], plan.words[clip]
        assert parts[0] == clip and parts[-1] == 8 + clip, "before it the scene, after it the changed one"
        assert torch.equal(parts != parts[0], words != words[0])
        assert captions()[int(words[0])] == caption(select(plan.scenes, [clip]))[0]


def test_every_caption_of_a_scene_is_in_the_table() -> None:
    table = every_caption()
    assert len(set(table)) == len(table)
    assert {caption(make_scene(seed, "val"))[0] for seed in range(40)} <= set(table)


def test_latent_zero_is_the_first_frame_four_times() -> None:
    assert frames_of(torch.tensor([0, 1, 2])).tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize("wrong", [{"latents": 2}, {"group": 0}, {"size": 60}, {"event_fraction": 1.5}])
def test_an_impossible_stream_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="latents >= 3"):
        StreamConfig(**wrong)  # type: ignore[arg-type]
