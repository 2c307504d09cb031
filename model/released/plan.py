"""What a released pipeline needs of a GPU, computed before anything is loaded.

    peak = what stays on the device + the largest of what visits it or is computed at once

Weights and states are counted from the shapes in this code (bfloat16, 704x1280); activations and the parts
of other libraries are estimates, marked as such. Nothing here was measured on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from wm_env.model.dit import DiT
from wm_env.model.refiner.ltx2 import LTX2Config, LTX2Refiner
from wm_env.model.released.names import parameter_count, table
from wm_env.model.released.parts import Offload
from wm_env.model.released.presets import FRAME_SIZE, RELEASED, STEPPABLE, sampler_of, transformer_config
from wm_env.model.state import leaves

GIB = 2**30
BYTES = 2  # bfloat16
SPATIAL, LATENTS = 32, 121  # autoencoder stride; latents of the longest trained clip

# Parts of other libraries and activations: estimates
# (docs/reference/pipeline.md#autoencoder; class defaults).
VAE_PARAMETERS = 694e6 + 528e6
VAE_STATE_BYTES = 595e6
GEMMA2_PARAMETERS = 2.6e9
GEMMA3_PARAMETERS = 12.2e9 + 1.43e9  # with the connectors
STAGE1_ACTIVATIONS = 2.0 * GIB
REFINER_ACTIVATIONS = 1.5 * GIB
DECODE_ACTIVATIONS = 3.0 * GIB


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One way to run a world; sizes in GiB.

    resident: stays on the device. visiting: the largest of what comes and goes. host: waits on the CPU.
    """

    world: str
    refiner: str
    offload: tuple[Offload, ...]
    resident: float
    visiting: float
    host: float
    leaves_out: str

    @property
    def peak(self) -> float:
        return self.resident + self.visiting

    def fits(self, vram: float) -> bool:
        return self.peak <= vram


def plans(world: str) -> list[Plan]:
    """Return the ways to run a world, best first."""
    if world not in RELEASED:
        raise ValueError(f"unknown released world {world!r}; known are {', '.join(RELEASED)}")
    ways: list[tuple[str, tuple[Offload, ...], str]] = [
        ("ltx2", ("text",), "nothing: only the text encoders, loaded for a new prompt, leave again"),
        ("ltx2", ("text", "vae"), "the autoencoder waits on the CPU and is moved twice a step"),
        (
            "ltx2",
            ("text", "vae", "refiner"),
            "autoencoder and refiner wait on the CPU and are moved every step",
        ),
        ("none", ("text",), "no refiner: softer frames that drift sooner"),
        ("none", ("text", "vae"), "no refiner, and the autoencoder is moved twice a step"),
    ]
    return [_plan(world, refiner, offload, out) for refiner, offload, out in ways]


def _plan(world: str, refiner: str, offload: tuple[Offload, ...], leaves_out: str) -> Plan:
    dit, dit_state = _stage1_bytes(world)
    vae = VAE_PARAMETERS * BYTES
    steps = world in STEPPABLE
    # a step holds the old state and the new one; a whole clip has no state but all its tokens at once
    state = 2 * dit_state + (2 * VAE_STATE_BYTES if steps else 0)
    activations = STAGE1_ACTIVATIONS if steps else STAGE1_ACTIVATIONS * LATENTS / 4
    resident = dit + state
    visits = [activations, GEMMA2_PARAMETERS * BYTES, DECODE_ACTIVATIONS]
    host = 0.0
    if "vae" in offload:
        visits[2] += vae
        host += vae
    else:
        resident += vae
    if refiner == "ltx2":
        network, memory = _refiner_bytes()
        resident += 2 * memory if steps else 0
        visits.append(GEMMA3_PARAMETERS * BYTES)
        if "refiner" in offload:
            visits.append(network + REFINER_ACTIVATIONS)
            host += network
        else:
            resident += network
            visits.append(REFINER_ACTIVATIONS)
    return Plan(
        world=world,
        refiner=refiner,
        offload=offload,
        resident=resident / GIB,
        visiting=max(visits) / GIB,
        host=host / GIB,
        leaves_out=leaves_out,
    )


def _stage1_bytes(world: str) -> tuple[float, float]:
    """Return the bytes of the transformer and of one state of one slot, both halves under guidance."""
    variant = RELEASED[world]
    cfg = transformer_config(variant)
    weights = parameter_count(table(cfg)) * BYTES
    if world not in STEPPABLE:
        return weights, 0.0
    with torch.device("meta"):
        dit = DiT(cfg).to(torch.bfloat16)
        grid = (FRAME_SIZE[0] // SPATIAL, FRAME_SIZE[1] // SPATIAL)
        state = dit.empty_state(1, grid, cfg.chunk_frames + 1)
    halves = 1 if sampler_of(variant).guidance == 1.0 else 2
    return weights, halves * sum(leaf.numel() * leaf.element_size() for _, leaf in leaves(state))


def _refiner_bytes() -> tuple[float, float]:
    """Return the bytes of the refiner's video path and of one slot's full memory."""
    cfg = LTX2Config()
    with torch.device("meta"):
        model = LTX2Refiner(cfg)
    weights = sum(parameter.numel() for parameter in model.parameters()) * BYTES
    tokens = FRAME_SIZE[0] * FRAME_SIZE[1] // SPATIAL**2
    return weights, cfg.layers * (cfg.history_frames + 1) * tokens * cfg.width * 2 * BYTES
