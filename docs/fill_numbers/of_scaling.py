"""What eight cards with a released world would need, counted from shapes: docs/scaling.md."""

from __future__ import annotations

import math
from typing import NamedTuple

from written import lines

from wm_env.model.released.plan import (
    BUS,
    DECODE_ACTIVATIONS,
    GIB,
    RESERVED,
    VAE_STATE_BYTES,
    Plan,
    Shapes,
    plan_of,
    shapes_of,
)
from wm_env.model.released.sizes import refiner_memory, stage1_state

WORLD, CARDS, CARD = "sana-wm-streaming", 8, 80.0  # CARD: GiB
LINK = 1.25e9  # bytes per second of a network of 10 Gbit/s


class Counted(NamedTuple):
    """slots: of a card. kept, working: bytes of a slot's state, and with what a step makes beside it.
    seconds: of a step of one slot. frame: bytes of a picture. frames: of a step."""

    slots: int
    kept: float
    working: float
    seconds: float
    frame: int
    frames: int


def counted(refiner: str) -> Counted:
    """Return what a card of `CARD` GiB holds of a released world with a refiner, "none" or "ltx2"."""
    shapes = shapes_of(WORLD, refiner)
    kept, added = stage1_state(shapes.dit, shapes.grid, shapes.width)
    kept, working = kept + VAE_STATE_BYTES, kept + added + 2 * VAE_STATE_BYTES
    if shapes.refiner is not None:
        memory, more = refiner_memory(shapes.refiner, shapes.grid, shapes.width)
        kept, working = kept + memory, working + memory + more
    one = _one_slot(shapes)
    assert one.seconds is not None
    free = CARD * (1 - RESERVED) - one.resident + working / GIB
    slots = 0
    while (slots + 1) * working / GIB + max((slots + 1) * DECODE_ACTIVATIONS / GIB, one.visiting) <= free:
        slots += 1
    return Counted(
        slots,
        kept,
        working,
        one.seconds,
        math.prod(shapes.frame_size) * 3,
        shapes.dit.chunk_frames * shapes.dit.temporal_stride,
    )


def _one_slot(shapes: Shapes) -> Plan:
    """Return the plan of one slot whose text encoder visits block by block: prompts change seldom."""
    return plan_of(WORLD, shapes, precision="bf16", offload=("text-blocks",), vram=CARD)


def growth() -> dict[str, str]:
    """Return the numbers of docs/scaling.md."""
    kinds = {"without refiner": counted("none"), "with refiner": counted("ltx2")}
    rows = []
    for told, cell in (
        ("a slot's state", lambda c: f"{c.kept / 1e9:.1f} GB"),
        ("and while it steps", lambda c: f"{c.working / 1e9:.1f} GB"),
        ("slots of a card", lambda c: f"{c.slots}"),
        ("seconds a step of all of its slots, estimated", lambda c: f"{c.slots * c.seconds:.1f}"),
        (
            f"frames a second of {CARDS} cards, estimated",
            lambda c: f"{CARDS * c.frames / c.seconds:.0f}",
        ),
        ("newest frames to the driver", lambda c: f"{CARDS * c.frame / c.seconds / 1e6:.0f} MB/s"),
        ("all frames to the driver", lambda c: f"{CARDS * c.frames * c.frame / c.seconds / 1e9:.1f} GB/s"),
        ("snapshots of all slots", lambda c: f"{CARDS * c.slots * c.kept / 1e9:.0f} GB"),
        ("  from a card to its host", lambda c: f"{c.slots * c.kept / BUS:.1f} s"),
        ("  from all hosts to the driver", lambda c: f"{CARDS * c.slots * c.kept / LINK:.0f} s"),
    ):
        rows.append([told, *(cell(one) for one in kinds.values())])
    return {"eight": lines([f"{CARDS} cards of {CARD:.0f} GiB", *kinds], rows)}
