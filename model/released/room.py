"""Whether a pipeline has room on the card and the host at hand, asked before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from wm_env.model.released.parts import Offload
from wm_env.model.released.plan import GIB, Plan, Shapes, plan_of, plans, shapes_of

_MEMINFO = Path("/proc/meminfo")


class Room(NamedTuple):
    """GiB that a device and the host have free; None where there is no card, or nothing to ask."""

    card: float | None
    host: float | None


def room(device: str) -> Room:
    """Return what is free now; on a CPU nothing is moved, and nothing is asked."""
    if torch.device(device).type != "cuda":
        return Room(None, None)
    free, _ = torch.cuda.mem_get_info(torch.device(device))
    return Room(free / GIB, _free_host())


def _free_host() -> float | None:
    if not _MEMINFO.is_file():
        return None
    for line in _MEMINFO.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / GIB
    return None


def check_room(
    world: str, shapes: Shapes, *, precision: str, offload: tuple[Offload, ...], room: Room
) -> None:
    """Raise `ValueError` where a pipeline of these sizes does not fit, with the nearest settings that do."""
    if room.card is None:
        return
    plan = plan_of(world, shapes, precision=precision, offload=offload, vram=room.card)
    what = None
    if not plan.fits(room.card):
        what = f"{plan.peak:.1f} GiB on the card, which has {room.card:.1f} GiB free (a twelfth stays unused)"
    elif room.host is not None and plan.host > room.host:
        what = f"{plan.host:.1f} GiB of host memory for what waits there; {room.host:.1f} GiB are free"
    if what is None:
        return
    way = nearest(world, shapes, room)
    out = "nothing that this program knows does" if way is None else f"{way.settings()} fits: {_cost(way)}"
    raise ValueError(f"{world} with {plan.settings()} needs {what}; {out}")


def nearest(world: str, shapes: Shapes, room: Room) -> Plan | None:
    """Return the best way to run these sizes in a room, with the refiner if they have one; None for none."""
    assert room.card is not None
    history = 10 if shapes.refiner is None else shapes.refiner.history_frames
    wanted = shapes_of(world, "none" if shapes.refiner is None else "ltx2", history)
    for way in plans(world, room.card):
        if (way.refiner == "ltx2") != (wanted.refiner is not None):
            continue
        if way.fits(room.card) and (room.host is None or way.host <= room.host):
            return way
    return None


def _cost(plan: Plan) -> str:
    return f"{plan.peak:.1f} GiB; {plan.gives_up}"
