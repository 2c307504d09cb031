"""Self-forcing: the world learns to continue what it made itself, towards the truth.

Taught on true histories alone, a world does not know its own mistakes: they compound, and what was never
seen fades to the mean of all that it could be, a grey haze. A step here begins with a rollout of true clips
through the very `rollout.py` that the environment uses. Its latents y_t are then the history, and a frame is

    x_t = x_sigma - sigma v(x_sigma, sigma | y_<t),    mostly sigma = 1: the one call of the sampler,

compared with the true frame z_t by one of two losses:

    square   L = mean_t h_t |w (x_t - z_t)|^2                       the mean of all that it could be
    appearance    L = mean_t h_t (M(x_t, z_t) + lambda A(x_t, z_t))      the likeliest (losses/appearance.py)

h_t halves every `truth_half_life` chunks: the further a rollout went, the less the true frame is the only
right answer. The rollout carries no gradient; one pass over it gives the states before all of its chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wm_env.model.camera import CameraInput
from wm_env.model.data.clip import Clip
from wm_env.model.data.latents import LatentClip, LatentShards
from wm_env.model.dit import DiT
from wm_env.model.embedded import latents_of, load_embedded, world_path
from wm_env.model.geometry import relative_to_first
from wm_env.model.pixels import to_pixels
from wm_env.model.rollout import LearnedWorld
from wm_env.model.state import DiTState, tree_map
from wm_env.model.storage.checkpoint import load_card, load_checkpoint
from wm_env.model.text import HashTextEncoder, TextTokens
from wm_env.model.training.batches import WorldBatch, camera_of_clip
from wm_env.model.training.clip_rollouts import states_along
from wm_env.model.training.export import Export
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.losses.appearance import appearance_distance, decoded, median_distance
from wm_env.model.training.losses.codec import psnr
from wm_env.model.training.losses.flow_matching import history_state, later_frames, velocities
from wm_env.model.training.precision import bf16_supported
from wm_env.model.training.run import Run
from wm_env.model.training.schedule import LoopConfig
from wm_env.model.training.transformer import channel_weights, parameter_rule, set_half_lives
from wm_env.model.training.world_folder import export_changed
from wm_env.model.vae.tiny import GROUP, TinyVAE


@dataclass(frozen=True, kw_only=True)
class SelfForcing:
    """Sizes and weights of a run; see the module docstring.

    batch, frames: clips per step and latent frames per clip, the start included. far: share of steps that
    learn on such a window in the middle of a longer rollout of long clips (gradient inside the window only);
    short windows alone leave a world in a state it has never seen after some seconds. appearance: lambda, the
    weight of appearance in the loss of that name; None for squares. pure_noise: share of frames at sigma = 1;
    the others are at one of `sigmas`, the sampler's later levels, or, where there are none, logit-normal.
    truth_half_life: chunks. half_lives: start of the decay gates in latent frames per head, empty to leave
    them.
    """

    loop: LoopConfig
    batch: int = 4
    frames: int = 17
    far: float = 0.0
    appearance: float | None = None
    pure_noise: float = 0.8
    sigmas: tuple[float, ...] = ()
    sigma_mean: float = 0.6
    sigma_std: float = 1.3
    truth_half_life: float = 12.0
    half_lives: tuple[float, ...] = ()
    bf16: bool = True

    def __post_init__(self) -> None:
        if self.batch < 1 or self.frames < 2:
            raise ValueError(f"batch={self.batch} must be at least 1 and frames={self.frames} at least 2")
        if not (0 <= self.pure_noise <= 1 and 0 <= self.far <= 1):
            raise ValueError(f"pure_noise={self.pure_noise} and far={self.far} are shares, in [0, 1]")
        if self.appearance is not None and self.appearance < 0:
            raise ValueError(f"appearance={self.appearance} must not be negative; None for squares")
        if self.truth_half_life <= 0:
            raise ValueError(f"truth_half_life={self.truth_half_life} chunks must be positive")


class OwnHistory(NamedTuple):
    """A window of T latent frames of a rollout: what the world made and what it remembered.

    z: `(B, C, T, h, w)`. memory: tokens `(B, T, N, M)` or None. before: the transformer's state before the
    window. first: number of the window's first latent frame; frame 0 is the start image.
    """

    z: Tensor
    memory: Tensor | None
    before: DiTState
    first: int


def roll_out_latents(
    world: LearnedWorld, clip: Clip, captions: Sequence[str], seeds: Sequence[int], first: int = 0
) -> OwnHistory:
    """Return what the world makes of the poses and prompts of clips of 1 + 4 n frames, without gradient,
    from latent frame `first` on."""
    window, before = [], None
    for t, state in enumerate(states_along(world, clip, captions, seeds)):
        if t == first:
            before = state.dit  # the pending chunk is not in it yet
        if t >= first:
            window.append(state.pending)  # of a state of many MiB, this is what is needed
    if before is None:
        raise ValueError(f"first={first} is past the end of a rollout of {t + 1} latent frames")
    present = [chunk.memory for chunk in window if chunk.memory is not None]
    memory = torch.cat(present, dim=1).clone() if present else None
    z = torch.cat([chunk.latent for chunk in window], dim=2).clone()
    before = tree_map(torch.clone, before)
    return OwnHistory(z, memory, before, first)  # clones: out of inference mode


def self_forcing_loss(
    model: DiT,
    batch: WorldBatch,
    own: OwnHistory,
    config: SelfForcing,
    generator: torch.Generator,
    weights: Tensor,
    vae: TinyVAE,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss and its parts; `batch.z` is the truth, `own` the history; weights `(C,)` are w^2."""
    z = batch.z
    count, _, frames = z.shape[:3]

    def earlier(x: Tensor) -> Tensor:
        return x[:, :, :-1].transpose(1, 2).flatten(0, 1)

    sigma = noise_levels(config, count, frames, generator).to(z.device)
    eps = torch.randn(z.shape, generator=generator).to(z.device)
    noisy = z + (eps - z) * sigma[:, None, :, None, None]
    device = z.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=config.bf16 and bf16_supported(z.device)):
        state = history_state(model, batch, own.z, torch.zeros_like(sigma), own.before)
        velocity = velocities(model, batch, noisy, sigma, state).float()[:, :, 0]  # (B (T-1), C, h, w)
    horizon = (own.first + torch.arange(frames - 1, device=z.device)) / config.truth_half_life
    trust = (0.5**horizon).expand(count, -1).flatten()  # (B (T-1),)
    level = sigma[:, 1:].flatten()
    squares = (velocity - later_frames(eps - z)).square().mean((2, 3)) * weights  # that of x where sigma is 1
    found = {"x0": float(squares.detach()[level == 1].mean())}
    if config.appearance is None:
        return (squares.mean(1) * trust).mean(), found
    x = later_frames(noisy) - level[:, None, None, None] * velocity
    close = median_distance(x, later_frames(z), weights)
    with torch.no_grad():
        true = decoded(vae, later_frames(z), earlier(z))
    looks = appearance_distance(decoded(vae, x, earlier(own.z)), true)
    found |= {"median": float(close.detach().mean()), "appearance": float(looks.detach().mean())}
    return ((close + config.appearance * looks) * trust).mean(), found


