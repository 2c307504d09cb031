"""Training of the pixel refiner: decoded guesses and damaged memory in, true frames out.

At run time the decoder gets latents that the transformer guessed (blurred, slightly wrong) and the memory
holds earlier frames of the world itself. Here both are imitated: latents of true chunks are mixed with noise,
with their spatial blur and their predecessor; keyframes are true frames or decoded ones, then damaged
(`keyframes.damage`). Clips with events teach the gate to drop keyframes that show the old light.

    loss = |e| + e^2 + |grad e|,   e = refined - true pixels, inverse depth at half weight
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.model.checkpoint import Card, load_checkpoint, load_into, save_checkpoint
from wm_env.model.data.latents import LatentShards
from wm_env.model.memory import splat
from wm_env.model.refiner.tiny import TinyRefiner, TinyRefinerConfig
from wm_env.model.training.keyframes import damage, rand
from wm_env.model.training.loop import LoopConfig, Run
from wm_env.model.training.vae import bf16_supported, codec_loss, load_vae, psnr
from wm_env.model.vae.tiny import GROUP, TinyVAE, inverse_depth, to_pixels


@dataclass(frozen=True, kw_only=True)
class RefinerTraining:
    """Sizes of a run; `error` is the largest share of noise, blur and predecessor in a latent."""

    refiner: TinyRefinerConfig
    loop: LoopConfig
    batch: int = 16
    error: float = 0.5
    bf16: bool = True


def preset(name: str) -> RefinerTraining:
    """Return the training named `tiny` (the embedded weights) or `smoke` (seconds, for tests)."""
    if name == "tiny":
        loop = LoopConfig(total_steps=1500, lr=2e-3, log_every=50, eval_every=250, ema_decay=0.995)
        return RefinerTraining(refiner=TinyRefinerConfig(), loop=loop)
    if name == "smoke":
        loop = LoopConfig(total_steps=40, lr=3e-3, warmup_steps=5, log_every=10, eval_every=40, ema_decay=0.8)
        return RefinerTraining(refiner=TinyRefinerConfig(width=8, blocks=1), loop=loop, batch=4, bf16=False)
    raise ValueError(f"unknown preset {name!r}; there are tiny and smoke")


def imperfect(z: Tensor, error: float, generator: torch.Generator) -> Tensor:
    """Return latents `(B, T, C, h, w)` with errors like those of a guess, stronger in some clips than others.

    z + a (blur(z) - z) + b (previous - z) + c noise;   a, b, c up to `error`, squared towards zero.
    """
    batch, frames = z.shape[:2]
    a, b, c = error * rand((3, batch, frames, 1, 1, 1), generator, z.device).square()
    blurred = F.avg_pool2d(z.flatten(0, 1), 3, 1, 1, count_include_pad=False).view(z.shape)
    previous = torch.cat([z[:, :1], z[:, :-1]], dim=1)
    noise = torch.randn(z.shape, generator=generator).to(z.device)
    return z + a * (blurred - z) + b * (previous - z) + c * noise


class Moment(NamedTuple):
    """One chunk each of B clips, with what came before it.

    z: `(B, 5, C, h, w)` latents of chunks t-4 .. t (before chunk 0: the start latent). keyframes:
    `(B, 3, 4, H, W)` true pixels of frame 0 (depth predicted) and of the last frames of chunks t-3 and t-1;
    source `(B, 3, 4, 4)` their poses; valid `(B, 3)` those that exist. target `(B, 4, 4, 4)`, truth
    `(B, 4, 4, H, W)`: poses and pixels of chunk t.
    """

    z: Tensor
    keyframes: Tensor
    source: Tensor
    valid: Tensor
    target: Tensor
    truth: Tensor
    intrinsics: Tensor


def sample(shards: LatentShards, batch: int, generator: torch.Generator) -> Moment:
    """Return `batch` random chunks of random clips."""
    clips = torch.randint(len(shards), (batch,), generator=generator)
    chunks = torch.randint(1, shards.groups, (batch,), generator=generator)
    window = (chunks[:, None] + torch.arange(-4, 1)).clamp_min(0)  # (B, 5)
    z = torch.from_numpy(shards.z[clips[:, None].numpy(), window.numpy()]).float()
    start = torch.from_numpy(shards.start[clips.numpy(), 0]).float()
    z = torch.where((window == 0)[:, :, None, None, None], start[:, None], z)
    sources = [[0, GROUP * max(0, t - 3), GROUP * (t - 1)] for t in chunks.tolist()]
    targets = [list(range(GROUP * t - 3, GROUP * t + 1)) for t in chunks.tolist()]
    clip = shards.clips.read_many(clips.tolist(), [s + f for s, f in zip(sources, targets, strict=True)])
    pixels = to_pixels(clip.rgb, clip.depth)  # (B, 3 + 4, 4, H, W)
    pixels[:, 0, 3] = inverse_depth(torch.from_numpy(shards.depth0[clips.numpy(), 0]).float())
    valid = torch.stack([torch.ones_like(chunks), chunks - 3, chunks - 1], dim=1) >= 1  # (B, 3)
    return Moment(z, pixels[:, :3], clip.c2w[:, :3], valid, clip.c2w[:, 3:], pixels[:, 3:], clip.intrinsics)


@torch.no_grad()
def make_batch(
    vae: TinyVAE, moment: Moment, error: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return decoded `(B, 4, 4, H, W)` and seen `(B, 4, 5, H, W)` pixels of the moment's chunk.

    Without a generator nothing is damaged but by the codec and the predicted depth (evaluation).
    """
    z, keyframes = moment.z, moment.keyframes
    if generator is not None:
        z = imperfect(z, error, generator)
        pair = [1, 3]  # chunks t-3 and t-1
        decoded = [vae.decode(z[:, k], vae.start_decoding(z[:, k - 1]))[0][:, -1].float() for k in pair]
        share = rand((len(z), 1, 1, 1, 1), generator, z.device) * (
            rand((len(z), 1, 1, 1, 1), generator, z.device) < 0.5
        )
        recent = keyframes[:, 1:] + share * (torch.stack(decoded, dim=1) - keyframes[:, 1:])
        keyframes = torch.cat([keyframes[:, :1], damage(recent, generator)], dim=1)
    chunk, _ = vae.decode(z[:, 4], vae.start_decoding(z[:, 3]))
    seen = splat(keyframes, moment.source, moment.valid, moment.target, moment.intrinsics)
    return chunk.float(), seen


