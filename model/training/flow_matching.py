"""Flow matching for the world model: every frame is denoised from the state its history left behind.

One training clip is used as a rollout would use it (chunks of one latent frame):

    history   c_t = (1 - tau_t) z_t + tau_t e_t         one causal pass, the state before every frame is kept
    target    x_t = (1 - sigma_t) z_t + sigma_t eps_t   denoised from the state before frame t
    loss      mean_t |w (v(x_t, sigma_t | state_t) - (eps_t - z_t))|^2,   t = 1 .. T-1

sigma = sigmoid(mean + std n), or exactly 1 with probability `pure_noise`. Two things make the history look
like a rollout's: noise of a level tau that the model is told, and frames replaced by the model's own one-step
predictions (`own_history`). Frame 0 is the start image as a world is given it, with predicted depth.

The latents have unit variance, yet one of 32 channels carries two thirds of the pixels' energy and most carry
detail that nobody could predict. w_c^2 is the root of a channel's energy in pixels (`channel_weights`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wm_env.model.attention import GDNAttention
from wm_env.model.camera import CameraInput, camera_input, start_windows
from wm_env.model.chunks import causal
from wm_env.model.data.clip import Clip
from wm_env.model.data.latents import LatentClip, LatentShards
from wm_env.model.data.rendered import RenderedLatents
from wm_env.model.dit import Block, DiT
from wm_env.model.geometry import relative_to_first
from wm_env.model.memory import memory_tokens
from wm_env.model.pixels import to_pixels
from wm_env.model.state import DiTState, WindowState, tree_map
from wm_env.model.text import TextTokens
from wm_env.model.training.keyframes import damage, true_keyframes, views_of_chunk
from wm_env.model.training.loop import Rule
from wm_env.model.vae.tiny import GROUP, STRIDE, TinyVAE


@dataclass(frozen=True, kw_only=True)
class WorldLossConfig:
    """How clips become losses; see the module docstring.

    batch, frames: clips per step and latent frames per clip. sigma_mean, sigma_std, pure_noise: noise level
    of the denoised frame. history_noise: largest tau; history_clean: share of clips whose history is clean.
    own_history: probability that a history frame is the model's own prediction. window_dropout: share of
    clips denoised without the softmax window, so that the GDN state has to carry what is needed of the past
    (with the window always there it learns to carry nothing). text_dropout: share of clips without a prompt.
    start_true: share of clips whose frame 0 keeps its true depth.
    """

    batch: int = 4
    frames: int = 8
    sigma_mean: float = 0.6
    sigma_std: float = 1.3
    pure_noise: float = 0.4
    history_noise: float = 0.3
    history_clean: float = 0.2
    own_history: float = 0.0
    window_dropout: float = 0.0
    text_dropout: float = 0.1
    start_true: float = 0.2

    def __post_init__(self) -> None:
        if self.batch < 1 or self.frames < 2:
            raise ValueError(f"batch={self.batch} must be positive and frames={self.frames} at least 2")
        shares = (
            self.pure_noise,
            self.history_noise,
            self.history_clean,
            self.own_history,
            self.text_dropout,
        )
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"shares and noise levels are in [0, 1]: {self}")


class WorldBatch(NamedTuple):
    """A batch as the transformer sees it, chunk t = latent frame t.

    z: `(B, C, T, h, w)` latents, frame 0 as given to a world. camera: conditions and Plücker maps of all T.
    text: `(B, T, L, E)`. memory: `(B, T, N, M)` or None.
    """

    z: Tensor
    camera: CameraInput
    text: TextTokens
    memory: Tensor | None


class WorldLoss(NamedTuple):
    """mean: the loss. error: `(B (T-1),)` squared error of every frame. pure: which were pure noise."""

    mean: Tensor
    error: Tensor
    pure: Tensor


def camera_of_clip(c2w: Tensor, intrinsics: Tensor, size: int) -> CameraInput:
    """Return the conditioning of all latent frames of pixel poses `(B, 4T-3, 4, 4)` relative to frame 0."""
    grid = (size // STRIDE, size // STRIDE)
    return camera_input(c2w, intrinsics, (size, size), grid, start_windows(c2w.shape[1], GROUP))


def memory_of_clip(batch: LatentClip, c2w: Tensor, generator: torch.Generator, corrupt: bool) -> Tensor:
    """Return what the point memory would show at the last pixel frame of every latent, `(B, T, 5, H, W)`.

    `corrupt` damages the keyframes like generated ones; frame 0 keeps its colours and its predicted depth.
    """
    clip = batch.clip
    keys = true_keyframes(to_pixels(clip.rgb, clip.depth), batch.depth0)  # (B, T, 4, H, W)
    if corrupt:
        keys = torch.cat([keys[:, :1], damage(keys[:, 1:], generator)], dim=1)
    views = [
        views_of_chunk(keys, t, c2w, clip.intrinsics, last_only=True)[:, 0] for t in range(1, keys.shape[1])
    ]
    return torch.stack([torch.zeros_like(views[0]), *views], dim=1)


class BatchSource:
    """Draws training batches from latent shards; every random choice comes from the caller's generator."""

    def __init__(
        self,
        shards: LatentShards | RenderedLatents,
        captions: TextTokens,
        config: WorldLossConfig,
        memory: bool,
    ) -> None:
        self.shards, self.captions, self.config, self.memory = shards, captions, config, memory

    def draw(self, generator: torch.Generator, corrupt: bool = True) -> WorldBatch:
        cfg = self.config

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator)

        def integer(high: int) -> Tensor:
            return torch.randint(0, high, (cfg.batch,), generator=generator)

        indices = integer(len(self.shards)).tolist()
        last = self.shards.groups - cfg.frames
        first = torch.where(uniform(cfg.batch) < 0.3, 0, integer(last + 1)).tolist()
        sample = self.shards.read(indices, first, cfg.frames)
        return world_batch(sample, self.captions, cfg, self.memory, generator, corrupt)


