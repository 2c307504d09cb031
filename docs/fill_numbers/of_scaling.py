"""What Ray costs and brings, and what eight cards would need, counted from shapes: docs/scaling.md."""

from __future__ import annotations

import math
from typing import NamedTuple

from written import Files, lines, made

from wm_env.model.released.plan import (
    BUS,
    DECODE_ACTIVATIONS,
    GIB,
    RESERVED,
    plan_of,
    shapes_of,
    slot_bytes,
)

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
    kept, working = slot_bytes(WORLD, shapes)
    # one slot, whose text encoder visits block by block: prompts change seldom
    one = plan_of(WORLD, shapes, precision="bf16", offload=("text-blocks",), vram=CARD)
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


def growth(files: Files) -> dict[str, str]:
    """Return the numbers of docs/scaling.md."""
    found = files("docs/performance/scaling.json")
    rates, fit, costs = found["steps_per_s"], found["model"], found["costs"]
    kills, recorded = found["kills"], found["recorded"]
    return {
        "eight": eight_cards(),
        "scaling-machine": made(found),
        "rates": lines(
            ["setting", "env steps/s", "of one local environment of 16"],
            [[name, f"{rate:.1f}", f"{rate / rates['local x 16']:.2f}"] for name, rate in rates.items()],
        ),
        "one-worker": f"{100 * (1 - rates['1 workers x 16'] / rates['local x 16']):.0f}%",
        "two-workers": f"{rates['2 workers x 8'] / rates['1 workers x 8']:.2f}",
        "fit-a": f"{1000 * fit['a_s']:.0f}",
        "fit-b": f"{1000 * fit['b_s']:.1f}",
        "fit-told": f"{1000 * fit['told_s']:.0f}",
        "fit-found": f"{1000 * fit['held_out_s']:.0f}",
        "snapshot-mb": f"{costs['snapshot_bytes'] / 1e6:.1f}",
        "snapshot-ms": f"{1000 * costs['snapshot_s']:.0f}",
        "restore-ms": f"{1000 * costs['restore_s']:.0f}",
        "answer-kb": f"{costs['answer_bytes'] / 1e3:.0f}",
        "kills": f"{kills['equal']} of {kills['kills']}",
        "kill-steps": str(kills["steps"]),
        "wait": f"{kills['wait_s_median']:.1f}",
        "wait-worst": f"{kills['wait_s_worst']:.1f}",
        "load": f"{kills['load_s']:.1f}",
        "recorded": f"{recorded['folders']} of {recorded['episodes']}",
        "recorded-kills": str(recorded["kills"]),
    }


def eight_cards() -> str:
    """Return the table of what eight cards with a released world would need."""
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
    return lines([f"{CARDS} cards of {CARD:.0f} GiB", *kinds], rows)
