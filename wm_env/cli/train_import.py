"""`wm-env train import|parts`: recorded clips as training data, and weights to go on from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from wm_env.model.data.clip_files import ClipFiles
from wm_env.model.data.importing import BadClips, ImportConfig, import_clips, predicted_depth, report_lines
from wm_env.model.data.latent_zip import Decode, latent_clips
from wm_env.model.data.layouts import (
    Pictures,
    colmap_clips,
    episode_clips,
    polycam_clips,
    re10k_clips,
    record3d_clips,
    saved_clips,
    transforms_clips,
    tum_clips,
    video_clips,
)
from wm_env.model.data.recorded import ClipRef, RecordedClip
from wm_env.model.embedded import MAX_TRANSLATION, embedded_vae, write_parts
from wm_env.model.pixels import to_rgb
from wm_env.model.storage.folder import look_into, only
from wm_env.model.training.autoencoder import load_vae
from wm_env.model.vae.ltx2 import load_ltx2_vae
from wm_env.model.vae.tiny import GROUP, TinyVAE
from wm_env.progress import Bar

_EXPECTED = {
    "video": "NAME.mp4 beside NAME.npz or NAME.json",
    "re10k": "NAME.txt beside NAME.mp4 or a folder NAME of TIMESTAMP.png",
    "latents": "STEM.zip with KEY.json",
    "episodes": "episode_*/ of `wm-env record --format folder`",
    "clips": "camera.json with frames/, as wm_env.PosedClip.save writes",
    "transforms": "transforms.json",
    "polycam": "keyframes/ of Polycam's raw data",
    "record3d": "metadata with rgbd/ of Record3D",
    "tum": "groundtruth.txt with rgb/",
    "colmap": "sparse/0 of COLMAP with images/",
}
_LISTS: dict[str, Callable[[Path, Pictures], list[ClipRef]]] = {
    "video": video_clips,
    "re10k": re10k_clips,
    "episodes": episode_clips,
    "clips": saved_clips,
    "transforms": transforms_clips,
    "polycam": polycam_clips,
    "record3d": record3d_clips,
    "tum": tum_clips,
    "colmap": colmap_clips,
}


@dataclass(frozen=True, kw_only=True)
class TrainImport:
    """Check recorded clips one by one, then write them as training data into OUT/train and OUT/val.

    Depth is not recorded; it is predicted, and the data say so. Layouts: docs/training.md, docs/clips.md.
    """

    source: Annotated[Path, tyro.conf.arg(name="from")]
    """Folder of the clips."""
    layout: Literal[
        "video", "re10k", "latents", "episodes", "clips", "transforms", "polycam", "record3d", "tum", "colmap"
    ]
    """What it holds: videos with poses, RealEstate10K texts, released latent zips, recorded episodes, saved
    posed clips, nerfstudio, raw data of Polycam or Record3D, TUM trajectories, COLMAP models."""
    out: Path
    """Folder of the data set; it must not hold one yet."""
    skip_bad: bool = False
    """List what cannot be used, leave it out and go on; without it any bad clip ends the import."""
    frames: int = 69
    """Pixel frames of a training clip, 4k+1; longer recordings are cut into several."""
    stride: int | None = None
    """Frames from one training clip to the next; --frames by default, so that none overlap."""
    every: int = 1
    """Keep every n-th frame; worlds run at 16 frames per second."""
    scale: float = 1.0
    """Factor on the translations that makes them metres."""
    size: int = 64
    """Height and width of the frames, a multiple of 16; the embedded worlds have 64."""
    val: float = 0.1
    """Share of the clips that goes to val, at least one."""
    vae: Path | None = None
    """vae.safetensors whose network predicts the depth; the one of the world "tiny-pure" by default."""
    latents: Path | None = None
    """Layout latents: folder of the zips with the encoded clips."""
    decoder: Path | None = None
    """Layout latents: folder of released weights with the LTX-2 autoencoder; without it --vae decodes."""
    device: str = "cpu"
    """Torch device of the decoder and of the depth network."""
    seed: int = 0
    """Which clips go to val."""
    json: Path | None = None
    """File for the result as JSON."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        config = ImportConfig(
            size=self.size,
            frames=self.frames,
            stride=self.stride,
            every=self.every,
            scale=self.scale,
            val=self.val,
            seed=self.seed,
        )
        if not self.source.is_dir():
            raise FileNotFoundError(f"--from {str(self.source)!r} is not a folder")
        torch.set_num_threads(1)
        vae, sha256 = self._vae()
        listed = self._listed(vae)
        if not listed:
            raise FileNotFoundError(f"no clips in {self.source}: expected {_EXPECTED[self.layout]}")
        bar = Bar(len(listed), "checking", unit="clip")
        try:
            done = import_clips(
                listed,
                self.out,
                config,
                depth_of=predicted_depth(vae),
                origin={"layout": self.layout, "from": str(self.source), "depth_sha256": sha256},
                skip_bad=self.skip_bad,
                report=lambda number, total: bar.to(number, total),
            )
        except BadClips as error:
            bar.close()
            print(error.report, file=sys.stderr)
            raise
        bar.close()
        print("\n".join(report_lines(done.left_out, len(listed))))
        unscaled = [clip.name for clip in listed if isinstance(clip, RecordedClip) and not clip.metric]
        if unscaled and self.scale == 1.0:
            print(f"{len(unscaled)} clips have no scale, their unit is taken as a metre; see --scale")
        print(f"{self.out}: {done.windows['train']} training clips, {done.windows['val']} for val")
        print(
            f"the cameras move up to {done.speed:.4f} m a frame, those of the tiny worlds "
            f"{MAX_TRANSLATION:g} (change it with --scale or --every)"
        )
        return {
            "out": str(self.out),
            **asdict(config),
            "windows": done.windows,
            "clips": done.clips,
            "speed": done.speed,
            "left_out": [problem._asdict() for problem in done.left_out],
        }

    def _vae(self) -> tuple[TinyVAE, str]:
        if self.vae is None:
            vae, sha256 = embedded_vae("tiny-pure")
        else:
            vae, card = load_vae(self.vae)
            sha256 = card["sha256"]
        return vae.to(self.device), sha256

    def _listed(self, vae: TinyVAE) -> list[ClipRef]:
        if self.layout != "latents" and (self.latents is not None or self.decoder is not None):
            raise ValueError(f"--latents and --decoder go with --layout latents, not with {self.layout}")
        if self.layout != "latents":
            return _LISTS[self.layout](self.source, ClipFiles())
        if self.latents is None:
            raise ValueError(
                "--layout latents needs --latents, the folder of the zips with the encoded clips"
            )
        if self.decoder is None:
            return latent_clips(self.source, self.latents, tiny_decoder(vae), GROUP)
        decode, stride = ltx2_decoder(self.decoder, self.device)
        return latent_clips(self.source, self.latents, decode, stride)