def world_batch(
    sample: LatentClip,
    captions: TextTokens,
    config: WorldLossConfig,
    memory: bool,
    generator: torch.Generator,
    corrupt: bool,
) -> WorldBatch:
    """Return clips as the transformer sees them, on the device of their latents.

    captions: the table that `clip.caption` indexes. memory: with the point memory's views. corrupt: whose
    keyframes are damaged like generated ones.
    """
    clip: Clip = sample.clip
    device, count = sample.z.device, len(sample.z)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    c2w = relative_to_first(clip.c2w)
    true_start = uniform(count) < config.start_true
    start = torch.where(true_start[:, None, None, None], sample.z[:, 0], sample.start)
    z = torch.cat([start[:, None], sample.z[:, 1:]], dim=1).transpose(1, 2)  # (B, C, T, h, w)
    ids = clip.caption[:, ::GROUP]  # (B, T)
    kept = (uniform(count) >= config.text_dropout).float()[:, None, None]
    text = TextTokens(captions.tokens[ids], captions.mask[ids] * kept)
    views = memory_tokens(memory_of_clip(sample, c2w, generator, corrupt)) if memory else None
    return WorldBatch(z, camera_of_clip(c2w, clip.intrinsics, clip.rgb.shape[-2]), text, views)


def _frames_as_batch(x: Tensor, axis: int) -> Tensor:
    """Return frames 1..T-1 of `x` (time on `axis`) as separate clips of one frame."""
    x = x.movedim(axis, 1)[:, 1:].flatten(0, 1)
    return x.unsqueeze(axis)


def history_state(
    model: DiT, batch: WorldBatch, history: Tensor, tau: Tensor, before: DiTState | None = None
) -> DiTState:
    """Return the states before frames 1..T-1 as a batch of B (T-1); tau `(B, T)`: noise of `history`.

    before: state before frame 0, None for the empty one.
    """
    frames = history.shape[2]
    _, states = model(
        history, 1000 * tau, batch.text, batch.camera, before,
        memory=batch.memory, chunks=causal(frames),
    )  # fmt: skip
    return tree_map(lambda leaf: leaf[:, :-1].flatten(0, 1), states)


def without_window(state: DiTState, keep: Tensor) -> DiTState:
    """Return the state with the softmax windows emptied in the slots where `keep` `(B,)` is False."""
    blocks = []
    for block in state.blocks:
        memory = block.attention
        if isinstance(memory, WindowState):
            chunks = tuple(chunk._replace(valid=chunk.valid & keep) for chunk in memory.chunks)
            block = block._replace(attention=WindowState(chunks))
        blocks.append(block)
    return state._replace(blocks=tuple(blocks))


def velocities(model: DiT, batch: WorldBatch, noisy: Tensor, sigma: Tensor, state: DiTState) -> Tensor:
    """Return v `(B (T-1), C, 1, h, w)` of noisy frames `(B, C, T, h, w)`, each from its own state."""
    text = TextTokens(*(x[:, 1:].flatten(0, 1) for x in batch.text))
    camera = CameraInput(
        _frames_as_batch(batch.camera.conditions, 1), _frames_as_batch(batch.camera.plucker, 2)
    )
    memory = None if batch.memory is None else _frames_as_batch(batch.memory, 1)
    velocity, _ = model(
        _frames_as_batch(noisy, 2), 1000 * sigma[:, 1:].flatten()[:, None], text, camera, state, memory=memory
    )
    return velocity


