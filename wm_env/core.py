"""The environment as functions over values: initial, transition, shown, observation; batch first.

    state               = initial(rules, episodes)
    state, outcome      = transition(rules, state, command)      one world call for all slots
    state               = shown(rules, state, frames)            true frames instead of a step
    observations        = observation(rules, state)

A `State` is a tree of tensors with the batch axis first: a snapshot keeps a reference, a branch uses one
state twice, a partial reset overwrites slots with `put`. Nothing is ever written into a state.

Collisions are the environment's, not the world's: the true scene (where there is one) bends the commanded
path, or without one, if asked, the surfaces that the world remembers and shows, and the world is asked for
the frames along the bent path. Legend: `B` slots, `K` pixel frames per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.actions import ActionSpec, Command
from wm_env.answers import (
    check_next_state,
    check_observed,
    check_outcome,
    check_shown_chunk,
    check_state,
)
from wm_env.contexts import begin
from wm_env.episodes import Episode, ResetOptions, placeholder_scene
from wm_env.model.contact import RememberingWorld, Surfaces, joined, obstacles, slide_by_depth
from wm_env.model.depth_estimator import DepthOf
from wm_env.model.kinematics import (
    KeyMotion,
    MotionState,
    Resolve,
    standing,
    start_motion,
    step_keys,
    step_twists,
)
from wm_env.model.names import unknown
from wm_env.model.scenes.free_space import slide
from wm_env.model.scenes.worlds import Scene
from wm_env.model.state import cat, put, select
from wm_env.model.world import Chunk, ObservingWorld, PosedFrames, World
from wm_env.observations import ObservationSpec
from wm_env.outputs import OUTPUTS, handed, kept
from wm_env.tasks import Task, TaskContext, TaskOutcome
from wm_env.trust import (
    Trusted,
    TrustRules,
    begin_trust,
    loaded_once,
    shown_trust,
    step_trust,
    warn_unlike,
)

COLLISIONS = ("block", "terminate", "ignore", "world")


@dataclass(frozen=True, kw_only=True)
class EpisodeRules:
    """What stays the same over all episodes of an environment. depth: `info` has the newest frame's.

    output: of `wm_env.outputs`, what observations are and where a state keeps its frames. estimator: depth
    of frames in a world that gives none. trust: None asks for none. start_limit: of `warn_unlike`.
    """

    world: World
    task: Task
    actions: ActionSpec
    views: ObservationSpec
    motion: KeyMotion
    collision: str
    depth: bool = False
    output: str = "numpy"
    estimator: DepthOf | None = None
    trust: TrustRules | None = None
    start_limit: float | None = None

    def __post_init__(self) -> None:
        if self.output not in OUTPUTS:
            raise ValueError(unknown("output", self.output, OUTPUTS))
        if self.collision not in COLLISIONS:
            raise ValueError(unknown("collision", self.collision, COLLISIONS))
        self._check_depth()

    def _check_depth(self) -> None:
        asked = {
            "depth=True": self.depth,
            "collision='world'": self.collision == "world",
            "obs_type='rgbd'": self.views.kind == "rgbd",
        }
        for name, wanted in asked.items():
            if wanted and not self.world.spec.gives_depth and self.estimator is None:
                raise ValueError(
                    f"{name} needs the depth of the frames, which world {self.world.spec.name!r} does not "
                    "give; use tiny, tiny-pure or the twin, or depth=FOLDER of a metric depth estimator"
                )

    @property
    def keeps_depth(self) -> bool:
        """Whether a state holds the depth of its newest frame."""
        return self.depth or self.collision == "world" or self.views.kind == "rgbd"


class State(NamedTuple):
    """All of the episodes in progress.

    world, task: their own states. motion: pose relative to the start, velocity, held keys. scene: the true
    scenes, a placeholder where `has_scene` `(B,)` is False. scene_seed: `(B,)` int64, -1 without a scene.
    start_c2w: `(B, 4, 4)` float64 absolute.
    intrinsics: `(B, 4)` float64. start_image: uint8 `(B, h, w, 3)`. noise_seed: `(B,)` int64. chunk: `(B,)`
    int64, steps so far. context_frames: `(B,)` int64, true frames committed so far. frames: uint8
    `(B, K, h, w, 3)`, the pixel frames of the last step (the start image repeated at reset). latent: float32
    `(B, C, h', w')` or None. depth: float32 `(B, h, w)` metres, of the newest frame; None where nobody asks
    for it (`EpisodeRules.keeps_depth`). c2w: `(B, K, 4, 4)` float64, their poses relative to the start.
    collided, terminated: `(B,)` bool, of the last step. trust: None where nobody asks for it.
    """

    world: Any
    task: Any
    motion: MotionState
    scene: Scene
    has_scene: Tensor
    scene_seed: Tensor
    start_c2w: Tensor
    intrinsics: Tensor
    start_image: Tensor
    noise_seed: Tensor
    chunk: Tensor
    context_frames: Tensor
    frames: Tensor
    latent: Tensor | None
    depth: Tensor | None
    c2w: Tensor
    collided: Tensor
    terminated: Tensor
    trust: Trusted | None = None


def check_reset_options(rules: EpisodeRules, asked: ResetOptions) -> None:
    """Raise `ValueError` where these rules cannot start from what is wished; nothing is drawn yet."""
    spec = rules.world.spec
    if asked.context != "none" and not spec.takes_context:
        raise ValueError(
            f"world {spec.name!r} takes no context; leave context={asked.context!r} out, or use tiny"
        )
    if asked.image is not None and (spec.sees_scene or rules.task.needs_scene):
        needy = f"world {spec.name!r}" if spec.sees_scene else f"task {rules.task.name!r}"
        raise ValueError(f"{needy} needs a scene and cannot start from an image; reset with a scene seed")


def check_shown(rules: EpisodeRules) -> None:
    """Raise `ValueError` where the world of these rules cannot be shown true frames."""
    spec = rules.world.spec
    if not spec.takes_context or not isinstance(rules.world, ObservingWorld):
        raise ValueError(f"world {spec.name!r} cannot be shown a clip; use tiny, tiny-pure or the twin")


def initial(rules: EpisodeRules, episodes: Sequence[Episode]) -> State:
    """Return the state at the start of `episodes`, one slot each."""
    spec = rules.world.spec
    batch = len(episodes)
    told = loaded_once([episode.start(spec.sees_scene) for episode in episodes])
    own = [start for start, episode in zip(told, episodes, strict=True) if episode.scene is None]
    warn_unlike(rules.world, rules.start_limit, own)
    answer = begin(rules.world, told)
    check_shown_chunk("begin", answer, spec, batch, 1)
    chunk, world_state = answer
    motion = start_motion(batch)
    c2w = motion.c2w[:, None].repeat(1, spec.frames_per_step, 1, 1)
    scenes = [placeholder_scene() if episode.scene is None else episode.scene for episode in episodes]
    state = State(
        world=world_state,
        task=(),
        motion=motion,
        scene=cat(scenes),
        has_scene=torch.tensor([episode.scene is not None for episode in episodes]),
        scene_seed=torch.tensor([-1 if e.scene_seed is None else e.scene_seed for e in episodes]),
        start_c2w=torch.from_numpy(np.stack([episode.start_c2w for episode in episodes])).double(),
        intrinsics=torch.tensor([episode.intrinsics for episode in episodes], dtype=torch.float64),
        start_image=torch.from_numpy(np.stack([episode.image for episode in episodes])),
        noise_seed=torch.tensor([episode.noise_seed for episode in episodes], dtype=torch.int64),
        chunk=torch.zeros(batch, dtype=torch.int64),
        context_frames=torch.tensor([0 if e.context is None else e.context.length for e in episodes]),
        frames=kept(rules.output, chunk.frames).expand(-1, spec.frames_per_step, -1, -1, -1).contiguous(),
        latent=None if chunk.latent is None else kept(rules.output, chunk.latent.float()),
        depth=_newest_depth(rules, chunk),
        c2w=c2w,
        collided=torch.zeros(batch, dtype=torch.bool),
        terminated=torch.zeros(batch, dtype=torch.bool),
        trust=None if rules.trust is None else begin_trust(rules.trust, rules.world, told),
    )
    seeds = [episode.task_seed for episode in episodes]
    context = task_context(rules, state)._replace(surfaces=_known_at_start(rules, state, chunk))
    task = rules.task.begin(context, seeds)
    check_state(f"task {rules.task.name}: begin: the state", task, batch)
    return state._replace(task=task)


def transition(rules: EpisodeRules, state: State, command: Command) -> tuple[State, TaskOutcome]:
    """Return the state and outcome after one chunk of every slot: one call of the world."""
    batch = state.chunk.shape[0]
    hits = torch.zeros(batch, dtype=torch.bool)

    def bend(start: Tensor, end: Tensor) -> Tensor:
        """Return where a camera going from `start` to `end` `(B, 3)` (relative to the start pose) arrives."""
        nonlocal hits
        rotation, origin = state.start_c2w[:, :3, :3], state.start_c2w[:, :3, 3]
        there = _transform(rotation, start) + origin, _transform(rotation, end) + origin
        position, hit = slide(state.scene, *there)
        hit = hit & state.has_scene
        bent = _transform(rotation.transpose(-1, -2), position.double() - origin)
        if around is not None:
            seen, touched = slide_by_depth(around, start, end)
            touched = touched & ~state.has_scene
            bent, hit = torch.where(touched[:, None], seen, bent), hit | touched
        hits = hits | hit
        if rules.collision == "ignore":
            return end
        return torch.where(hit[:, None], bent, end)  # a free path stays exactly as commanded

    around = None
    if rules.collision == "world" and state.depth is not None and not bool(state.has_scene.all()):
        around = obstacles(_surfaces(rules, state), state.c2w[:, -1, :3, 3], state.intrinsics)
    in_the_way = bool(state.has_scene.any()) or around is not None
    resolve: Resolve | None = bend if in_the_way else None
    if command.held is not None:
        c2w, motion = step_keys(
            state.motion, command.held, rules.world.spec.frames_per_step, rules.motion, resolve
        )
    else:
        assert command.twists is not None
        c2w, motion = step_twists(state.motion, command.twists, resolve)

    trust: Trusted | None = None
    if rules.trust is not None and state.trust is not None:
        answer, trust = step_trust(rules.trust, rules.world, state.world, state.trust, c2w)
    else:
        answer = rules.world.step_chunk(state.world, c2w)
    early = young(state)
    if early:
        spec = rules.world.spec
        check_shown_chunk("step_chunk", answer, spec, batch, spec.frames_per_step)
        check_next_state(f"world {spec.name}: step_chunk: the state", state.world, answer[1], batch)
    chunk, world_state = answer
    moved = state._replace(
        world=world_state,
        motion=motion,
        chunk=state.chunk + 1,
        frames=kept(rules.output, chunk.frames),
        latent=None if chunk.latent is None else kept(rules.output, chunk.latent.float()),
        depth=_newest_depth(rules, chunk),
        c2w=c2w,
        collided=hits,
        trust=trust,
    )
    judged = rules.task.step(state.task, task_context(rules, moved))
    if early:
        check_outcome(rules.task.name, judged, state.task, batch)
    task_state, outcome = judged
    terminated = outcome.terminated | hits if rules.collision == "terminate" else outcome.terminated
    moved = moved._replace(task=task_state, terminated=terminated)
    return moved, TaskOutcome(outcome.reward, terminated)


def shown(rules: EpisodeRules, state: State, clips: Sequence[PosedFrames | None]) -> State:
    """Return the state after true frames were committed; slots whose clip is None stay as they are.

    clips: K n frames each, poses relative to the slot's start. The camera is at the last pose then, at rest;
    nothing is drawn, no step counted and nothing rewarded.
    """
    lengths = [0 if clip is None else len(clip.frames) for clip in clips]
    for length in sorted(set(lengths) - {0}):
        slots = [slot for slot, own in enumerate(lengths) if own == length]
        group = [clip for clip in clips if clip is not None and len(clip.frames) == length]
        state = put(state, slots, _shown(rules, select(state, slots), group))
    return state


def _shown(rules: EpisodeRules, state: State, clips: Sequence[PosedFrames]) -> State:
    """Return the state after clips of one length, one for every slot."""
    spec = rules.world.spec
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    c2w = torch.from_numpy(np.stack([clip.c2w for clip in clips])).double()
    assert isinstance(rules.world, ObservingWorld)  # `check_shown` has asked
    chunk, world_state = rules.world.observe(state.world, frames, c2w)
    moved = state._replace(
        world=world_state,
        motion=standing(c2w[:, -1], rules.motion),
        context_frames=state.context_frames + (0 if spec.sees_scene else frames.shape[1]),
        frames=kept(rules.output, chunk.frames),
        latent=None if chunk.latent is None else kept(rules.output, chunk.latent.float()),
        depth=_newest_depth(rules, chunk),
        c2w=c2w[:, -spec.frames_per_step :].contiguous(),
        collided=torch.zeros_like(state.collided),
        trust=None if state.trust is None else shown_trust(state.trust, c2w, spec.frame_size),
    )
    context = task_context(rules, moved)
    moves = getattr(rules.task, "moved", None)
    task = rules.task.step(state.task, context)[0] if moves is None else moves(state.task, context)
    return moved._replace(task=task)


def observation(rules: EpisodeRules, state: State) -> Any:
    """Return the batched observations, fresh arrays."""
    extra = rules.task.observe(state.task, task_context(rules, state))
    if young(state, 1):
        spaces = rules.task.spaces(rules.world.spec.frame_size)
        check_observed(rules.task.name, extra, spaces, state.chunk.shape[0])
    view = rules.views.view(state.frames, state.latent, state.depth)
    device = state.frames.device
    told = {name: handed(rules.output, value, device) for name, value in extra.items()}
    return rules.views.named(handed(rules.output, view, device), told)


def task_context(rules: EpisodeRules, state: State) -> TaskContext:
    """Return what the task may look at."""
    return TaskContext(
        scene=state.scene,
        has_scene=state.has_scene,
        start_c2w=state.start_c2w,
        c2w=state.c2w,
        intrinsics=state.intrinsics,
        frame_size=rules.world.spec.frame_size,
        collided=state.collided,
        motion=rules.motion,
    )


def _known_at_start(rules: EpisodeRules, state: State, chunk: Chunk) -> Surfaces | None:
    """Return the depth pictures that are known at a start without a scene, by which tasks set goals."""
    if bool(state.has_scene.all()) or (chunk.depth is None and rules.estimator is None):
        return None
    depth = _depth_of(rules, chunk) if state.depth is None else state.depth
    return _surfaces(rules, state._replace(depth=depth))


def _newest_depth(rules: EpisodeRules, chunk: Chunk) -> Tensor | None:
    """Return the depth `(B, h, w)` of a chunk's last frame where these rules keep it."""
    return _depth_of(rules, chunk) if rules.keeps_depth else None


