"""Training of the tiny autoencoder and its depth network, together, on rendered clips.

    codec   mean|e| + 2 mean e^2 + |grad e|,   e = decode(z + noise) - pixels, inverse depth at half weight
    depth   mean|log(iz / iz*)| + mean|iz - iz*|,   iz = 1.2 m / z
    kl      mean KL(N(z, t^2) || N(0, 1)) of the raw latents z, t the width of the noise; optional

Latents are normalised with the statistics of the batch, so that the noise on them (a fixed posterior width,
not a learned one) cannot be made small by scaling the latents up; running statistics are kept in the
buffers that encoding uses afterwards. The linear path starts as principal components and learns ten times
slower: the full rate first destroys it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wm_env.model.data.rendered import Clips, open_clips
from wm_env.model.pixels import inverse_depth, metric_depth, to_pixels
from wm_env.model.storage.checkpoint import load_card
from wm_env.model.training.autoencoder import load_vae
from wm_env.model.training.export import Export
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.losses.codec import codec_loss, depth_loss, kl_loss, psnr
from wm_env.model.training.optimizers import ParameterGroup
from wm_env.model.training.precision import bf16_supported
from wm_env.model.training.run import Run
from wm_env.model.training.schedule import LoopConfig
from wm_env.model.training.world_folder import export_beside_base
from wm_env.model.vae.tiny import GROUP, TinyVAE, TinyVAEConfig, init_from_patches

LEVEL = 0.9995  # cosine of the tilt (1.8 deg) up to which a frame counts as a possible start image


@dataclass(frozen=True, kw_only=True)
class VAETraining:
    """Sizes of a run: `batch` windows of `groups` groups, `images` for the depth network, per step."""

    vae: TinyVAEConfig
    loop: LoopConfig
    batch: int = 20
    groups: int = 4
    images: int = 96
    noise: float = 0.12  # largest standard deviation of the noise on a normalised latent
    start_fraction: float = 0.2  # windows that begin with the start image
    init_windows: int = 200
    kl: float = 0.0  # weight of the KL term; the embedded weights were trained without it
    bf16: bool = True


def window_frames(first_group: int, groups: int) -> list[int]:
    """Return the pixel frames of `groups` groups from `first_group` on; group 0 is frame 0 four times."""
    return [max(0, GROUP * (first_group + g) - 3 + k) for g in range(groups) for k in range(GROUP)]


def sample_windows(
    shards: Clips, batch: int, groups: int, start_fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return pixels `(B, groups, 4, 4, H, W)` and which windows begin with the start image `(B,)` bool."""
    total = (shards.frames - 1) // GROUP + 1
    clips = torch.randint(len(shards), (batch,), generator=generator).tolist()
    firsts = torch.randint(total - groups + 1, (batch,), generator=generator)
    firsts = torch.where(torch.rand(batch, generator=generator) < start_fraction, 0, firsts)
    clip = shards.read_many(clips, [window_frames(f, groups) for f in firsts.tolist()])
    pixels = to_pixels(clip.rgb, clip.depth).unflatten(1, (groups, GROUP))
    if float(torch.rand((), generator=generator)) < 0.5:
        pixels = pixels.flip(-1)
    return pixels, firsts == 0


def sample_images(shards: Clips, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return level views: colours `(B, 3, H, W)`, inverse depth `(B, H, W)`, intrinsics `(B, 4)`."""
    clips = torch.randint(len(shards), (batch,), generator=generator).tolist()
    tries = torch.randint(shards.frames, (batch, 8), generator=generator)
    frames = []
    for clip, options in zip(clips, tries.tolist(), strict=True):
        pose = shards.poses(clip)[options]  # (8, 4, 4), frame 0 is level
        level = (pose[:, 1, 1] > LEVEL) & (pose[:, 1, 3].abs() < 0.05)
        frames.append([options[int(level.int().argmax())] if bool(level.any()) else 0])
    clip = shards.read_many(clips, frames)
    pixels = to_pixels(clip.rgb[:, 0], clip.depth[:, 0])  # (B, 4, H, W)
    if float(torch.rand((), generator=generator)) < 0.5:
        pixels = pixels.flip(-1)
    return pixels[:, :3], pixels[:, 3], clip.intrinsics


def training_step(
    vae: TinyVAE, shards: Clips, config: VAETraining, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one batch; moves the running latent statistics of `vae` by 2%."""
    device = vae.latent_mean.device
    pixels, at_start = sample_windows(shards, config.batch, config.groups, config.start_fraction, generator)
    colours, inverse, intrinsics = sample_images(shards, config.images, generator)
    pixels, at_start = pixels.to(device), at_start.to(device)
    batch, groups = pixels.shape[:2]
    with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16 and bf16_supported(device)):
        raw = vae.encode_raw(pixels.flatten(0, 1)).float()  # (B T, C, h, w)
        mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
        z = (raw - mean[:, None, None]) / std[:, None, None]
        level = config.noise * torch.rand(batch * groups, 1, 1, 1, generator=generator)
        divergence = kl_loss(mean, std, level.square().mean().sqrt().to(device))
        z = z + (level * torch.randn(z.shape, generator=generator)).to(device)
        z = z.unflatten(0, (batch, groups))
        previous = torch.cat([z[at_start, 0], z[:, :-1].flatten(0, 1)])  # the start group precedes itself
        latent = torch.cat([z[at_start, 0], z[:, 1:].flatten(0, 1)])
        decoded, _ = vae.decode(latent, vae.start_decoding(previous))
        colours = colours.to(device).contiguous(memory_format=torch.channels_last)
        predicted = vae.depth_net(colours, intrinsics.to(device))
    truth = torch.cat([pixels[at_start, 0], pixels[:, 1:].flatten(0, 1)])
    codec = codec_loss(decoded.float() - truth)
    depth = depth_loss(predicted.float(), inverse.to(device))
    with torch.no_grad():
        vae.latent_mean.lerp_(mean, 0.02)
        vae.latent_std.lerp_(std, 0.02)
    loss = codec + 0.5 * depth
    if config.kl:
        loss = loss + config.kl * divergence
    metrics = {"codec": codec, "depth": depth, "kl": divergence}
    return loss, {name: float(value.detach()) for name, value in metrics.items()}


