"""Training of the pixel refiner: decoded guesses and damaged memory in, true frames out.

At run time the decoder gets latents that the transformer guessed (blurred, slightly wrong) and the memory
holds earlier frames of the world itself. Here both are imitated: latents of true chunks are faded in their
fine channels, blurred, mixed with their predecessor and noise; keyframes are true frames or decoded ones,
then corrupted (`corrupt_keyframes`). Clips with events teach the gate to drop keyframes of the old light.

    loss = |e| + e^2 + |grad e|,   e = refined - true pixels, inverse depth at half weight

A refiner with noise levels is trained as a truncated flow (docs/reference/training.md#refiner) between the
true frames x_h and the partly noised guess x_1 = (1 - s_0) x_l + s_0 eps: at a level s in (0, s_0], from a
shifted logit-normal that ends there,

    x = (1 - s/s_0) x_h + (s/s_0) x_1,    loss = |v(x, s) - (x_1 - x_h) / s_0|^2,    v = (x - x_0) / s
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.model.data.latents import LatentShards
from wm_env.model.data.rendered import Clips
from wm_env.model.flow import shift_sigma
from wm_env.model.pixels import inverse_depth, to_pixels
from wm_env.model.point_memory import READ_BEST, choose_slots, kept_frames, splat
from wm_env.model.refiner.tiny import TinyRefiner, TinyRefinerConfig
from wm_env.model.storage.checkpoint import Card, build_network, load_checkpoint
from wm_env.model.training.autoencoder import load_vae, same_latents
from wm_env.model.training.export import Export
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.keyframes import corrupt_keyframes, rand
from wm_env.model.training.losses.codec import codec_loss, psnr
from wm_env.model.training.precision import bf16_supported
from wm_env.model.training.run import Run
from wm_env.model.training.schedule import LoopConfig
from wm_env.model.training.world_folder import export_beside_base
from wm_env.model.vae.tiny import GROUP, TinyVAE

SHIFT = 3.0  # of the noise levels that a flow is trained at
LOWEST = 0.05  # smallest of them: the loss has 1/s^2 of the error of x_0
START_SLOT = READ_BEST  # where `choose_slots` puts frame 0: after the slots chosen for what they add


@dataclass(frozen=True, kw_only=True)
class RefinerTraining:
    """Sizes of a run; `error` is the largest strength of the imperfections of a latent."""

    refiner: TinyRefinerConfig
    loop: LoopConfig
    batch: int = 16
    error: float = 0.8
    bf16: bool = True


def corrupt_latents(z: Tensor, error: float, generator: torch.Generator) -> Tensor:
    """Return pairs of latents `(B, P, 2, C, h, w)` (previous, current) with errors like those of a guess.

        z' = (1 - a k / C) z,    z' + b (blur(z') - z') + c (previous - z') + 0.3 d noise

    for channel k: a guess is an average over what may be there, and the channels are ordered from coarse to
    fine. a, b, c, d are up to `error`, squared towards zero; c at a third of it.
    """
    a, b, c, d = error * rand((4, *z.shape[:3], 1, 1, 1), generator, z.device).square()
    ramp = torch.linspace(0, 1, z.shape[3], device=z.device)[:, None, None]  # (C, 1, 1)
    z = z * (1 - a * ramp)
    blurred = F.avg_pool2d(z.flatten(0, 2), 3, 1, 1, count_include_pad=False).view(z.shape)
    noise = torch.randn(z.shape, generator=generator).to(z.device)
    return z + b * (blurred - z) + 0.33 * c * (z[:, :, :1] - z) + 0.3 * d * noise


class RefinerSample(NamedTuple):
    """One chunk each of B clips, and the keyframes that the memory would show it (S = 4, frame 0 is slot 2).

    z: `(B, S + 1, 2, C, h, w)` latents, previous and current, of the keyframes' chunks and of the chunk.
    keyframes: `(B, S, 4, H, W)` true pixels; source `(B, S, 4, 4)` their
    poses; valid `(B, S)` those that exist. target `(B, 4, 4, 4)`, truth `(B, 4, 4, H, W)`: poses and pixels
    of the chunk. intrinsics `(B, 4)`.
    """

    z: Tensor
    keyframes: Tensor
    source: Tensor
    valid: Tensor
    target: Tensor
    truth: Tensor
    intrinsics: Tensor


def select_keyframes(clips: Clips, clip: int, chunk: int) -> tuple[list[int], Tensor]:
    """Return the chunks of a clip whose last frames the memory shows at `chunk`, and which count `(4,)` bool,
    as in `point_memory.choose_slots`: two for what they add, frame 0, the newest."""
    numbers, valid = kept_frames(clips.poses(clip)[None, : GROUP * (chunk - 1) + 1 : GROUP])
    kept: list[int] = numbers[valid].tolist()
    found = clips.read(clip, [GROUP * t for t in kept])
    target = clips.poses(clip)[None, GROUP * chunk]
    everything = torch.ones(1, len(kept), dtype=torch.bool)
    chosen, counts = choose_slots(
        inverse_depth(found.depth)[None], found.c2w[None], everything, target, found.intrinsics[None]
    )
    return [kept[i] for i in chosen[0].tolist()], counts[0]


def sample(shards: LatentShards, batch: int, generator: torch.Generator) -> RefinerSample:
    """Return `batch` random chunks of random clips."""
    clips = torch.randint(len(shards), (batch,), generator=generator).tolist()
    chunks = torch.randint(1, shards.groups, (batch,), generator=generator).tolist()
    selected = [select_keyframes(shards.clips, i, t) for i, t in zip(clips, chunks, strict=True)]
    needed = torch.tensor([[*found, t] for (found, _), t in zip(selected, chunks, strict=True)])  # (B, S + 1)
    window = torch.stack([needed - 1, needed], dim=2).clamp_min(0)  # (B, S + 1, 2)
    rows = np.array(clips)
    z = torch.from_numpy(shards.z[rows[:, None, None], window.numpy()]).float()
    start = torch.from_numpy(shards.start[rows, 0]).float()[:, None, None]
    z = torch.where((window == 0)[..., None, None, None], start, z)
    frames = [
        [GROUP * s for s in found] + list(range(GROUP * t - 3, GROUP * t + 1))
        for (found, _), t in zip(selected, chunks, strict=True)
    ]
    clip = shards.clips.read_many(clips, frames)
    pixels = to_pixels(clip.rgb, clip.depth)  # (B, S + 4, 4, H, W)
    slots = needed.shape[1] - 1
    return RefinerSample(
        z,
        pixels[:, :slots],
        clip.c2w[:, :slots],
        torch.stack([valid for _, valid in selected]),
        clip.c2w[:, slots:],
        pixels[:, slots:],
        clip.intrinsics,
    )


@torch.no_grad()
def make_batch(
    vae: TinyVAE, sampled: RefinerSample, error: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return decoded `(B, 4, 4, H, W)` and seen `(B, 4, 5, H, W)` pixels of the sample's chunk.

    Without a generator nothing is damaged but by the codec and the predicted depth (evaluation).
    """
    z, keyframes = sampled.z, sampled.keyframes.clone()
    start = keyframes[:, START_SLOT, :3].contiguous(memory_format=torch.channels_last)
    keyframes[:, START_SLOT, 3] = vae.depth_net(start, sampled.intrinsics).float()  # a world is given colours
    if generator is not None:
        z = corrupt_latents(z, error, generator)
        batch, slots = keyframes.shape[:2]
        flat = z[:, :-1].flatten(0, 1)  # (B S, 2, C, h, w)
        decoded = vae.decode(flat[:, 1], vae.start_decoding(flat[:, 0]))[0][:, -1].float()
        share = rand((batch, 1, 1, 1, 1), generator, z.device)
        share = share * (rand((batch, 1, 1, 1, 1), generator, z.device) < 0.5)
        mixed = keyframes + share * (decoded.unflatten(0, (batch, slots)) - keyframes)
        exact = torch.arange(slots, device=z.device) == START_SLOT
        keyframes = torch.where(exact[:, None, None, None], keyframes, corrupt_keyframes(mixed, generator))
    chunk, _ = vae.decode(z[:, -1, 1], vae.start_decoding(z[:, -1, 0]))
    seen = splat(keyframes, sampled.source, sampled.valid, sampled.target, sampled.intrinsics)
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
    sampled = RefinerSample(*(part.to(device) for part in sample(shards, config.batch, generator)))
    with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16 and bf16_supported(device)):
        decoded, seen = make_batch(vae, sampled, config.error, generator)
        return refiner_loss(refiner, decoded, seen, sampled.truth, generator), {}


def refiner_loss(
    refiner: TinyRefiner, decoded: Tensor, seen: Tensor, goal: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the loss of the module docstring for decoded, goal `(B, 4, 4, H, W)`, seen `(B, 4, 5, H, W)`."""
    sigmas = refiner.config.sigmas
    if not sigmas:
        return codec_loss(refiner(decoded, seen).float() - goal)
    sigma = truncated_levels(len(decoded), sigmas[0], generator).to(decoded.device)
    level = sigma[:, None, None, None, None]
    noised = (1 - sigmas[0]) * decoded + sigmas[0] * normal_like(decoded, generator)  # x_1
    x = goal + (level / sigmas[0]) * (noised - goal)
    velocity = (x - refiner.aim(decoded, seen, x, sigma).float()) / level
    depth_half = torch.tensor([1.0, 1.0, 1.0, 0.5], device=decoded.device)[:, None, None]
    return ((velocity - (noised - goal) / sigmas[0]) * depth_half).square().mean()


def truncated_levels(count: int, highest: float, generator: torch.Generator) -> Tensor:
    """Return `(count,)` levels in [0.05, highest]: shift(sigmoid(n)) of normal n, those above left out."""
    unshifted = highest / (SHIFT - (SHIFT - 1) * highest)  # inverse of `shift_sigma`
    end = torch.special.ndtr(torch.logit(torch.tensor(unshifted, dtype=torch.float64)))
    share = torch.rand(count, generator=generator, dtype=torch.float64) * end
    normal = torch.special.ndtri(share.clamp_min(1e-9))
    return shift_sigma(torch.sigmoid(normal), SHIFT).clamp(LOWEST, highest).float()


def normal_like(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal noise of the shape and on the device of `like`."""
    return torch.randn(like.shape, generator=generator).to(like.device)


def refine_with(refiner: TinyRefiner, decoded: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
    """Return the refined frames, with noise from `generator` where the refiner needs some."""
    return refiner(decoded, seen, normal_like(decoded, generator) if refiner.config.sigmas else None)


@torch.no_grad()
def evaluate(refiner: TinyRefiner, vae: TinyVAE, shards: LatentShards, batches: int = 8) -> dict[str, float]:
    """Return held-out PSNR of decoded and refined frames: of latents as encoded, and of corrupted ones."""
    device = refiner.head.weight.device
    generator = torch.Generator().manual_seed(5)
    found: dict[str, list[Tensor]] = {}
    for _ in range(batches):
        sampled = RefinerSample(*(part.to(device) for part in sample(shards, 8, generator)))
        for name, noise in (("clean", None), ("rough", generator)):
            decoded, seen = make_batch(vae, sampled, 0.8, noise)
            refined = refine_with(refiner, decoded, seen, generator)
            for what, frames in (("decoded", decoded), ("refined", refined)):
                value = psnr(frames[:, :, :3], sampled.truth[:, :, :3]).mean()
                found.setdefault(f"{what}_{name}", []).append(value)
    return {name: float(torch.stack(values).mean()) for name, values in found.items()}


def load_refiner(path: Path) -> tuple[TinyRefiner, Card]:
    """Return the refiner of a `refiner.safetensors` of `train_refiner`, in eval mode, and its card."""
    tensors, card = load_checkpoint(path)
    config = TinyRefinerConfig(**card["settings"]["refiner"])
    refiner = build_network(lambda: TinyRefiner(config), tensors, str(path))
    return refiner.to(memory_format=torch.channels_last).eval(), card  # type: ignore[call-overload]


def build(config: RefinerTraining, inputs: Inputs, resources: Resources) -> Run:
    """Return the run in its folder, begun or resumed; it leaves `refiner.safetensors`.

    inputs: `data`, `latents`, and the `vae` that made them.
    """
    data, latents, out = inputs.need("data"), inputs.need("latents"), resources.out
    weights_of_vae = inputs.need("vae")
    vae, card = load_vae(weights_of_vae)
    vae = vae.to(resources.device).requires_grad_(False)
    train = LatentShards(data / "train", latents / "train", *same_latents(card))
    val = LatentShards(data / "val", latents / "val", *same_latents(card))
    torch.manual_seed(config.loop.seed)
    refiner = TinyRefiner(config.refiner).to(resources.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def leave(weights: Path, metrics: Mapping[str, float]) -> None:
        parts = {"vae": weights_of_vae, "refiner": weights}
        export_beside_base(card, parts, name=out.name, out=out / "world", metrics=metrics)

    return Run(
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
        export=Export(name="refiner", world=leave),
    )