def noise_levels(config: SelfForcing, count: int, frames: int, generator: torch.Generator) -> Tensor:
    """Return sigma `(B, T)` of the frames that are to be denoised."""
    if config.sigmas:
        choice = torch.rand(count, frames, generator=generator) * len(config.sigmas)
        sigma = torch.tensor(config.sigmas)[choice.long()]
    else:
        normal = torch.randn(count, frames, generator=generator)
        sigma = torch.sigmoid(config.sigma_mean + config.sigma_std * normal)
    return torch.where(torch.rand(count, frames, generator=generator) < config.pure_noise, 1.0, sigma)


class RolloutSample(NamedTuple):
    """Clips with latents from a rollout's start on, a noise seed for each, and where the window begins."""

    sample: LatentClip
    seeds: list[int]
    first: int


def draw_clips(
    shards: LatentShards, config: SelfForcing, far: bool, generator: torch.Generator
) -> RolloutSample:
    """Return `batch` clips; far: the window begins anywhere in the clips, else at the rollout's start.

    A rollout starts where its clip begins when far and in 3 of 10 other cases, else anywhere.
    """

    def integer(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=generator)

    room = shards.groups - config.frames
    first = int(integer(room + 1)) if far else 0
    start = integer(room + 1, config.batch)
    early = torch.rand(config.batch, generator=generator) < 0.3
    start = torch.zeros_like(start) if far else torch.where(early, 0, start)
    clips = integer(len(shards), config.batch).tolist()
    seeds = integer(2**31, config.batch).tolist()
    return RolloutSample(shards.read(clips, start.tolist(), first + config.frames), seeds, first)


def true_batch(sample: LatentClip, own: OwnHistory, captions: TextTokens) -> WorldBatch:
    """Return the truth of a window of rollouts, with the memory that the rollouts had."""
    c2w = relative_to_first(sample.clip.c2w)
    z = sample.z[:, own.first :].transpose(1, 2).to(own.z.device)
    ids = sample.clip.caption[:, ::GROUP][:, own.first :]
    text = TextTokens(captions.tokens[ids], captions.mask[ids])
    camera = camera_of_clip(c2w, sample.clip.intrinsics, sample.clip.rgb.shape[-2])
    window = CameraInput(camera.conditions[:, own.first :], camera.plucker[:, :, own.first :])
    return WorldBatch(z, window, text, own.memory)


