"""Flow matching on single latent frames: what rooms look like, before any clip teaches what a camera does.

One example is one latent frame z on its own (T = 1, no state), its four poses, its caption, and a view of the
point memory that shows a part of it, or nothing:

    x = (1 - sigma) z + sigma eps,    loss = |w (v(x, sigma | camera, text, view) - (eps - z))|^2

A step sees `batch` rooms, a step on clips a few. Where the view shows nothing the network has to draw a room;
where it shows a part, to go on from its edges. A view is, by chance, empty; the true last frame behind a
random mask; or true keyframes of the same walk, damaged and splatted into the pose, as a rollout would.

Poses are relative to the level start of a walk, as in a rollout: pitch and height of the camera can be read
off them, and with them where floor and ceiling are.

Examples come from a `Stream` of rooms that are never repeated, through a pool of the latest `pool` examples
from which every step draws; each example is drawn `reuse` times on average, which pays for its rendering.
The pool of a step is a function of the step, so a resumed run goes on exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_env.model.camera import CameraInput, camera_input, own_windows
from wm_env.model.data.stream import Plan, Stream, StreamConfig, captions, draw, frames_of
from wm_env.model.dit import DiT
from wm_env.model.flow import euler_path
from wm_env.model.pixels import to_pixels
from wm_env.model.point_memory import memory_tokens, splat
from wm_env.model.state import cat, select
from wm_env.model.text import HashTextEncoder, TextTokens
from wm_env.model.training.keyframes import corrupt_keyframes, rand
from wm_env.model.training.precision import fast_attention
from wm_env.model.vae.tiny import GROUP, STRIDE, TinyVAE


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """How images become losses; see the module docstring.

    batch: images of a step. sigma_mean, sigma_std, pure_noise: noise level sigmoid(mean + std n), or exactly
    1. text_dropout: share without a caption. empty, masked: shares of views that are empty and that are the
    true frame behind a mask; the rest is splatted from one to `sources` keyframes. looks: images taken of
    every walk. pool, reuse: see the module docstring. stream: the rooms and walks.
    """

    batch: int = 64
    sigma_mean: float = 0.3
    sigma_std: float = 1.2
    pure_noise: float = 0.2
    text_dropout: float = 0.1
    empty: float = 0.3
    masked: float = 0.3
    sources: int = 2
    looks: int = 3
    pool: int = 3072
    reuse: int = 4
    stream: StreamConfig = field(default_factory=StreamConfig)

    def __post_init__(self) -> None:
        if min(self.batch, self.sources, self.looks, self.reuse) < 1 or self.pool < self.entries_of_group:
            raise ValueError(
                f"batch, sources, looks and reuse must be positive, pool at least {self.entries_of_group}, "
                f"the images of a group: {self}"
            )
        shares = (self.pure_noise, self.text_dropout, self.empty, self.masked, self.empty + self.masked)
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"shares are in [0, 1], empty + masked too: {self}")

    @property
    def entries_of_group(self) -> int:
        """Images that one group of the stream gives."""
        return self.stream.group * self.looks

    def groups_before(self, step: int) -> int:
        """Return how many groups of the stream are drawn when `step` begins, a whole pool at first."""
        full = -(-self.pool // self.entries_of_group)
        return full + step * self.batch // (self.reuse * self.entries_of_group)


class Images(NamedTuple):
    """Examples, batch axis first; all but the poses in half precision, as they lie in the pool.

    z `(n, C, h, w)`. conditions `(n, 20)` and plucker `(n, 24, h, w)`: the camera. words `(n,)` int64: number
    of the caption. frame `(n, 4, H, W)`: true last pixel frame (r, g, b, d). view `(n, 5, H, W)`: keyframes
    splatted into it.
    """

    z: Tensor
    conditions: Tensor
    plucker: Tensor
    words: Tensor
    frame: Tensor
    view: Tensor


class ImageBatch(NamedTuple):
    """A batch as the transformer sees it: z `(B, C, 1, h, w)`, camera, text, memory tokens `(B, 1, N, M)`."""

    z: Tensor
    camera: CameraInput
    text: TextTokens
    memory: Tensor


@torch.no_grad()
def images_of_plan(
    plan: Plan, vae: TinyVAE, config: ImageConfig, generator: torch.Generator, device: torch.device
) -> Images:
    """Return `looks` images of every walk of a plan."""
    clips, latents = plan.part.shape
    clip = torch.arange(clips).repeat_interleave(config.looks)  # (n,)
    order = torch.rand((clips, latents - 1), generator=generator).argsort(1)[:, : config.looks] + 1
    latent = order.flatten()
    size = config.stream.size
    rgb, depth = draw(plan, clip, latent, size, device)
    pixels = to_pixels(rgb, depth)  # (n, 4, 4, H, W) frame, channel
    z = vae.encode_groups(pixels)

    intrinsics = plan.intrinsics[clip].to(device)
    poses = plan.c2w[clip[:, None], frames_of(latent)].to(device)  # (n, 4, 4, 4)
    grid = (size // STRIDE, size // STRIDE)
    camera = camera_input(poses, intrinsics, (size, size), grid, own_windows(1, GROUP))

    source = torch.randint(0, latents, (len(clip), config.sources), generator=generator)
    which = clip[:, None].expand_as(source)
    seen, far = draw(plan, which.flatten(), source.flatten(), size, device, last=True)
    keys = to_pixels(seen, far)[:, 0].unflatten(0, source.shape)  # (n, S, 4, H, W)
    counts = torch.arange(config.sources) <= torch.randint(
        0, config.sources, (len(clip), 1), generator=generator
    )
    from_poses = plan.c2w[which, GROUP * source].to(device)  # (n, S, 4, 4)
    view = splat(
        corrupt_keyframes(keys, generator), from_poses, counts.to(device), poses[:, -1:], intrinsics
    )[:, 0]
    words = plan.words[clip, latent].to(device)
    conditions, plucker = camera.conditions[:, 0], camera.plucker[:, :, 0]
    return Images(z.half(), conditions, plucker.half(), words, pixels[:, -1].half(), view.half())


class ImagePool:
    """The latest examples of a stream; `draw` gives the batch of a step."""

    def __init__(self, config: ImageConfig, vae: TinyVAE, width: int, workers: int = 0) -> None:
        self.config, self.vae, self.workers = config, vae, workers
        self.device = vae.latent_mean.device
        text = HashTextEncoder(width=width).encode(captions())
        self.text = TextTokens(*(x.to(self.device) for x in text))
        self._stream: Stream | None = None
        self._groups: list[Images] = []
        self._images: Images | None = None

    def draw(self, step: int, generator: torch.Generator) -> ImageBatch:
        """Return the batch of `step`; the pool first takes up what the stream has for it."""
        images = self.images(step)
        chosen = torch.randint(0, len(images.z), (self.config.batch,), generator=generator)
        return self.batch(select(images, chosen), generator)

    def batch(self, images: Images, generator: torch.Generator, dropout: bool = True) -> ImageBatch:
        """Return examples as a batch; their views, and which go without a caption, are drawn here."""
        cfg, count = self.config, len(images.z)
        kind = rand((count, 1, 1, 1), generator, self.device)
        masked = mask_of_frame(images.frame.float(), generator)
        view = torch.where(kind < cfg.empty + cfg.masked, masked, images.view.float())
        view = torch.where(kind < cfg.empty, 0.0, view)
        kept = rand((count, 1), generator, self.device) >= (cfg.text_dropout if dropout else 0.0)
        text = TextTokens(self.text.tokens[images.words], self.text.mask[images.words] * kept.float())
        camera = CameraInput(images.conditions[:, None], images.plucker.float()[:, :, None])
        return ImageBatch(images.z.float()[:, :, None], camera, text, memory_tokens(view[:, None]))

    def close(self) -> None:
        """End the processes that plan ahead."""
        if self._stream is not None:
            self._stream.close()

    def images(self, step: int) -> Images:
        """Return the pool of `step`."""
        cfg = self.config
        end = cfg.groups_before(step)
        first = max(0, end - (-(-cfg.pool // cfg.entries_of_group)))
        if self._stream is None or self._stream.next < first:
            self.close()
            self._stream = Stream(cfg.stream, first, self.workers)
            self._groups, self._images = [], None
        while self._stream.next < end:
            number = self._stream.next
            own = torch.Generator().manual_seed((cfg.stream.seed << 32) + number)
            self._groups.append(images_of_plan(next(self._stream), self.vae, cfg, own, self.device))
            self._images = None
        if self._images is None:
            self._groups = self._groups[-(end - first) :]
            self._images = cat(self._groups)
        return self._images


def mask_of_frame(frame: Tensor, generator: torch.Generator) -> Tensor:
    """Return views `(n, 5, H, W)` (r, g, b, d, mask) that show a random part of frames `(n, 4, H, W)`.

    A half plane, in half of the cases with blotches missing; colours blurred in four of ten, noised.
    """
    count, _, height, width = frame.shape
    device = frame.device

    def uniform(*shape: int) -> Tensor:
        return rand(shape, generator, device)

    lines = torch.linspace(-1, 1, height, device=device)[:, None]
    columns = torch.linspace(-1, 1, width, device=device)
    angle, offset = 2 * math.pi * uniform(count, 1, 1), 1.6 * uniform(count, 1, 1) - 0.8
    half = torch.cos(angle) * columns + torch.sin(angle) * lines > offset  # (n, H, W)
    coarse = F.interpolate(uniform(count, 1, 8, 8), size=(height, width), mode="bicubic")[:, 0]
    whole = uniform(count, 1, 1) < 0.5
    shown = (half & (whole | (coarse > 0.6 * uniform(count, 1, 1)))).float()[:, None]
    blurred = F.avg_pool2d(frame, 3, 1, 1, count_include_pad=False)
    seen = torch.where(uniform(count, 1, 1, 1) < 0.4, blurred, frame)
    noise = torch.randn(seen.shape, generator=generator).to(device)
    seen = seen + 0.04 * uniform(count, 1, 1, 1).square() * noise
    return torch.cat([seen * shown, shown], dim=1)


def image_loss(
    model: DiT, batch: ImageBatch, config: ImageConfig, generator: torch.Generator, weights: Tensor
) -> Tensor:
    """Return the squared error `(B,)` of every image; weights `(C,)` are w^2 per channel."""
    z = batch.z
    count, device = len(z), z.device
    normal = torch.randn((count, 1), generator=generator).to(device)
    sigma = torch.sigmoid(config.sigma_mean + config.sigma_std * normal)
    sigma = torch.where(rand((count, 1), generator, device) < config.pure_noise, 1.0, sigma)
    eps = torch.randn(z.shape, generator=generator).to(device)
    x = z + (eps - z) * sigma[:, :, None, None, None]
    velocity, _ = model(x, 1000 * sigma, batch.text, batch.camera, memory=batch.memory)
    squares = (velocity.float() - (eps - z)).square().mean((2, 3, 4))  # (B, C)
    return (squares * weights.to(device)).mean(1)


def image_step(
    pool: ImagePool, bf16: bool, weights: Tensor
) -> Callable[[nn.Module, torch.Generator, int], tuple[Tensor, dict[str, float]]]:
    """Return the step function for `run.Run`."""

    def step(model: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(model, DiT)
        batch = pool.draw(number, generator)
        with fast_attention(pool.device, bf16):
            return image_loss(model, batch, pool.config, generator, weights).mean(), {}

    return step


@torch.no_grad()
def draw_images(model: DiT, batch: ImageBatch, sigmas: tuple[float, ...], seed: int = 7) -> Tensor:
    """Return latents `(B, C, h, w)` drawn along noise levels from 1 down to 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch.z.shape, generator=generator).to(batch.z.device)

    def velocity(x: Tensor, sigma: float) -> Tensor:
        level = torch.full((len(x), 1), 1000 * sigma, device=x.device)
        return model(x, level, batch.text, batch.camera, memory=batch.memory)[0].float()

    return euler_path(velocity, x, sigmas)[-1][:, :, 0]
