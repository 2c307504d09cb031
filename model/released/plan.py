"""What a released pipeline needs of a GPU and of the host, computed before anything is loaded.

    peak     what stays on the device + the largest of what visits it or is computed at once
    seconds  operations over the card's rate + what is moved over the bus, of parts that are moved block by
             block the larger of the two

Weights, states and operations are counted from shapes (`sizes`); activations and the parts of other libraries
are estimates, and so are the rates of cards. Nothing here was measured on a GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from wm_env.model.config import DiTConfig
from wm_env.model.refiner.ltx2 import LTX2Config
from wm_env.model.released.parts import Offload
from wm_env.model.released.precision import PARTS, PLAIN, Part, Precision, precisions
from wm_env.model.released.sizes import (
    Weights,
    refiner_memory,
    refiner_operations,
    refiner_weights,
    stage1_operations,
    stage1_state,
    stage1_weights,
)
from wm_env.model.released.variants import FRAME_SIZE, RELEASED, STEPPABLE, sampler_of, transformer_config

GIB = 2**30
RESERVED = 1 / 12  # of a card's memory
SPATIAL, LATENTS = 32, 121  # autoencoder stride; latents of the longest trained clip
HISTORIES = (10, 4, 2)  # latent frames of the refiner's memory; it was trained with 10
REFINER_CALLS = 4  # 3 and the one that commits
PROMPT, REFINER_PROMPT = 300, 1024  # tokens

# Estimates at 704x1280 (docs/reference/pipeline.md#autoencoder; class defaults of the other libraries).
ENCODER_PARAMETERS, DECODER_PARAMETERS = 694e6, 528e6
VAE_STATE_BYTES = 595e6
STAGE1_ACTIVATIONS = 1.5 * GIB
REFINER_ACTIVATIONS = 1.5 * GIB
REFINER_CLIP_ACTIVATIONS = 14.0 * GIB  # a minute at once
DECODE_ACTIVATIONS = 3.0 * GIB
DECODE_OPERATIONS = 20e12  # of 3 latents
EFFICIENCY = 0.4  # of a card's rate
BUS = 22e9  # bytes per second of pinned memory over 16 lanes of PCIe 4
# bfloat16 operations per second of the usual card of so many GiB, as its vendor states
RATES = {8: 30e12, 12: 58e12, 16: 97e12, 24: 165e12, 32: 210e12, 48: 362e12, 80: 989e12}


@dataclass(frozen=True, kw_only=True)
class TextModel:
    """A text encoder of another library in parameters: vocabulary, blocks and their number, the rest."""

    vocabulary: float
    blocks: float
    count: int
    rest: float = 0.0

    def weights(self, precision: Precision, width: int) -> Weights:
        each = {PLAIN: float(width), "int8": 1.0, "fp8": 1.0, "nvfp4": 0.5625}[precision]
        blocks = self.blocks * each
        return Weights((self.vocabulary + self.rest) * width, blocks / self.count, blocks, self.count)


GEMMA2 = TextModel(vocabulary=0.59e9, blocks=2.02e9, count=26)
GEMMA3 = TextModel(vocabulary=1.01e9, blocks=10.8e9, count=48, rest=1.43e9)  # with the connectors


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Sizes of a pipeline; refiner None runs without. width: bytes of a weight that is not quantised."""

    variant: str
    dit: DiTConfig
    refiner: LTX2Config | None
    frame_size: tuple[int, int] = FRAME_SIZE
    width: int = 2

    @property
    def grid(self) -> tuple[int, int]:
        return self.frame_size[0] // SPATIAL, self.frame_size[1] // SPATIAL

    @property
    def area(self) -> float:
        """Pixels of a frame relative to the trained size, with which estimates grow."""
        return self.frame_size[0] * self.frame_size[1] / (FRAME_SIZE[0] * FRAME_SIZE[1])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One way to run a world; sizes in GiB.

    refiner: "none" or "ltx2", with `refiner_history` frames of memory. precision: as the setting takes it.
    resident: stays on the device. visiting: the largest of what comes and goes. host: waits on the CPU.
    seconds: of a step, None for a world that is not stepped. gives_up: what is lost against all on one card.
    """

    world: str
    refiner: str
    refiner_history: int
    precision: str
    offload: tuple[Offload, ...]
    resident: float
    visiting: float
    host: float
    operations: float
    moved: float
    seconds: float | None
    gives_up: str

    @property
    def peak(self) -> float:
        return self.resident + self.visiting

    def fits(self, vram: float) -> bool:
        """Whether it fits a card of `vram` GiB, a twelfth left to its driver and the allocator."""
        return self.peak <= vram * (1 - RESERVED)

    def settings(self) -> str:
        """Return the settings as one writes them on the command line."""
        words = [f"--refiner {self.refiner}"]
        if self.refiner == "ltx2" and self.refiner_history != HISTORIES[0]:
            words.append(f"--refiner-history {self.refiner_history}")
        if self.precision != PLAIN:
            words.append(f"--precision {self.precision}")
        return " ".join([*words, "--offload", *self.offload])


def shapes_of(world: str, refiner: str, history: int = HISTORIES[0]) -> Shapes:
    """Return the released sizes of a world."""
    if world not in RELEASED:
        raise ValueError(f"unknown released world {world!r}; known are {', '.join(RELEASED)}")
    variant = RELEASED[world]
    network = LTX2Config(history_frames=history) if refiner == "ltx2" else None
    return Shapes(variant=variant, dit=transformer_config(variant), refiner=network)


def plans(world: str, vram: float = 24.0) -> list[Plan]:
    """Return the ways to run a world on a card of `vram` GiB, best first; not all of them fit.

    Better is: with refiner, with its whole memory, not quantised, and then what takes fewer seconds and less
    memory.
    """
    found = []
    for refiner, history, precision, offload in _ways(world):
        shapes = shapes_of(world, refiner, history)
        found.append(plan_of(world, shapes, precision=precision, offload=offload, vram=vram))
    return sorted(found, key=_rank)


def _rank(plan: Plan) -> tuple[bool, int, int, float, int, float]:
    quantised = sum(kind != PLAIN for kind in precisions(plan.precision).values())
    seconds, parts = round(plan.seconds or 0.0, 1), len([part for part in plan.offload if part != "text"])
    return plan.refiner == "none", -plan.refiner_history, quantised, seconds, parts, plan.peak


def _ways(world: str) -> Iterator[tuple[str, int, str, tuple[Offload, ...]]]:
    """Yield refiner, history, precision and offload of everything that is considered."""
    texts: tuple[Offload, ...] = ("text", "text-blocks")
    vaes: tuple[tuple[Offload, ...], ...] = ((), ("vae",))
    stage1: tuple[tuple[Offload, ...], ...] = ((), ("stage1-blocks",))
    refiners: tuple[tuple[Offload, ...], ...] = ((), ("refiner",), ("refiner-blocks",))
    histories = HISTORIES if world in STEPPABLE else HISTORIES[:1]
    for history, precision, text, vae, own, one in itertools.product(
        histories, (PLAIN, "refiner=int8", "int8"), texts, vaes, refiners, stage1
    ):
        yield "ltx2", history, precision, (text, *vae, *own, *one)
    for precision, text, vae, one in itertools.product((PLAIN, "int8"), texts, vaes, stage1):
        yield "none", HISTORIES[0], precision, (text, *vae, *one)


def slot_bytes(world: str, shapes: Shapes) -> tuple[float, float]:
    """Return the bytes of a slot's state, and of the old and the new one that a step holds."""
    whole, new = stage1_state(shapes.dit, shapes.grid, shapes.width)
    halves, vae = _halves(world), VAE_STATE_BYTES * shapes.area
    kept, stepping = halves * whole + vae, halves * (whole + new) + 2 * vae
    if shapes.refiner is None:
        return kept, stepping
    memory, added = refiner_memory(shapes.refiner, shapes.grid, shapes.width)
    return kept + memory, stepping + memory + added


