"""A step of every world runs on its device alone: the host neither waits for it nor reads from it."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode puts no folder on the path

from fake_device import DEVICE, HostRoundTrip, fake_device

from wm_env.model.dit import DiT
from wm_env.model.refiner.ltx2 import LTX2Refiner
from wm_env.model.released.measure.step import TOY, RandomText
from wm_env.model.released.parts import ReleasedParts
from wm_env.model.released.rollout import ReleasedSampler, ReleasedWorld, teacher_sampler
from wm_env.model.rollout import LearnedWorld
from wm_env.model.scenes.worlds import make_scenes
from wm_env.model.state import cat, select
from wm_env.model.vae.ltx2 import LTX2VAE
from wm_env.model.world import Start, World, WorldSpec
from wm_env.twin import TwinWorld
from wm_env.worlds import load_world

SLOTS = 2
DIT = dataclasses.replace(TOY.dit, depth=2, softmax_every=2)  # a block of each kind
REFINER = dataclasses.replace(TOY.refiner, layers=1)
VAE = {
    "latent_channels": DIT.latent_channels,
    "block_out_channels": [4, 8, 8, 16],
    "decoder_block_out_channels": [8, 16, 32],
    "layers_per_block": [1, 1, 1, 1, 1],
    "decoder_layers_per_block": [1, 1, 1, 1],
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}


def tiny(name: str) -> LearnedWorld:
    """Return an embedded world on the device."""
    here = load_world(name)
    assert isinstance(here, LearnedWorld)
    kept = ("spec", "text", "sampler", "memory_reading", "prompts", "ablate", "dtype")
    networks = {part: getattr(here, part) for part in ("dit", "vae", "refiner")}
    on_device = {part: net and copy.deepcopy(net).to(DEVICE) for part, net in networks.items()}
    return LearnedWorld(**on_device, **{part: getattr(here, part) for part in kept})


def twin() -> TwinWorld:
    """Return the renderer on the device, with latents."""
    world = TwinWorld(codec=copy.deepcopy(load_world("twin", latents=True)._codec).to(DEVICE))  # type: ignore[attr-defined]
    world._device = DEVICE
    return world


def released(*, refiner: bool, sampler: ReleasedSampler) -> ReleasedWorld:
    """Return a released pipeline of toy size on the device, its autoencoder too."""
    diffusers = pytest.importorskip("diffusers", reason="needs the extra released")
    with torch.device("meta"):
        dit, vae = DiT(DIT), diffusers.AutoencoderKLLTX2Video(**VAE)
        network = LTX2Refiner(REFINER) if refiner else None
    said = RandomText(TOY.text[0], DIT.caption_channels)
    parts = ReleasedParts(
        dit=dit,
        vae=LTX2VAE(vae.eval()),
        text=said,
        negative=said,
        refiner=network,
        refiner_text=RandomText(TOY.text[1], REFINER.caption_channels) if refiner else None,
        device=str(DEVICE),
    )
    frames = DIT.chunk_frames * DIT.temporal_stride
    spec = WorldSpec(
        name="toy", frames_per_step=frames, frame_size=TOY.frame_size, max_translation=0.025,
        max_rotation_deg=0.6, trained_steps=40, latent_shape=None,
    )  # fmt: skip
    return ReleasedWorld(spec=spec, parts=parts, sampler=sampler)


FEW = ReleasedSampler(timesteps=(1000.0, 727.0), rule="renoise")  # of four, with fresh noise
WORLDS: dict[str, Callable[[], World]] = {
    "tiny": lambda: tiny("tiny"),
    "tiny-pure": lambda: tiny("tiny-pure"),
    "twin": twin,
    "streaming": lambda: released(refiner=True, sampler=FEW),
    "chunk-causal": lambda: released(refiner=False, sampler=teacher_sampler(2)),
}


def starts(world: World) -> list[Start]:
    """Return what a world is told at a reset of `SLOTS` slots."""
    height, width = world.spec.frame_size
    pose = np.eye(4)
    pose[1, 3] = -1.4
    return [
        Start(
            image=np.full((height, width, 3), 9, dtype=np.uint8),
            intrinsics=(width / 2, width / 2, width / 2, height / 2),
            prompt="two rooms",
            noise_seed=slot,
            scene=make_scenes([slot], "train"),
            start_c2w=pose,
        )
        for slot in range(SLOTS)
    ]


def path(world: World) -> Tensor:
    """Return poses `(B, K, 4, 4)` float64 of a chunk, on the host as an environment gives them."""
    return torch.eye(4, dtype=torch.float64).repeat(SLOTS, world.spec.frames_per_step, 1, 1)


def begun(world: World) -> Any:
    return world.begin(starts(world))[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_a_step_stays_on_the_device(name: str) -> None:
    world = WORLDS[name]()
    state = begun(world)
    for _ in range(2):  # the first of a stream and one with a past
        with fake_device() as watch:
            chunk, state = world.step_chunk(state, path(world))
        assert {leaf.device for leaf in chunk if leaf is not None} == {DEVICE}
        assert watch.copies  # the poses at least


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "streaming"])
def test_slots_at_different_chunks_step_on_the_device(name: str) -> None:
    world = WORLDS[name]()
    state = begun(world)
    with fake_device():
        _, later = world.step_chunk(state, path(world))
        mixed = cat([select(later, [0]), select(state, [1])])
        world.step_chunk(mixed, path(world))


ROUND_TRIPS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a number": lambda there, _: there.sum().item(),
    "a list": lambda there, _: there.tolist(),
    "a condition": lambda there, _: bool((there > 0).any()),
    "a copy to the host": lambda there, _: there.cpu(),
    "a copy that is waited for": lambda _, here: here.to(DEVICE),
    "a tensor made of values": lambda *_: torch.tensor([1.0], device=DEVICE),
    "values like a tensor": lambda there, _: there.new_tensor([1.0]),
    "an index of the host": lambda there, here: there[here.long()],
    "a list as an index": lambda there, _: there[[0, 2]],
    "a mask": lambda there, _: torch.masked_select(there, there > 0),
    "two devices": lambda there, here: there + here,
    "two devices, written into": lambda there, here: there.add_(here),
    "a number inside a compound": lambda there, _: torch.isclose(there, there).all().item(),
}


@pytest.mark.parametrize("what", ROUND_TRIPS)
def test_what_makes_the_host_wait_is_seen(what: str) -> None:
    there, here = torch.zeros(3, device=DEVICE), torch.arange(3.0)
    with torch.inference_mode(), fake_device() as watch:
        assert (there + here.to(DEVICE, non_blocking=True) * 2).device == DEVICE
        assert watch.copies == [(3,)] and here.sum().item() == 3
        with pytest.raises(HostRoundTrip):
            ROUND_TRIPS[what](there, here)
