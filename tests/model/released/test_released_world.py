"""The env steps every released pipeline, with and without refiner, from an image and a prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from wm_env.env import SanaWMEnv
from wm_env.model.camera import CameraInput, camera_input, clip_windows
from wm_env.model.released.presets import ReleasedSettings, load_parts, load_released_world
from wm_env.model.released.rollout import ReleasedSampler, ReleasedWorld, teacher_sampler
from wm_env.model.state import cat, leaves, select
from wm_env.model.world import Context, Start

SIZE = (64, 96)
FEW = ReleasedSampler(timesteps=(1000.0, 727.0))  # the released list has four
Pipelines = Callable[[str], Path]


def begun_with(
    image: np.ndarray,
    noise_seed: int = 3,
    intrinsics: tuple[float, float, float, float] = (60.0, 60.0, 48.0, 32.0),
    context: Context | None = None,
) -> Start:
    """Return what a world is told at reset."""
    return Start(
        image=image, intrinsics=intrinsics, prompt="a kitchen", noise_seed=noise_seed, context=context
    )


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def settings(folder: Path, refiner: str = "none") -> ReleasedSettings:
    return ReleasedSettings(weights=str(folder), refiner=refiner, frame_size=SIZE)


def walk(chunks: int, batch: int = 1) -> torch.Tensor:
    """Return poses `(B, 24 * chunks, 4, 4)` float64 of a walk forward to the right."""
    c2w = torch.eye(4, dtype=torch.float64).repeat(batch, 24 * chunks, 1, 1)
    way = torch.arange(1, 24 * chunks + 1, dtype=torch.float64)
    c2w[..., 0, 3], c2w[..., 2, 3] = 0.01 * way, 0.025 * way
    return c2w


@pytest.fixture(scope="module")
def refined(pipelines: Pipelines) -> ReleasedWorld:
    """The streaming world with refiner and two denoising steps."""
    world = load_released_world("sana-wm-streaming", settings(pipelines("streaming"), "ltx2"))
    return ReleasedWorld(spec=world.spec, parts=world.parts, sampler=FEW)


@pytest.mark.parametrize("refiner", ["none", "ltx2"])
def test_gym_steps_the_streaming_pipeline(pipelines: Pipelines, refiner: str) -> None:
    env = SanaWMEnv(
        world="sana-wm-streaming", weights=pipelines("streaming"), refiner=refiner, frame_size=SIZE,
        image=picture(), prompt="a sunlit kitchen", obs_type="rgb_sequence",
    )  # fmt: skip
    assert (env.frames_per_step, env.trained_steps) == (24, 40)
    obs, _ = env.reset(seed=0)
    assert np.array_equal(obs[0], picture())
    frames = []
    for action in (1, 3):
        obs, _, terminated, truncated, info = env.step(action)
        assert obs.shape == (24, *SIZE, 3) and obs.dtype == np.uint8
        assert not (terminated or truncated) and info["c2w_frames"].shape == (24, 4, 4)
        frames.append(obs)
    assert not np.array_equal(frames[0], frames[1])
    assert len(bytes.fromhex(env.world.spec.weights_sha256)) == 32


def test_the_ids_of_the_released_worlds_end_after_a_minute(pipelines: Pipelines) -> None:
    weights = {"streaming": "SanaWM-Streaming-v0", "chunk-causal": "SanaWM-ChunkCausal-v0"}
    env = gym.make(weights["streaming"], weights=pipelines("streaming"), frame_size=SIZE, image=picture())
    assert env.spec is not None and env.spec.max_episode_steps == 40
    assert env.unwrapped.world.spec.name == "sana-wm-streaming"
    with pytest.raises(FileNotFoundError, match="wm-env download sana-wm-chunk-causal"):
        gym.make(weights["chunk-causal"], weights=pipelines("streaming") / "nowhere")


def test_the_chunk_causal_pipeline_steps_with_guidance(pipelines: Pipelines) -> None:
    parts = load_parts("sana-wm-chunk-causal", settings(pipelines("chunk-causal")))
    spec = load_released_world("sana-wm-streaming", settings(pipelines("streaming"))).spec
    world = ReleasedWorld(spec=spec, parts=parts, sampler=teacher_sampler(steps=2))
    env = SanaWMEnv(world=world, image=picture(), prompt="a dark kitchen")
    env.reset(seed=0)
    for _ in range(2):
        obs, *_ = env.step(1)
    assert obs.shape == (*SIZE, 3)
    plain = ReleasedWorld(
        spec=spec, parts=parts, sampler=dataclasses.replace(teacher_sampler(steps=2), guidance=1.0)
    )
    _, state = plain.begin([begun_with(picture())])
    assert state.dit_negative is None
    assert len(parts.dit.empty_state(1, (2, 3), 4).blocks[3].attention.chunks) == 10


def test_restoring_a_state_replays_the_same_frames(refined: ReleasedWorld) -> None:
    env = SanaWMEnv(world=refined, image=picture(), prompt="a kitchen", obs_type="rgb_sequence")
    env.reset(seed=1)
    env.step(1)
    snap = env.snapshot()
    first = env.step(3)[0]
    env.step(2)
    env.restore(snap)
    assert np.array_equal(env.step(3)[0], first)


def test_states_have_one_shape_and_slots_at_different_chunks_share_a_batch(refined: ReleasedWorld) -> None:
    path = walk(3)
    _, state = refined.begin([begun_with(picture())])
    states, chunks = [state], []
    for i in range(3):
        chunk, state = refined.step_chunk(state, path[:, 24 * i : 24 * (i + 1)])
        states.append(state)
        chunks.append(chunk)
    shapes = [[(name, leaf.shape, leaf.dtype) for name, leaf in leaves(s)] for s in states]
    assert all(shape == shapes[0] for shape in shapes)
    mixed = cat([states[2], states[0]])
    both, after = refined.step_chunk(mixed, torch.cat([path[:, 48:], path[:, :24]]))
    for slot, alone in ((0, chunks[2]), (1, chunks[0])):
        assert (both.frames[slot].int() - alone.frames[0].int()).abs().max() <= 1
    assert select(after, [0]).chunk.tolist() == [3]


def test_chunk_cameras_are_slices_of_the_whole_path(refined: ReleasedWorld) -> None:
    """Chunk [s, e) needs nothing beyond pixel frame 8 (e - 1), and no pose is used one chunk late."""
    path = walk(2)
    start = torch.eye(4, dtype=torch.float64).expand(1, 1, 4, 4)
    intrinsics = torch.tensor([begun_with(picture()).intrinsics])
    windows = clip_windows(49, refined.parts.dit.cfg.temporal_stride)
    whole = camera_input(torch.cat([start, path], dim=1), intrinsics, SIZE, refined.grid, windows)
    _, state = refined.begin([begun_with(picture())])
    chunks: list[CameraInput] = []
    for i in range(2):
        told: list[CameraInput] = []
        hook = refined.parts.dit.register_forward_pre_hook(lambda _, given, told=told: told.append(given[3]))
        _, state = refined.step_chunk(state, path[:, 24 * i : 24 * (i + 1)])
        hook.remove()
        assert len(told) >= len(FEW.timesteps)  # a call for each noise level, of one and the same camera
        assert all(torch.equal(a, b) for camera in told for a, b in zip(camera, told[0], strict=True))
        chunks.append(told[0])
    joined = CameraInput(
        torch.cat([c.conditions for c in chunks], dim=1), torch.cat([c.plucker for c in chunks], dim=2)
    )
    torch.testing.assert_close(joined, whole)


def test_noise_depends_on_seed_and_chunk_alone(refined: ReleasedWorld) -> None:
    path = walk(1)
    frames = []
    for seed in (3, 3, 4):
        _, state = refined.begin([begun_with(picture(), noise_seed=seed)])
        frames.append(refined.step_chunk(state, path)[0].frames)
    assert torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[0], frames[2])
    _, state = refined.begin([begun_with(picture())])
    again = refined.step_chunk(refined.set_noise_seed(state, [4]), path)[0].frames
    assert torch.equal(again, frames[2])


def test_a_new_prompt_changes_only_its_slot_from_the_next_chunk_on(refined: ReleasedWorld) -> None:
    _, state = refined.begin([begun_with(picture()), begun_with(picture())])
    told = refined.set_prompt(state, [None, "describe : 7"])
    before, _ = refined.step_chunk(state, walk(1, 2))
    after, _ = refined.step_chunk(told, walk(1, 2))
    assert torch.equal(before.frames[0], after.frames[0])
    assert not torch.equal(before.latent[1], after.latent[1])


def test_renoise_and_euler_differ_and_both_are_deterministic(refined: ReleasedWorld) -> None:
    world = ReleasedWorld(
        spec=refined.spec, parts=refined.parts, sampler=dataclasses.replace(FEW, rule="renoise")
    )
    _, state = refined.begin([begun_with(picture())])
    euler = refined.step_chunk(state, walk(1))[0].latent
    first, second = (world.step_chunk(state, walk(1))[0].latent for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, euler)


def test_impossible_input_is_refused_before_compute(refined: ReleasedWorld, pipelines: Pipelines) -> None:
    _, state = refined.begin([begun_with(picture())])
    with pytest.raises(ValueError, match=r"\(1, 24, 4, 4\)"):
        refined.step_chunk(state, walk(1)[:, :23])
    bent = walk(1)
    bent[0, 5, :3, :3] *= 1.1
    with pytest.raises(ValueError, match="pose 5 is not a rigid"):
        refined.step_chunk(state, bent)
    with pytest.raises(ValueError, match="start image"):
        refined.begin([begun_with(picture()[:32])])
    with pytest.raises(ValueError, match="field of view"):
        refined.begin([begun_with(picture(), intrinsics=(5.0, 5.0, 48.0, 32.0))])
    folder = pipelines("streaming")
    with pytest.raises(ValueError, match="no chunk-causal checkpoint"):
        load_released_world("sana-wm-chunk-causal", settings(folder))
    for odd in ({"refiner": "ltx3"}, {"offload": ("gpu",)}, {"dtype": "int8"}, {"frame_size": (60, 96)}):
        with pytest.raises(ValueError, match=str(next(iter(odd)))):
            dataclasses.replace(settings(folder), **odd)
    with pytest.raises(ValueError, match="is the twin and takes latents, detail; got weights"):
        SanaWMEnv(world="twin", weights=folder)
    with pytest.raises(FileNotFoundError, match="wm-env download sana-wm-streaming"):
        SanaWMEnv(world="sana-wm-streaming", weights=folder / "nowhere")
    with pytest.raises(ValueError, match="--trajectory"):
        SanaWMEnv(world="sana-wm-bidirectional")


def test_offloaded_parts_give_the_same_frames(refined: ReleasedWorld) -> None:
    parts = dataclasses.replace(refined.parts, offload=("text", "vae", "refiner"))
    whole = ReleasedWorld(spec=refined.spec, parts=parts, sampler=FEW)
    folder = refined.parts.text.folder.parent  # type: ignore[attr-defined]
    offload = ("text-blocks", "vae", "refiner-blocks", "stage1-blocks")
    asked = dataclasses.replace(settings(folder, "ltx2"), offload=offload)
    parts = load_parts("sana-wm-streaming", asked)
    blocks = ReleasedWorld(spec=refined.spec, parts=parts, sampler=FEW)
    frames = []
    for each in (refined, whole, blocks):
        _, state = each.begin([begun_with(picture())])
        _, state = each.step_chunk(state, walk(2)[:, :24])
        frames.append(each.step_chunk(state, walk(2)[:, 24:])[0].frames)
    assert torch.equal(frames[0], frames[1]) and torch.equal(frames[0], frames[2])
    with pytest.raises(ValueError, match="refiner and refiner-blocks; choose one"):
        dataclasses.replace(asked, offload=("refiner", "refiner-blocks"))


def test_window_and_cameras_of_the_published_pipeline_are_had_on_request(pipelines: Pipelines) -> None:
    folder = pipelines("chunk-causal")
    plain = load_parts("sana-wm-chunk-causal", settings(folder))
    asked = dataclasses.replace(settings(folder), window=40, camera_dtype="bfloat16")
    parts = load_parts("sana-wm-chunk-causal", asked)
    assert [len(p.dit.empty_state(1, (2, 3), 4).blocks[3].attention.chunks) for p in (plain, parts)] == [
        10,
        40,
    ]
    spec = load_released_world("sana-wm-streaming", settings(pipelines("streaming"))).spec
    sampler = dataclasses.replace(teacher_sampler(steps=1), guidance=1.0)
    told = []
    world = ReleasedWorld(spec=spec, parts=parts, sampler=sampler)
    hook = parts.dit.register_forward_pre_hook(lambda _, given: told.append(given[3].conditions.dtype))
    _, state = world.begin([begun_with(picture())])
    world.step_chunk(state, walk(1))
    hook.remove()
    assert set(told) == {torch.bfloat16}
    for odd in ({"window": 0}, {"window": 43}, {"camera_dtype": "half"}, {"precision": "int4"}):
        with pytest.raises(ValueError, match=str(next(iter(odd)))):
            dataclasses.replace(settings(folder), **odd)