@torch.no_grad()
def evaluate(vae: TinyVAE, shards: Clips, clips: int = 32) -> dict[str, float]:
    """Return held-out quality: PSNR of clips and start frames, median relative depth errors."""
    device = vae.latent_mean.device
    values: dict[str, list[Tensor]] = {n: [] for n in ("psnr", "psnr_start", "depth_codec", "depth_image")}
    for index in range(min(clips, len(shards))):
        clip = shards.read(index)
        rgb, depth = clip.rgb[None].to(device), clip.depth[None].to(device)
        truth = to_pixels(rgb, depth)
        latents = vae.encode_clip(rgb, depth)
        start, predicted, _ = vae.encode_image(rgb[:, 0], clip.intrinsics[None].to(device))
        decoded = vae.decode_clip(torch.cat([start[:, None], latents[:, 1:]], dim=1))
        frames = psnr(decoded[0, :, :3], truth[0, :, :3])
        values["psnr"].append(frames[1:].mean())
        values["psnr_start"].append(frames[0])
        true = metric_depth(inverse_depth(depth))
        values["depth_codec"].append((metric_depth(decoded[:, 1:, 3]) / true[:, 1:] - 1).abs().median())
        values["depth_image"].append((predicted / true[:, 0] - 1).abs().median())
    return {name: float(torch.stack(found).mean()) for name, found in values.items()}


def linear_is_slow(name: str, parameter: nn.Parameter) -> ParameterGroup:
    """Put the linear path "slow"."""
    return "slow" if name.startswith("linear_") else "adamw"


def build(config: VAETraining, inputs: Inputs, resources: Resources) -> Run:
    """Return the run in its folder, begun or resumed; it leaves `vae.safetensors`.

    inputs: `data`; `init`, a `vae.safetensors` to adapt to these clips, whose sizes take the place of those
    of `config`.
    """
    data, out = inputs.need("data"), resources.out
    train, val = open_clips(data / "train", resources.workers), open_clips(data / "val")
    torch.manual_seed(config.loop.seed)
    given, init_sha = None, None
    if inputs.init is not None:
        given, card = load_vae(inputs.init)
        init_sha = card["sha256"]
        config = dataclasses.replace(config, vae=given.config)
    vae = TinyVAE(config.vae)
    if given is not None:
        vae.load_state_dict(given.state_dict())
    elif not (out / "state.pt").exists():
        generator = torch.Generator().manual_seed(config.loop.seed + 1)
        pixels, _ = sample_windows(train, config.init_windows, 2, config.start_fraction, generator)
        init_from_patches(vae, pixels[:, 1], pixels[:, 0])
    vae = vae.to(resources.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def leave(weights: Path, metrics: Mapping[str, float]) -> None:
        own = load_card(weights)
        export_beside_base(own, {"vae": weights}, name=out.name, out=out / "world", metrics=metrics)

    return Run(
        model=vae,
        step_fn=lambda model, generator, _: training_step(model, train, config, generator),  # type: ignore[arg-type]
        config=config.loop,
        out=out,
        settings={
            "vae": asdict(config.vae),
            "batch": config.batch,
            "groups": config.groups,
            **({"kl": config.kl} if config.kl else {}),
            **({"init_sha256": init_sha} if init_sha else {}),
        },
        evaluate=lambda model: evaluate(model, val),  # type: ignore[arg-type]
        rule=linear_is_slow,
        facts={"data": {"clips": len(train), "frames": train.frames}},
        group=resources.group,
        export=Export(name="vae", world=leave),
        close=train.close,
    )
