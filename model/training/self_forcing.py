"""Self-forcing: the world learns to continue what it made itself, judged by the truth and by a critic.

Taught on true histories alone, a world does not know its own mistakes: they compound, and what was never
seen fades to the mean of all that it could be, a grey haze. Every step here begins with a rollout of true
clips through the very `rollout.py` that the environment uses. Its latents y_t are then the history:

    x_t  = sigma eps + (1 - sigma) z_t,  mostly sigma = 1          x^_t = x_t - sigma v(x_t, sigma | y_<t)
    L    = mean_t h_t |w (x^_t - z_t)|^2  +  a_t (softplus(D(r_t) - D(f_t)))                 (network)
    L_D  = mean_t softplus(D(f_t) - D(r_t)) + gamma/2 (|dD/dr|^2 + |dD/df|^2)                (critic)
    r_t  = (z_{t-1}, z_t, motion_t),   f_t = (y_{t-1}, x^_t, motion_t)

h_t halves every `truth_half_life` chunks: the further a rollout went, the less the true frame is the only
right answer. The critic is a relativistic one with zero-centred gradient penalties (Huang et al. 2024,
arXiv 2501.05441); it looks at two latent frames and the motion between them, so that standing still is no
way out. The rollout carries no gradient; one pass over it gives the states before all of its chunks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wm_env.model.camera import CameraInput
from wm_env.model.checkpoint import load_checkpoint, save_checkpoint
from wm_env.model.data.clip import Clip
from wm_env.model.data.latents import LatentClip, LatentShards
from wm_env.model.dit import DiT
from wm_env.model.embedded import load_world, world_path, write_parts
from wm_env.model.geometry import invert_rigid, relative_to_first
from wm_env.model.rollout import LearnedWorld
from wm_env.model.state import DiTState, tree_map
from wm_env.model.text import HashTextEncoder, TextTokens
from wm_env.model.training.flow_matching import (
    WorldBatch,
    camera_of_clip,
    channel_weights,
    history_state,
    parameter_rule,
    set_half_lives,
    velocities,
)
from wm_env.model.training.loop import LoopConfig, Report, Rule, Run
from wm_env.model.training.refiner_rollouts import ClipStart
from wm_env.model.training.vae import bf16_supported, psnr
from wm_env.model.training.world import export_world
from wm_env.model.vae.tiny import GROUP, to_pixels

CRITIC_SCALE = 0.02


@dataclass(frozen=True, kw_only=True)
class SelfForcing:
    """Sizes and weights of a run; see the module docstring.

    batch, frames: clips per step and latent frames per clip, the start included. far: share of steps that
    learn on such a window in the middle of a longer rollout of long clips (gradient inside the window only);
    short windows alone leave a world in a state it has never seen after some seconds. pure_noise: share of
    frames at sigma = 1; the others are at one of `sigmas`, the sampler's later levels, or, where there are
    none, logit-normal. critic: how strong the critic pulls, relative to the
    truth (the ratio of the two gradients' norms at the weights of the head, before h_t; Esser et al. 2021,
    arXiv 2012.09841); 0 for none. critic_from: steps until it begins to, while it learns; it takes as many
    again to its full strength. truth_half_life: chunks.
    penalty: gamma. half_lives: start of the decay gates in latent frames per head, empty to leave them.
    """

    loop: LoopConfig
    batch: int = 4
    frames: int = 17
    far: float = 0.0
    pure_noise: float = 0.8
    sigmas: tuple[float, ...] = ()
    sigma_mean: float = 0.6
    sigma_std: float = 1.3
    critic: float = 0.0
    critic_from: int = 0
    critic_width: int = 96
    truth_half_life: float = 12.0
    penalty: float = 0.5
    half_lives: tuple[float, ...] = ()
    bf16: bool = True

    def __post_init__(self) -> None:
        if self.batch < 1 or self.frames < 2 or self.critic_width < 1:
            raise ValueError(f"batch >= 1, frames >= 2 and critic_width >= 1 are needed: {self}")
        if (
            not (0 <= self.pure_noise <= 1 and 0 <= self.far <= 1)
            or self.critic < 0
            or self.truth_half_life <= 0
        ):
            raise ValueError(
                f"pure_noise and far in [0, 1], critic >= 0, truth_half_life > 0 are needed: {self}"
            )


def preset(name: str) -> SelfForcing:
    """Return the training named `tiny` (both embedded worlds) or `smoke` (seconds, for tests)."""
    if name == "tiny":
        loop = LoopConfig(
            total_steps=1000, lr=5e-4, muon_lr=5e-4, slow_factor=0.01, warmup_steps=20, constant_fraction=0.5,
            ema_decay=0.99, eval_every=100,
        )  # fmt: skip
        return SelfForcing(loop=loop)
    if name == "smoke":
        loop = LoopConfig(
            total_steps=12, lr=2e-3, muon_lr=2e-3, warmup_steps=2, constant_fraction=1.0, log_every=2,
            eval_every=12, ema_decay=0.5,
        )  # fmt: skip
        return SelfForcing(loop=loop, batch=2, frames=4, critic_width=16, bf16=False)
    raise ValueError(f"unknown preset {name!r}; there are tiny and smoke")


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
    texts = [[captions[i] for i in row[::GROUP]] for row in clip.caption.tolist()]  # B lists of n + 1
    starts = [
        ClipStart(image=rgb[0].numpy(), intrinsics=tuple(k.tolist()), prompt=text[0], noise_seed=seed)
        for rgb, k, text, seed in zip(clip.rgb, clip.intrinsics, texts, seeds, strict=True)
    ]
    chunk, state = world.begin(starts)  # type: ignore[arg-type]
    latents, tokens, before = [_present(chunk.latent)], [state.pending.memory], state.dit
    c2w = relative_to_first(clip.c2w.double())
    for t in range(1, (clip.rgb.shape[1] - 1) // GROUP + 1):
        if any(text[t] != text[t - 1] for text in texts):
            state = world.set_prompt(state, [row[t] if row[t] != row[t - 1] else None for row in texts])
        chunk, state = world.step_chunk(state, c2w[:, GROUP * t - 3 : GROUP * t + 1])
        latents.append(_present(chunk.latent))
        tokens.append(state.pending.memory)
        before = state.dit if t == first else before  # the pending chunk is not in it yet
    present = [token for token in tokens[first:] if token is not None]
    memory = torch.cat(present, dim=1).clone() if present else None
    z = torch.stack(latents[first:], dim=2).clone()
    return OwnHistory(z, memory, tree_map(torch.clone, before), first)  # clones: out of inference mode


def _present(x: Tensor | None) -> Tensor:
    assert x is not None
    return x


class Critic(nn.Module):
    """Scores pairs of latent frames: `(n, C, h, w)` before and after, motion `(n, 6)` -> `(n, h, w)`.

    motion: translation (metres) and rotation vector (rad) from the first frame's last camera to the second's.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.motion = nn.Linear(6, width)
        self.first = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.middle = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.last = nn.Conv2d(width, 1, 1)

    def forward(self, before: Tensor, after: Tensor, motion: Tensor) -> Tensor:
        x = self.first(torch.cat([before, after], dim=1)) + self.motion(motion)[..., None, None]
        for layer in self.middle:
            x = x + layer(F.leaky_relu(x, 0.2))
        score: Tensor = self.last(F.leaky_relu(x, 0.2))[:, 0]
        return score


