"""Flow matching on whole clips with one noise level per chunk: the recipe of the released stage 1.

    s = i / levels,   sigma = k s / (1 + (k - 1) s)                     index i in 0 .. levels-1, shift k
    x = (1 - sigma) z + sigma eps,   v* = eps - z
    loss = mean over unmasked frames of |w (v(x, 1000 sigma) - v*)|^2

Bidirectional (`chunk_frames` None): one logit-normal index per clip, i = floor(levels sigmoid(n)).
Chunk-causal: one index per chunk, drawn per clip in one of four ways, in all of which time never lowers the
noise, as in autoregressive and staggered sampling:

    same          one index for all chunks
    incremental   a random chunk has a logit-normal index, the others are a non-decreasing sequence through it
    last_anchor   the same with the last chunk
    clean_prefix  as last_anchor, then the first 1 .. n-1 chunks are clean

With probability `image_condition` frame 0 is clean and without loss, as it is given when a world begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wm_env.model.chunks import cut_at
from wm_env.model.dit import DiT
from wm_env.model.training.batches import WorldBatch
from wm_env.model.training.losses.flow_matching import WorldLoss

MODES = ("same", "incremental", "last_anchor", "clean_prefix")


@dataclass(frozen=True, kw_only=True)
class ClipLossConfig:
    """How clips become losses; see the module docstring.

    batch, frames: clips per step and latent frames per clip. chunk_frames: latent frames of a chunk after
    the first, None for one bidirectional chunk; first_chunk: those of the first, start image included.
    mixture: probabilities of `MODES`. shift: k. camera_dropout: share of steps without a camera.
    start_true: share of clips whose frame 0 keeps its true depth.
    """

    batch: int = 4
    frames: int = 8
    chunk_frames: int | None = None
    first_chunk: int = 1
    mixture: tuple[float, ...] = (0.1, 0.4, 0.4, 0.1)
    levels: int = 1000
    shift: float = 9.95
    logit_mean: float = 0.0
    logit_std: float = 1.0
    image_condition: float = 0.9
    text_dropout: float = 0.1
    camera_dropout: float = 0.0
    start_true: float = 0.2

    def __post_init__(self) -> None:
        if self.batch < 1 or self.frames < 2 or self.levels < 2 or self.shift <= 0 or self.logit_std <= 0:
            raise ValueError(f"batch >= 1, frames >= 2, levels >= 2, shift and logit_std > 0: {self}")
        if len(self.mixture) != len(MODES) or min(self.mixture) < 0 or abs(sum(self.mixture) - 1) > 1e-6:
            raise ValueError(f"mixture={self.mixture} must be {len(MODES)} probabilities of {MODES}, sum 1")
        shares = (self.image_condition, self.text_dropout, self.camera_dropout, self.start_true)
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"shares are in [0, 1]: {self}")
        if self.chunk_frames is not None:
            rest = self.frames - self.first_chunk
            if self.chunk_frames < 1 or self.first_chunk < 1 or rest < 0 or rest % self.chunk_frames:
                raise ValueError(
                    f"frames={self.frames} are not first_chunk={self.first_chunk} and chunks of "
                    f"{self.chunk_frames}; need frames = first_chunk + n chunk_frames"
                )

    @property
    def chunk_starts(self) -> tuple[int, ...]:
        """First latent frame of every chunk."""
        if self.chunk_frames is None:
            return (0,)
        return (0, *range(self.first_chunk, self.frames, self.chunk_frames))


def monotone(count: int, low: int, high: int, generator: torch.Generator) -> Tensor:
    """Return a non-decreasing sequence of `count` integers in [low, high], uniform over all of them.

    Adding 0, 1, 2, ... to it makes a strictly increasing one, and those are the subsets of
    high - low + count numbers: so a random subset, sorted, less 0, 1, 2, ...
    """
    subset = torch.randperm(high - low + count, generator=generator)[:count].sort().values
    return subset - torch.arange(count) + low


def chunk_indices(clips: int, chunks: int, config: ClipLossConfig, generator: torch.Generator) -> Tensor:
    """Return the noise index of every chunk, int64 `(clips, chunks)` in [0, levels)."""
    top = config.levels - 1
    rows = []
    for _ in range(clips):
        normal = config.logit_mean + config.logit_std * torch.randn((), generator=generator)
        index = min(top, int(config.levels * torch.sigmoid(normal)))
        mode = MODES[int(torch.multinomial(torch.tensor(config.mixture), 1, generator=generator))]
        if mode == "same" or chunks == 1:
            rows.append(torch.full((chunks,), index))
            continue
        anchor = chunks - 1
        if mode == "incremental":
            anchor = int(torch.randint(chunks, (), generator=generator))
        row = torch.cat(
            [
                monotone(anchor, 0, index, generator),
                torch.tensor([index]),
                monotone(chunks - 1 - anchor, index, top, generator),
            ]
        )
        if mode == "clean_prefix":
            row[: int(torch.randint(1, chunks, (), generator=generator))] = 0
        rows.append(row)
    return torch.stack(rows)


def shifted(index: Tensor, config: ClipLossConfig) -> Tensor:
    """Return the noise level sigma in [0, 1) of indices."""
    s = index / config.levels
    return config.shift * s / (1 + (config.shift - 1) * s)


def clip_loss(
    model: DiT,
    batch: WorldBatch,
    config: ClipLossConfig,
    generator: torch.Generator,
    weights: Tensor | None = None,
) -> WorldLoss:
    """Return the loss of a batch; weights `(C,)` are w^2 per channel, None for ones. Errors are per frame."""
    z = batch.z
    count, _, frames = z.shape[:3]
    starts = config.chunk_starts
    lengths = torch.tensor([*starts[1:], frames]) - torch.tensor(starts)
    index = chunk_indices(count, len(starts), config, generator).repeat_interleave(lengths, dim=1)  # (B, T)
    conditioned = torch.rand(count, generator=generator) < config.image_condition
    index[:, 0] = torch.where(conditioned, 0, index[:, 0])
    counted = torch.ones(count, frames)
    counted[:, 0] = (~conditioned).float()
    sigma, counted = shifted(index, config).to(z.device), counted.to(z.device)
    eps = torch.randn(z.shape, generator=generator).to(z.device)
    with_camera = float(torch.rand((), generator=generator)) >= config.camera_dropout
    noisy = z + (eps - z) * sigma[:, None, :, None, None]
    velocity, _ = model(
        noisy, 1000 * sigma, batch.text, batch.camera if with_camera else None,
        memory=batch.memory, chunks=cut_at(starts),
    )  # fmt: skip
    squares = (velocity.float() - (eps - z)).square().mean((3, 4))  # (B, C, T)
    error = squares.mean(1) if weights is None else (squares * weights.to(z.device)[:, None]).mean(1)
    mean = (error * counted).sum() / counted.sum()
    kept = counted.flatten() > 0
    return WorldLoss(mean, error.detach().flatten()[kept], (index.flatten() == config.levels - 1)[kept.cpu()])