def training_step(
    refiner: TinyRefiner,
    vae: TinyVAE,
    shards: LatentShards,
    config: RefinerTraining,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one batch."""
    device = refiner.head.weight.device
    moment = Moment(*(part.to(device) for part in sample(shards, config.batch, generator)))
    with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16 and bf16_supported(device)):
        decoded, seen = make_batch(vae, moment, config.error, generator)
        refined = refiner(decoded, seen)
    return codec_loss(refined.float() - moment.truth), {}


@torch.no_grad()
def evaluate(refiner: TinyRefiner, vae: TinyVAE, shards: LatentShards, batches: int = 8) -> dict[str, float]:
    """Return held-out PSNR of decoded and refined frames: of latents as encoded, and of imperfect ones."""
    device = refiner.head.weight.device
    generator = torch.Generator().manual_seed(5)
    found: dict[str, list[Tensor]] = {}
    for _ in range(batches):
        moment = Moment(*(part.to(device) for part in sample(shards, 8, generator)))
        for name, noise in (("clean", None), ("rough", generator)):
            decoded, seen = make_batch(vae, moment, 0.5, noise)
            refined = refiner(decoded, seen)
            for what, frames in (("decoded", decoded), ("refined", refined)):
                value = psnr(frames[:, :, :3], moment.truth[:, :, :3]).mean()
                found.setdefault(f"{what}_{name}", []).append(value)
    return {name: float(torch.stack(values).mean()) for name, values in found.items()}


def load_refiner(path: Path) -> tuple[TinyRefiner, Card]:
    """Return the refiner of a `refiner.safetensors` of `train_refiner`, in eval mode, and its card."""
    tensors, card = load_checkpoint(path)
    refiner = TinyRefiner(TinyRefinerConfig(**card["settings"]["refiner"]))
    load_into(refiner, tensors, str(path))
    return refiner.to(memory_format=torch.channels_last).eval(), card  # type: ignore[call-overload]


def train_refiner(
    *,
    data: Path,
    latents: Path,
    vae_path: Path,
    out: Path,
    config: RefinerTraining,
    seconds: float | None = None,
    steps: int | None = None,
    device: str = "cpu",
) -> Run:
    """Train, or resume, in `out`; write `refiner.safetensors` (EMA weights) after the slice.

    data, latents: folders with `train/` and `val/` shards and their latents made by the weights `vae_path`.
    """
    vae, card = load_vae(vae_path)
    vae = vae.to(device).requires_grad_(False)
    train = LatentShards(data / "train", latents / "train", card["sha256"])
    val = LatentShards(data / "val", latents / "val", card["sha256"])
    torch.manual_seed(config.loop.seed)
    refiner = TinyRefiner(config.refiner).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(
        model=refiner,
        step_fn=lambda model, generator, _: training_step(model, vae, train, config, generator),  # type: ignore[arg-type]
        config=config.loop,
        out=out,
        settings={
            "refiner": asdict(config.refiner),
            "batch": config.batch,
            "error": config.error,
            "vae": card["sha256"],
        },
        evaluate=lambda model: evaluate(model, vae, val),  # type: ignore[arg-type]
    )
    run.advance(seconds=seconds, steps=steps)
    save_checkpoint(out / "refiner.safetensors", run.ema_weights(), run.card())
    return run