class Judged(nn.Module):
    """The transformer and its critic as one module of one resumable run."""

    def __init__(self, dit: DiT, width: int) -> None:
        super().__init__()
        self.dit = dit
        self.critic = Critic(dit.cfg.latent_channels, width)


def motions(c2w: Tensor) -> Tensor:
    """Return `(B, T-1, 6)` float32 motions between the latent frames of `c2w` `(B, 4T-3, 4, 4)`."""
    poses = c2w[:, ::GROUP].double()
    step = invert_rigid(poses[:, :-1]) @ poses[:, 1:]  # (B, T-1, 4, 4)
    skew = step[..., :3, :3] - step[..., :3, :3].mT
    turn = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1) / 2  # small angles
    return torch.cat([step[..., :3, 3], turn], dim=-1).float()


class Judgement(NamedTuple):
    """network: the critic's term for the predictions, of unit weight. critic: the critic's own loss."""

    network: Tensor
    critic: Tensor


def judge(
    critic: Critic, real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor], motion: Tensor, penalty: float
) -> Judgement:
    """Return both sides of the game on pairs `(n, C, h, w)`; gradients go to `fake[1]` and to the critic."""
    frozen = {name: parameter.detach() for name, parameter in critic.named_parameters()}
    with torch.no_grad():
        truth = critic(*real, motion)
    score = torch.func.functional_call(critic, frozen, (*fake, motion))
    r = [x.detach().requires_grad_() for x in real]
    f = [x.detach().requires_grad_() for x in fake]
    real_score, fake_score = critic(*r, motion), critic(*f, motion)
    steep = sum(
        gradient.square().sum((1, 2, 3)).mean()
        for inputs, scores in ((r, real_score), (f, fake_score))
        for gradient in torch.autograd.grad(scores.mean((1, 2)).sum(), inputs, create_graph=True)
    )
    loss = F.softplus(fake_score - real_score).mean() + penalty / 2 * steep
    return Judgement(F.softplus(truth - score).mean(), loss)