@dataclass(frozen=True, kw_only=True)
class TrainParts:
    """Take an embedded world apart: OUT/dit.safetensors for --init, OUT/vae.safetensors for --vae."""

    out: Path
    """Folder of the parts."""
    world: str = "tiny-pure"
    """Preset or checkpoint folder."""
    seed: int = 0
    """Accepted for uniformity; nothing is random here."""
    json: Path | None = None
    """File for the result as JSON."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        parts = {name: str(path) for name, path in write_parts(self.world, self.out).items()}
        print("\n".join(parts.values()))
        return {"world": self.world, "parts": parts}


def tiny_decoder(vae: TinyVAE) -> Decode:
    """Return a decoder of latents of a tiny autoencoder."""

    @torch.no_grad()
    def decode(z: Tensor) -> Iterator[np.ndarray]:
        if z.shape[0] != vae.config.channels:
            raise ValueError(
                f"latents have {z.shape[0]} channels, the autoencoder {vae.config.channels}; "
                "name the released one with --decoder"
            )
        pixels = vae.decode_clip(z.movedim(1, 0)[None].to(vae.latent_mean.device))  # (1, F, 4, H, W)
        yield from to_rgb(pixels[0]).cpu().numpy()

    return decode


def ltx2_decoder(folder: Path, device: str) -> tuple[Decode, int]:
    """Return the released autoencoder's decoder and its temporal stride."""
    found = look_into(folder)
    whole = tuple(vae for vae in found.vaes if not vae.config.get("decoder_causal", True))
    component = only(
        whole or found.vaes, "LTX-2 autoencoder (config.json of AutoencoderKLLTX2Video)", found.path
    )
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    vae = load_ltx2_vae(component, device=device, dtype=dtype, tiled=bool(whole))

    @torch.no_grad()
    def decode(z: Tensor) -> Iterator[np.ndarray]:
        if z.shape[0] != vae.channels:
            raise ValueError(f"latents have {z.shape[0]} channels, the LTX-2 autoencoder {vae.channels}")
        if not vae.causal:
            yield from vae.decode_clip(z[None])[0].cpu().numpy()
            return
        state = None
        for latent in z.split(1, dim=1):  # (C, 1, h, w)
            frames, state = vae.decode(latent[None], state)
            yield from frames[0].cpu().numpy()

    return decode, vae.temporal_ratio
