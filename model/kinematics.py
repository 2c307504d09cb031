"""From commands to camera poses, one pose per pixel frame, in float64.

Two integrators over the same state:

    keys    the released one: a horizontal walker with inertia and a pitch clamp
            (docs/reference/pipeline.md#key-integrator)
    twists  c2w[n+1] = c2w[n] @ exp(twist), free 6-DoF motion

Axes are OpenCV's: x right, y down, z forward; poses are camera-to-world; metres and radians inside, degrees
in `KeyMotion`. Positive yaw turns right, positive pitch looks up, positive roll turns clockwise. Legend:
`B` batch, `F` pixel frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wm_env.model.geometry import assemble, se3_exp

KEYS = "wsadikjl"  # forward, back, yaw left, yaw right, pitch up, pitch down, strafe left, strafe right
MAX_ACTION_FRAMES = 1_000_000
_HEADING_EPS = 1e-6  # the released code divides by norm + 1e-6 and does not renormalise

Resolve = Callable[[Tensor, Tensor], Tensor]
"""Collision hook: `(position_from (B, 3), position_to (B, 3)) -> position (B, 3)`, once a pixel frame."""


@dataclass(frozen=True, kw_only=True)
class KeyMotion:
    """Speeds and inertia of the key walker.

    translation_speed: metres per pixel frame. rotation_speed_deg: degrees per pixel frame.
    pitch_limit_deg: the pitch integral stays within +- this. tau_press, tau_coast: seconds, relaxation
    towards a non-zero and a zero target. inertia: off means velocity = target on every frame.
    """

    translation_speed: float = 0.025
    rotation_speed_deg: float = 0.6
    fps: int = 16
    pitch_limit_deg: float = 60.0
    tau_press: float = 0.45
    tau_coast: float = 1.0
    inertia: bool = True

    def __post_init__(self) -> None:
        for name in (
            "translation_speed",
            "rotation_speed_deg",
            "fps",
            "pitch_limit_deg",
            "tau_press",
            "tau_coast",
        ):
            value = self.__dict__[name]
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} must be a finite number above 0")


class MotionState(NamedTuple):
    """Where the camera is and how it moves.

    c2w: `(B, 4, 4)` float64. pitch: `(B,)` float64 rad, the clamped integral. velocity: `(B, 4)` float64
    (forward m, strafe right m, yaw right rad, pitch up rad) per pixel frame. held: `(B, 8)` bool, the keys of
    the previous frame, in the order of `KEYS`.
    """

    c2w: Tensor
    pitch: Tensor
    velocity: Tensor
    held: Tensor


def start_motion(batch: int) -> MotionState:
    """Return `batch` cameras at rest at the origin, looking along +z."""
    return MotionState(
        c2w=torch.eye(4, dtype=torch.float64).repeat(batch, 1, 1),
        pitch=torch.zeros(batch, dtype=torch.float64),
        velocity=torch.zeros(batch, 4, dtype=torch.float64),
        held=torch.zeros(batch, 8, dtype=torch.bool),
    )


def standing(c2w: Tensor, motion: KeyMotion) -> MotionState:
    """Return cameras at rest at poses `(B, 4, 4)` float64, no key held; their pitch is read off the pose."""
    limit = math.radians(motion.pitch_limit_deg)
    at_rest = start_motion(len(c2w))
    pitch = torch.asin((-c2w[:, 1, 2]).clamp(-1, 1)).clamp(-limit, limit)  # y points down
    return at_rest._replace(c2w=c2w.double(), pitch=pitch)


def step_keys(
    state: MotionState, held: Tensor, frames: int, motion: KeyMotion, resolve: Resolve | None = None
) -> tuple[Tensor, MotionState]:
    """Return the poses `(B, frames, 4, 4)` float64 while `held` `(B, 8)` bool is down, and the new state.

    A key pressed now and not on the previous frame snaps the whole velocity to its target; otherwise each
    component relaxes, v += (1 - exp(-dt/tau)) (target - v). Opposite keys cancel.
    """
    target = key_target(held, motion)  # (B, 4)
    dt = 1.0 / motion.fps
    relax = torch.where(
        target != 0, 1 - math.exp(-dt / motion.tau_press), 1 - math.exp(-dt / motion.tau_coast)
    ).to(torch.float64)
    snap = (held & ~state.held).any(-1, keepdim=True)  # (B, 1), on raw keys
    limit = math.radians(motion.pitch_limit_deg)

    c2w, pitch, velocity = state.c2w, state.pitch, state.velocity
    poses = []
    for frame in range(frames):
        if not motion.inertia:
            velocity = target
        else:
            velocity = velocity + relax * (target - velocity)
            if frame == 0:
                velocity = torch.where(snap, target, velocity)
        forward, strafe, yaw, pitch_rate = velocity.unbind(-1)  # each (B,)
        new_pitch = (pitch + pitch_rate).clamp(-limit, limit)
        rotation = _rot_y(yaw) @ c2w[:, :3, :3] @ _rot_x(new_pitch - pitch)  # (B, 3, 3)
        heading = forward[:, None] * _horizontal(rotation[:, :, 2]) + strafe[:, None] * _horizontal(
            rotation[:, :, 0]
        )
        position = c2w[:, :3, 3]
        moved = position + heading
        c2w = assemble(rotation, moved if resolve is None else resolve(position, moved))
        pitch = new_pitch
        poses.append(c2w)
    return torch.stack(poses, dim=1), MotionState(c2w, pitch, velocity, held)


def step_twists(
    state: MotionState, twists: Tensor, resolve: Resolve | None = None
) -> tuple[Tensor, MotionState]:
    """Return the poses `(B, F, 4, 4)` float64 of body twists `(B, F, 6)`, and the new state.

    A twist is (right, down, forward) in metres and (pitch, yaw, roll) in radians per pixel frame. There is
    neither inertia nor clamp; the key walker's velocity is left at rest.
    """
    steps = se3_exp(twists.double())  # (B, F, 4, 4)
    c2w, poses = state.c2w, []
    for frame in range(twists.shape[1]):
        moved = c2w @ steps[:, frame]
        if resolve is not None:
            moved = assemble(moved[:, :3, :3], resolve(c2w[:, :3, 3], moved[:, :3, 3]))
        c2w = moved
        poses.append(c2w)
    at_rest = MotionState(c2w, state.pitch, torch.zeros_like(state.velocity), torch.zeros_like(state.held))
    return torch.stack(poses, dim=1), at_rest


def key_target(held: Tensor, motion: KeyMotion) -> Tensor:
    """Return the target velocity `(..., 4)` float64 per pixel frame of held keys `(..., 8)` bool."""
    w, s, a, d, i, k, j, l = held.to(torch.float64).unbind(-1)
    speed, turn = motion.translation_speed, math.radians(motion.rotation_speed_deg)
    return torch.stack([(w - s) * speed, (l - j) * speed, (d - a) * turn, (i - k) * turn], dim=-1)


def parse_actions(text: str) -> Tensor:
    """Return held keys `(F, 8)` bool of an action string such as `"w-8,wd-16,none-4"`.

    Segments `<keys>-<frames>` joined by commas; spaces and case are ignored; no keys or `none` is idle.
    """
    cleaned = "".join(text.split()).lower().replace("，", ",")
    runs: list[tuple[list[bool], int]] = []
    for segment in cleaned.split(","):
        keys, dash, count = segment.partition("-")
        if not dash or not count.isdecimal() or int(count[:8]) == 0 or len(count) > 8:
            raise ValueError(
                f"action segment {segment!r} in {text!r} is not '<keys>-<frames>' with a positive frame count"
            )
        pressed = "" if keys == "none" else keys
        unknown = sorted(set(pressed) - set(KEYS))
        if unknown:
            raise ValueError(
                f"action segment {segment!r} has unknown keys {unknown}; the keys are {', '.join(KEYS)}"
            )
        runs.append(([key in pressed for key in KEYS], int(count)))
    total = sum(count for _, count in runs)
    if total > MAX_ACTION_FRAMES:
        raise ValueError(
            f"the action string asks for {total} frames; at most {MAX_ACTION_FRAMES} are accepted"
        )
    held = torch.tensor([row for row, _ in runs], dtype=torch.bool)  # (segments, 8)
    return held.repeat_interleave(torch.tensor([count for _, count in runs]), dim=0)


def c2w_from_actions(text: str, motion: KeyMotion) -> Tensor:
    """Return the poses `(F+1, 4, 4)` float64 of an action string, the identity first."""
    state = start_motion(1)
    poses = [state.c2w]
    for row in parse_actions(text):
        path, state = step_keys(state, row[None], 1, motion)
        poses.append(path[:, 0])
    return torch.cat(poses)


def _horizontal(column: Tensor) -> Tensor:
    """Return `(B, 3)` with y dropped, divided by its length plus epsilon."""
    flat = column * column.new_tensor([1.0, 0.0, 1.0])
    return flat / (flat.norm(dim=-1, keepdim=True) + _HEADING_EPS)


def _rot_y(angle: Tensor) -> Tensor:
    c, s = torch.cos(angle), torch.sin(angle)
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    return torch.stack([c, zero, s, zero, one, zero, -s, zero, c], dim=-1).unflatten(-1, (3, 3))


def _rot_x(angle: Tensor) -> Tensor:
    c, s = torch.cos(angle), torch.sin(angle)
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    return torch.stack([one, zero, zero, zero, c, -s, zero, s, c], dim=-1).unflatten(-1, (3, 3))