def self_forcing_loss(
    model: Judged,
    batch: WorldBatch,
    own: OwnHistory,
    motion: Tensor,
    config: SelfForcing,
    generator: torch.Generator,
    weights: Tensor,
    number: int,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of both networks and its parts; `batch.z` is the truth, `own` the history.

    number: steps done, for the critic's rise.
    """
    z = batch.z
    count, _, frames = z.shape[:3]

    def draw(kind: str, *shape: int) -> Tensor:
        made = torch.rand(shape, generator=generator) if kind == "uniform" else None
        return (torch.randn(shape, generator=generator) if made is None else made).to(z.device)

    if config.sigmas:
        levels = torch.tensor(config.sigmas, device=z.device)
        sigma = levels[(draw("uniform", count, frames) * len(levels)).long()]
    else:
        sigma = torch.sigmoid(config.sigma_mean + config.sigma_std * draw("normal", count, frames))
    sigma = torch.where(draw("uniform", count, frames) < config.pure_noise, 1.0, sigma)
    eps = draw("normal", *z.shape)
    noisy = z + (eps - z) * sigma[:, None, :, None, None]
    device = z.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=config.bf16 and bf16_supported(z.device)):
        state = history_state(model.dit, batch, own.z, torch.zeros_like(sigma), own.before)
        velocity = velocities(model.dit, batch, noisy, sigma, state).float()[:, :, 0]  # (B (T-1), C, h, w)

    def later(x: Tensor) -> Tensor:
        return x[:, :, 1:].transpose(1, 2).flatten(0, 1)  # (B (T-1), C, h, w)

    def earlier(x: Tensor) -> Tensor:
        return x[:, :, :-1].transpose(1, 2).flatten(0, 1)

    level = sigma[:, 1:].flatten()
    predicted = later(noisy) - level[:, None, None, None] * velocity
    horizon = (own.first + torch.arange(frames - 1, device=z.device)) / config.truth_half_life
    trust = (0.5**horizon).expand(count, -1).flatten()  # (B (T-1),)
    squares = (velocity - later(eps - z)).square().mean((2, 3))  # (B (T-1), C), that of x^ where sigma is 1
    weighted = (squares * weights).mean(1)  # (B (T-1),)
    truth = (weighted * trust).mean()
    error = (predicted.detach() - later(z)).square().mean((2, 3)) * weights
    metrics = {"truth": float(truth.detach()), "x0": float(error[level == 1].mean())}
    if config.critic == 0:
        return truth, metrics
    pure = level == 1
    scale = weights.sqrt()[:, None, None]  # the critic sees a channel as large as the eye does
    real = (earlier(z)[pure] * scale, later(z)[pure] * scale)
    fake = (earlier(own.z)[pure] * scale, predicted[pure] * scale)
    verdict = judge(model.critic, real, fake, motion.flatten(0, 1)[pure], config.penalty)
    head = model.dit.head.weight
    pull_truth, pull_critic = (
        torch.autograd.grad(loss, head, retain_graph=True)[0].norm()
        for loss in (weighted.mean(), verdict.network)
    )
    rise = min(1.0, max(0.0, number / config.critic_from - 1)) if config.critic_from else 1.0
    pull = rise * config.critic * pull_truth / pull_critic.clamp_min(1e-12)
    metrics |= {"critic": float(verdict.critic.detach()), "judged": float(verdict.network.detach())}
    metrics["pull"] = float(pull)
    # the critic's optimizer ignores the scale of its gradient; this one keeps it out of the shared clipping
    return truth + pull * verdict.network + CRITIC_SCALE * verdict.critic, metrics


class Drawn(NamedTuple):
    """Clips with latents from a rollout's start on, a noise seed for each, and where the window begins."""

    sample: LatentClip
    seeds: list[int]
    first: int


def draw_clips(shards: LatentShards, config: SelfForcing, far: bool, generator: torch.Generator) -> Drawn:
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
    return Drawn(shards.read(clips, start.tolist(), first + config.frames), seeds, first)


def true_batch(sample: LatentClip, own: OwnHistory, captions: TextTokens) -> WorldBatch:
    """Return the truth of a window of rollouts, with the memory that the rollouts had."""
    c2w = relative_to_first(sample.clip.c2w)
    z = sample.z[:, own.first :].transpose(1, 2).to(own.z.device)
    ids = sample.clip.caption[:, ::GROUP][:, own.first :]
    text = TextTokens(captions.tokens[ids], captions.mask[ids])
    camera = camera_of_clip(c2w, sample.clip.intrinsics, sample.clip.rgb.shape[-2])
    window = CameraInput(camera.conditions[:, own.first :], camera.plucker[:, :, own.first :])
    return WorldBatch(z, window, text, own.memory)


def train_self_forcing(
    *,
    data: Path,
    latents: Path,
    world: Path,
    out: Path,
    config: SelfForcing,
    far: tuple[Path, Path] | None = None,
    init: Path | None = None,
    seconds: float | None = None,
    steps: int | None = None,
    report: Report | None = None,
) -> Run:
    """Train a slice of a run and return it; write `out/dit.safetensors` (averaged) and the world `out/world`.

    world: a world folder or preset, whose autoencoder (and refiner, with a memory) make the rollouts and
    whose transformer is trained on. far: data and latents of long clips, for `config.far`. init: a
    `dit.safetensors` to start from instead, before its rounding.
    """
    loaded = load_world(world)
    _, card = load_checkpoint(world_path(world))
    if (config.far > 0) != (far is not None):
        raise ValueError(f"far={config.far} and long clips {far} go together: give both or none")
    vae_sha = card["parts"]["vae"]["sha256"]
    shards, val = (LatentShards(data / split, latents / split, vae_sha) for split in ("train", "val"))
    long = shards if far is None else LatentShards(far[0] / "train", far[1] / "train", vae_sha)
    dit, init_sha = loaded.dit.requires_grad_(True), card["sha256"]
    if init is not None:
        tensors, init_card = load_checkpoint(init)
        dit.load_state_dict(tensors, strict=True)
        init_sha = init_card["sha256"]
    if config.half_lives:
        set_half_lives(dit, config.half_lives)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        model = Judged(dit, config.critic_width)
    encoder = HashTextEncoder(width=dit.cfg.caption_channels)
    captions = {id(source): encoder.encode(source.captions) for source in (shards, long)}
    weights = channel_weights(loaded.vae, torch.from_numpy(shards.z[:16, 1]).float())
    bf16 = config.bf16 and bf16_supported(torch.device("cpu"))

    def step(module: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, Judged)
        is_far = float(torch.rand((), generator=generator)) < config.far
        source = long if is_far else shards
        sample, seeds, first = draw_clips(source, config, is_far, generator)
        own = roll_out_latents(loaded, sample.clip, source.captions, seeds, first)  # float32, as in the env
        batch = true_batch(sample, own, captions[id(source)])
        with sdpa_kernel([SDPBackend.MATH]):
            return self_forcing_loss(
                module, batch, own, motions(sample.clip.c2w)[:, first:], config, generator, weights, number
            )

    def rule(name: str, parameter: nn.Parameter) -> Rule:
        return parameter_rule(name.removeprefix("dit."), parameter) if name.startswith("dit.") else "adamw"

    run = Run(
        model=model,
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
        rule=rule,
    )
    run.advance(seconds=seconds, steps=steps, report=report)
    trained = {
        name.removeprefix("dit."): tensor
        for name, tensor in run.ema_weights().items()
        if name.startswith("dit.")
    }
    save_checkpoint(out / "dit.safetensors", trained, {"part": "dit", **run.card()})
    with tempfile.TemporaryDirectory() as folder:
        parts = write_parts(world, Path(folder))
        export_world(
            name=out.name, dit=out / "dit.safetensors", vae=parts["vae"], refiner=parts.get("refiner"),
            out=out / "world", sampler=loaded.sampler, trained_steps=config.frames - 1, metrics=run.metrics,
        )  # fmt: skip
    return run


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