def world_loss(
    model: DiT,
    batch: WorldBatch,
    config: WorldLossConfig,
    generator: torch.Generator,
    weights: Tensor | None = None,
) -> WorldLoss:
    """Return the flow-matching loss of a batch; weights `(C,)` are w^2 per channel, None for ones."""
    z = batch.z
    count, _, frames = z.shape[:3]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(z.device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(z.device)

    def mix(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return clean + (noise - clean) * level[:, None, :, None, None]

    sigma = torch.sigmoid(config.sigma_mean + config.sigma_std * normal(count, frames))
    sigma = torch.where(uniform(count, frames) < config.pure_noise, 1.0, sigma)
    tau = config.history_noise * uniform(count, frames).square()
    tau = torch.where(uniform(count, 1) < config.history_clean, 0.0, tau)
    eps, history_eps = normal(*z.shape), normal(*z.shape)

    history = z
    if config.own_history > 0:
        own = (uniform(count, 1) < 0.75) & (uniform(count, frames) < config.own_history)
        with torch.no_grad():
            state = history_state(model, batch, mix(z, history_eps, tau), tau)
            ones = torch.ones_like(sigma)
            predicted = _frames_as_batch(eps, 2) - velocities(model, batch, eps, ones, state)
        predicted = predicted[:, :, 0].unflatten(0, (count, frames - 1)).transpose(1, 2)  # (B, C, T-1, h, w)
        predicted = torch.cat([z[:, :, :1], predicted.to(z.dtype)], dim=2)
        history = torch.where(own[:, None, :, None, None], predicted, z)
    state = history_state(model, batch, mix(history, history_eps, tau), tau)
    if config.window_dropout > 0:
        keep = torch.rand(count, generator=generator) >= config.window_dropout
        state = without_window(state, keep.repeat_interleave(frames - 1))
    velocity = velocities(model, batch, mix(z, eps, sigma), sigma, state)
    squares = (velocity.float() - _frames_as_batch(eps - z, 2)).square().mean((2, 3, 4))  # (B (T-1), C)
    error = squares.mean(1) if weights is None else (squares * weights.to(squares.device)).mean(1)
    return WorldLoss(error.mean(), error.detach(), sigma[:, 1:].flatten() == 1)


@torch.no_grad()
def channel_weights(vae: TinyVAE, latents: Tensor) -> Tensor:
    """Return w^2 `(C,)` with mean 1: the root of what half a deviation of a channel changes in the pixels.

    latents `(B, C, h, w)`, a sample. Inverse depth counts a tenth. In the embedded autoencoder 22 of 32 parts
    of the colour energy are in one channel; with equal weights most of the loss is unpredictable detail.
    """
    state = vae.start_decoding(latents)
    reference, _ = vae.decode(latents, state)
    energies = []
    for channel in range(latents.shape[1]):
        moved = latents.clone()
        moved[:, channel] += 0.5
        change = (vae.decode(moved, state)[0] - reference).square().mean((0, 1, 3, 4))  # (4,)
        energies.append(change[:3].mean() + 0.1 * change[3])
    roots = torch.stack(energies).sqrt()
    return roots / roots.mean()


@contextlib.contextmanager
def fast_attention(device: torch.device, bf16: bool) -> Iterator[None]:
    """The block in which a training step runs: autocast if `bf16`, and the fastest attention of the device.

    The fused CPU attention is slow backward at 64 tokens: measured 2.9 s -> 2.6 s a step without it.
    """
    backends = [SDPBackend.MATH] if device.type == "cpu" else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16), sdpa_kernel(backends):
        yield


def step_function(
    source: BatchSource, bf16: bool, weights: Tensor | None = None
) -> Callable[[nn.Module, torch.Generator, int], tuple[Tensor, dict[str, float]]]:
    """Return the step function for `loop.Run`; bf16 autocast where the machine has it."""

    def step(model: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(model, DiT)
        batch = source.draw(generator)
        device = model.latent_in.weight.device
        batch = tree_map(lambda x: x.to(device), batch)
        with fast_attention(device, bf16):
            return world_loss(model, batch, source.config, generator, weights).mean, {}

    return step


def parameter_rule(name: str, parameter: nn.Parameter) -> Rule:
    """Return "muon" for the matrices of the blocks, "adamw" for gates, norms, embeddings and the head.

    The decay of the recurrent states is "slow": within clips of seconds forgetting at once is never punished,
    so at the full rate the gates close (measured half-lives 0.06-0.3 s) and a rollout remembers nothing.
    """
    if name.endswith((".A_log", ".dt_bias")) or ".decay." in name:
        return "slow"
    gate = any(part in name for part in (".beta.", "depthwise", "modulation"))
    return "muon" if parameter.ndim == 2 and name.startswith("blocks.") and not gate else "adamw"


@torch.no_grad()
def set_half_lives(model: DiT, half_lives: Sequence[float]) -> None:
    """Start the decay gates of every block at half-lives in latent frames, one per head, for any input.

    exp(A_log) softplus(dt_bias) = ln 2 / half-life (docs/reference/transformer.md#gates), with the input's
    part of the gate at zero.
    """
    if len(half_lives) != model.cfg.heads or min(half_lives) <= 0:
        raise ValueError(f"half_lives={tuple(half_lives)}: {model.cfg.heads} positive numbers, one per head")
    rate = math.log(2) / torch.tensor(half_lives)  # (H,) per frame
    for block in model.blocks:
        assert isinstance(block, Block)
        attention = block.attn
        if isinstance(attention, GDNAttention):
            nn.init.zeros_(attention.decay.weight)
            nn.init.zeros_(attention.decay.bias)
            attention.dt_bias.fill_(-5.0)
            attention.A_log.copy_(torch.log(rate / F.softplus(attention.dt_bias)))