def check(config: SelfForcing, inputs: Inputs) -> None:
    """Raise `ValueError` for inputs that do not go with the training."""
    far_data, far_latents = inputs.far_data, inputs.far_latents
    if (config.far > 0) != (far_data is not None):
        given = "none" if far_data is None else f"clips {far_data} with latents {far_latents}"
        raise ValueError(f"far={config.far} needs long clips, and they need a share; given: {given}")


def build(config: SelfForcing, inputs: Inputs, resources: Resources) -> Run:
    """Return the run in its folder, begun or resumed; it leaves `dit.safetensors` (averaged) and the world.

    inputs: `data`, `latents`; `world`, whose autoencoder (and refiner, with a memory) make the rollouts and
    whose transformer is trained on; `far_data` and `far_latents`, long clips for `config.far`; `init`, a
    `dit.safetensors` to start from instead, before its rounding.
    """
    data, latents, world, out = (
        inputs.need("data"), inputs.need("latents"), inputs.need("world"), resources.out,
    )  # fmt: skip
    check(config, inputs)
    loaded = load_embedded(world)
    card = load_card(world_path(world))
    far_data, far_latents = inputs.far_data, inputs.far_latents
    accepted = latents_of(world)
    shards, val = (LatentShards(data / split, latents / split, *accepted) for split in ("train", "val"))
    long = shards
    if far_data is not None and far_latents is not None:
        long = LatentShards(far_data / "train", far_latents / "train", *accepted)
    dit, init_sha = loaded.dit.requires_grad_(True), card["sha256"]
    if inputs.init is not None:
        tensors, init_card = load_checkpoint(inputs.init)
        dit.load_state_dict(tensors, strict=True)
        init_sha = init_card["sha256"]
    if config.half_lives:
        set_half_lives(dit, config.half_lives)
    bf16 = config.bf16 and bf16_supported(torch.device("cpu"))
    encoder = HashTextEncoder(width=dit.cfg.caption_channels)
    captions = {id(source): encoder.encode(source.captions) for source in (shards, long)}
    weights = channel_weights(loaded.vae, torch.from_numpy(shards.z[:16, 1]).float())

    def step(module: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, DiT)
        is_far = float(torch.rand((), generator=generator)) < config.far
        source = long if is_far else shards
        sample, seeds, first = draw_clips(source, config, is_far, generator)
        own = roll_out_latents(loaded, sample.clip, source.captions, seeds, first)  # float32, as in the env
        batch = true_batch(sample, own, captions[id(source)])
        with sdpa_kernel([SDPBackend.MATH]):
            loss, found = self_forcing_loss(module, batch, own, config, generator, weights, loaded.vae)
        return loss, found | {f"far_{name}": value for name, value in found.items() if is_far}

    def leave(weights: Path, metrics: Mapping[str, float]) -> None:
        export_changed(
            world, {"dit": weights}, name=out.name, out=out / "world", trained_steps=config.frames - 1,
            metrics=metrics,
        )  # fmt: skip

    return Run(
        model=dit,
        step_fn=step,
        config=config.loop,
        out=out,
        settings={
            **{key: value for key, value in asdict(config).items() if key not in ("loop", "bf16")},
            "half_lives": list(config.half_lives),
            "sigmas": list(config.sigmas),
            "bf16": bf16,
            "dit": asdict(dit.cfg),
            "world": card["sha256"],
            "init_sha256": init_sha,
        },
        evaluate=lambda _: evaluate(loaded, val),
        rule=parameter_rule,
        export=Export(name="dit", entries={"part": "dit"}, world=leave),
    )


@torch.no_grad()
def evaluate(world: LearnedWorld, shards: LatentShards, clips: int = 16) -> dict[str, float]:
    """Return PSNR and contrast (standard deviation over the truth's) of rollouts from the start of held-out
    clips, at pixel frames 4, 16 and 64, before the refiner."""
    count, groups = min(clips, len(shards)), min(17, shards.groups)
    sample = shards.read(range(count), [0] * count, groups)
    own = roll_out_latents(world, sample.clip, shards.captions, range(count))
    truth = to_pixels(sample.clip.rgb, sample.clip.depth)[:, :, :3]
    state = world.vae.start_decoding(own.z[:, :, 0])
    found = {}
    for t in range(1, groups):
        pixels, state = world.vae.decode(own.z[:, :, t], state)
        if GROUP * t in (4, 16, 64):
            true = truth[:, GROUP * t]
            made = pixels[:, -1, :3].clamp(-1, 1)
            found[f"psnr_{GROUP * t}"] = float(psnr(made, true).mean())
            spread = made.flatten(2).std(2).mean() / true.flatten(2).std(2).mean()
            found[f"contrast_{GROUP * t}"] = float(spread)
    return found