def _depth_of(rules: EpisodeRules, chunk: Chunk) -> Tensor:
    """Return the depth `(B, h, w)` of a chunk's last frame, by the world or the estimator."""
    if rules.estimator is not None:
        return kept(rules.output, rules.estimator(chunk.frames[:, -1])).contiguous()
    if chunk.depth is None:
        raise ValueError(
            f"world {rules.world.spec.name!r} says that it gives depth (gives_depth) and gave a chunk without"
        )
    return kept(rules.output, chunk.depth[:, -1].float()).contiguous()


def _surfaces(rules: EpisodeRules, state: State) -> Surfaces:
    """Return the depth pictures that are known: the newest frame's, and what the world remembers."""
    assert state.depth is not None
    batch, world = len(state.depth), rules.world
    newest = Surfaces(state.depth.cpu()[:, None], state.c2w[:, -1:], torch.ones(batch, 1, dtype=torch.bool))
    remembered = world.surfaces(state.world) if isinstance(world, RememberingWorld) else None
    return newest if remembered is None else joined([newest, remembered])


def young(state: State, most: int = 0) -> bool:
    """Return whether a slot has made at most so many steps: then answers are looked at."""
    return int(state.chunk.min()) <= most


def _transform(rotation: Tensor, vector: Tensor) -> Tensor:
    return (rotation @ vector[..., None])[..., 0]
