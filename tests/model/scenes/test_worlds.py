"""Scenes are a function of (seed, split); captions and prompts name what is in them."""

import pytest
import torch

from wm_env.model.scenes.captions import (
    EVENTS,
    NEUTRAL,
    VOCABULARY,
    caption,
    completed,
    every_caption,
    with_prompt,
)
from wm_env.model.scenes.free_space import HALF_EXTENT, is_free
from wm_env.model.scenes.layouts import ROOMS, WALL
from wm_env.model.scenes.materials import HELDOUT_TEXTURES, TRAIN_TEXTURES
from wm_env.model.scenes.paths import start_pose
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import SPLITS, make_scene, make_scenes, scene_rng
from wm_env.model.state import leaves, select

VIEW = torch.tensor([[20.0, 20.0, 16.0, 16.0]])  # 32x32, 77 degrees


def _same(a, b):
    return all(torch.equal(x, y) for (_, x), (_, y) in zip(leaves(a), leaves(b), strict=True))


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_seed_gives_the_same_scene_alone_or_in_a_batch(split):
    assert _same(make_scene(7, split), make_scene(7, split))
    assert _same(select(make_scenes([3, 7], split), [1]), make_scene(7, split))


def test_splits_draw_from_disjoint_streams():
    first = [tuple(scene_rng(seed, split).integers(0, 2**63, 4)) for split in SPLITS for seed in range(200)]
    assert len(set(first)) == len(first)
    scenes = [make_scene(seed, split) for split in SPLITS for seed in range(20)]
    assert len({tuple(scene.cell_hi.flatten().tolist()) for scene in scenes}) == len(scenes)


def test_heldout_textures_are_never_trained_on():
    assert not set(TRAIN_TEXTURES) & set(HELDOUT_TEXTURES)
    assert len(TRAIN_TEXTURES) >= 6


@pytest.mark.parametrize(
    ("seed", "split", "message"), [(0, "test", "unknown split"), (-1, "val", "negative")]
)
def test_an_impossible_scene_is_refused(seed, split, message):
    with pytest.raises(ValueError, match=message):
        make_scene(seed, split)


@pytest.mark.parametrize("split", SPLITS)
def test_rooms_keep_apart_by_a_wall_and_doorways_join_them(split):
    scenes = make_scenes(range(60), split)
    for slot in range(60):
        rooms, doors, *_ = scenes.counts[slot].tolist()
        assert doors == rooms - 1
        lo, hi = scenes.cell_lo[slot], scenes.cell_hi[slot]
        assert lo[:rooms].min() > -HALF_EXTENT
        assert hi[:rooms].max() < HALF_EXTENT
        for a in range(rooms):
            for b in range(a):
                gap = torch.maximum(lo[a] - hi[b], lo[b] - hi[a])[[0, 2]].max()
                assert gap > WALL - 1e-4, (slot, a, b)
        for door in range(ROOMS, ROOMS + doors):
            axis = int(scenes.passage[slot, door])
            across = 2 - axis
            width = float(hi[door, across] - lo[door, across])
            assert 0.99 < width < 1.41
            touching = [
                room
                for room in range(rooms)
                if min(abs(hi[room, axis] - lo[door, axis]), abs(lo[room, axis] - hi[door, axis])) < 1e-5
                and lo[room, across] <= lo[door, across]
                and hi[room, across] >= hi[door, across]
            ]
            assert len(touching) == 2


def test_captions_use_the_closed_vocabulary_and_are_their_own_prompt():
    scenes = make_scenes(range(30), "train")
    texts = caption(scenes)
    words = {word for text in (*texts, *EVENTS) for word in text.replace(",", "").split()}
    assert words <= set(VOCABULARY)
    assert _same(with_prompt(scenes, texts), scenes)


def test_prompts_change_what_they_name_and_nothing_else():
    scene = make_scene(4, "val")
    out = with_prompt(scene, ["Lights dim; fog comes, the beacon turns CYAN in a kitchen"])
    assert caption(out)[0].split(", ")[1:] == ["dim light", "foggy air", "cyan beacon"]
    assert torch.equal(out.cell_lo, scene.cell_lo)
    assert _same(with_prompt(scene, [None]), scene)
    assert caption(with_prompt(out, ["fog clears"]))[0].split(", ")[2] == "clear air"
    with pytest.raises(ValueError, match="one per scene"):
        with_prompt(scene, [])


def test_light_prompts_move_the_picture_in_the_named_direction():
    scenes = with_prompt(make_scenes(range(6), "val"), ["clear"] * 6)
    poses = torch.stack([start_pose(select(scenes, [i]), i) for i in range(6)])[:, None]
    luma = [
        render(with_prompt(scenes, [f"lights {level}"] * 6), poses, VIEW.expand(6, 4), 32, 32)[0]
        .float()
        .mean()
        for level in ("dim", "normal", "bright")
    ]
    assert luma[0] < 0.85 * luma[1] < 0.85**2 * luma[2]
    spread = [
        render(with_prompt(scenes, [text] * 6), poses, VIEW.expand(6, 4), 32, 32)[0]
        .float()
        .flatten(1)
        .std(1)
        .mean()
        for text in ("clear", "fog")
    ]
    assert spread[1] < 0.9 * spread[0]


def test_start_poses_are_free_level_and_see_into_the_room():
    for split in SPLITS:
        for seed in range(12):
            scene = make_scene(seed, split)
            pose = start_pose(scene, seed)
            assert torch.equal(pose, start_pose(scene, seed))
            assert bool(is_free(scene, pose[None, None, :3, 3], 0.4))
            assert torch.allclose(pose[1, :3], torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
            _, depth = render(scene, pose[None, None], VIEW, 32, 32)
            assert float(depth[0, 0, 16].median()) > 1.0


def test_a_prompt_is_completed_to_what_a_caption_says() -> None:
    assert NEUTRAL in every_caption()
    for text in (*every_caption(), *EVENTS):
        assert completed(text).replace(",", "") == text.replace(",", "")
    assert completed("") == completed("a kitchen with a wooden table") == NEUTRAL
    assert completed("A red room") == "red room, normal light, clear air"
    assert completed("fog") == "fog, two rooms, normal light"
    assert completed("dim light, dense fog") == "dim light fog, two rooms"