def _halves(world: str) -> int:
    """Return how many calls a guided step makes where another makes one."""
    return 2 if sampler_of(RELEASED[world]).guidance != 1.0 else 1


def plan_of(
    world: str, shapes: Shapes, *, precision: str, offload: tuple[Offload, ...], vram: float = 24.0
) -> Plan:
    """Return what one way to run a pipeline of given sizes needs."""
    kinds, area = precisions(precision), shapes.area
    steps = world in STEPPABLE and shapes.dit.window_chunks is not None  # else it draws whole clips
    halves = _halves(world)
    dit = stage1_weights(shapes.dit, kinds["stage1"], shapes.width)
    resident, host, moved, compute = 0.0, 0.0, 0.0, 0.0
    seconds, visits = 0.0, []
    rate = EFFICIENCY * next((r for size, r in RATES.items() if vram <= size), max(RATES.values()))

    sampler_calls = len(sampler_of(RELEASED[world]).schedule().timesteps) + 1
    calls = sampler_calls * halves
    operations = calls * stage1_operations(shapes.dit, shapes.grid, PROMPT)
    compute += operations
    bus = 0.0
    if "stage1-blocks" in offload:
        resident += dit.in_turn
        host += dit.blocks
        bus = calls * dit.blocks
    else:
        resident += dit.total
    seconds += max(operations / rate, bus / BUS)
    moved += bus
    if steps:  # a step holds the old state and the new one
        resident += slot_bytes(world, shapes)[1]
        visits.append(STAGE1_ACTIVATIONS * area)
    else:  # a whole clip has no state but all its tokens at once
        visits.append(STAGE1_ACTIVATIONS * area * LATENTS / 4)

    encoder, decoder = ENCODER_PARAMETERS * shapes.width, DECODER_PARAMETERS * shapes.width
    if "vae" in offload:
        visits += [encoder + DECODE_ACTIVATIONS * area / 3, decoder + DECODE_ACTIVATIONS * area]
        host += encoder + decoder
        moved += decoder
        seconds += decoder / BUS
    else:
        resident += encoder + decoder
        visits.append(DECODE_ACTIVATIONS * area)
    compute += DECODE_OPERATIONS * area
    seconds += DECODE_OPERATIONS * area / rate

    texts = [GEMMA2]
    if shapes.refiner is not None:
        texts.append(GEMMA3)
        network = refiner_weights(shapes.refiner, kinds["refiner"], shapes.width)
        work = REFINER_CALLS * refiner_operations(shapes.refiner, shapes.grid, 3, REFINER_PROMPT)
        compute += work
        if "refiner-blocks" in offload:
            resident += network.in_turn
            host += network.blocks
            bus = REFINER_CALLS * network.blocks
            moved += bus
            seconds += max(work / rate, bus / BUS)
        elif "refiner" in offload:
            host += network.total
            moved += network.total
            seconds += work / rate + network.total / BUS
        else:
            resident += network.total
            seconds += work / rate
        extra = network.total if "refiner" in offload else 0.0
        visits.append((REFINER_ACTIVATIONS if steps else REFINER_CLIP_ACTIVATIONS) * area + extra)
    for model in texts:
        weights = model.weights(kinds["text"], shapes.width)
        visits.append(weights.in_turn if "text-blocks" in offload else weights.total)
    # an encoder is loaded on the host, one at a time
    host += max(model.weights(PLAIN, shapes.width).total for model in texts)
    return Plan(
        world=world,
        refiner="none" if shapes.refiner is None else "ltx2",
        refiner_history=HISTORIES[0] if shapes.refiner is None else shapes.refiner.history_frames,
        precision=precision,
        offload=offload,
        resident=resident / GIB,
        visiting=max(visits) / GIB,
        host=host / GIB,
        operations=compute,
        moved=moved,
        seconds=seconds if steps else None,
        gives_up=_gives_up(shapes, kinds, offload, moved),
    )


def _gives_up(
    shapes: Shapes, kinds: dict[Part, Precision], offload: tuple[Offload, ...], moved: float
) -> str:
    lost = []
    if shapes.refiner is None:
        lost.append("no refiner: softer frames that drift sooner")
    elif shapes.refiner.history_frames < HISTORIES[0]:
        lost.append(f"the refiner remembers {shapes.refiner.history_frames} latent frames instead of 10")
    parts = [part for part in PARTS if part != "refiner" or shapes.refiner is not None]
    small = [part for part in parts if kinds[part] != PLAIN]
    if small:
        lost.append(f"{', '.join(f'{part} in {kinds[part]}' for part in small)}")
    if moved:
        lost.append(f"{moved / GIB:.0f} GiB cross the bus in every step")
    if "text-blocks" in offload:
        lost.append("a new prompt takes seconds")
    return "; ".join(lost) or "nothing"
