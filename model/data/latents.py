"""Latent cache: rendered shards encoded once by a given autoencoder, beside the clips they came from.

    z.npy       float16 (n, T, C, h, w)   latents of the true frames and depths
    start.npy   float16 (n, T, C, h, w)   latents of frames 0, 4, 8, ... as start images: depth PREDICTED
    depth0.npy  float16 (n, T, H, W)      those predicted depths, metres
    vae.json    SHA-256 of the autoencoder's weights

A cache of another autoencoder is refused, never mixed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.data.clip import Clip, ClipShards, share_of
from wm_env.model.storage.atomic import atomic_folder
from wm_env.model.vae.tiny import GROUP, TinyVAE


class LatentClip(NamedTuple):
    """A batch of clips with latents.

    clip: see `Clip`, leading axis B. z: float32 `(B, T, C, h, w)`; start: float32 `(B, C, h, w)`, the first
    frame as a world is given it; depth0: float32 `(B, H, W)` metres, its predicted depth.
    """

    clip: Clip
    z: Tensor
    start: Tensor
    depth0: Tensor


@torch.no_grad()
def encode_shards(
    vae: TinyVAE, sha256: str, clips: Path, out: Path, report: Callable[[int, int], None] | None = None
) -> None:
    """Encode every complete shard of `clips` into `out`, skipping those already encoded by these weights.

    report: called with (clips done, clips in all).
    """
    device = vae.latent_mean.device
    shards = ClipShards(clips)
    done = 0
    for path in shards.paths:
        target = out / path.name
        begun, done = done, done + len(np.load(path / "rgb.npy", mmap_mode="r"))
        if target.exists():
            _check_owner(target, (sha256,))
            continue
        rgb, depth = np.load(path / "rgb.npy", mmap_mode="r"), np.load(path / "depth.npy", mmap_mode="r")
        intrinsics = torch.from_numpy(np.load(path / "intrinsics.npy"))
        z, start, depth0 = [], [], []
        for row in range(len(rgb)):
            colours = torch.from_numpy(np.array(rgb[row]))[None].to(device)
            metres = torch.from_numpy(np.array(depth[row])).float()[None].to(device)
            z.append(vae.encode_clip(colours, metres)[0].half().cpu())
            images = colours[0, ::GROUP]  # (T, H, W, 3)
            cameras = intrinsics[row].to(device).expand(len(images), -1)
            latent, predicted, _ = vae.encode_image(images, cameras)
            start.append(latent.half().cpu())
            depth0.append(predicted.half().cpu())
            if report is not None and row + 1 < len(rgb):
                report(begun + row + 1, len(shards))
        with atomic_folder(target) as temporary:
            for name, rows in (("z", z), ("start", start), ("depth0", depth0)):
                np.save(temporary / f"{name}.npy", torch.stack(rows).numpy())
            (temporary / "vae.json").write_text(json.dumps({"sha256": sha256}), encoding="utf-8")
        if report is not None:
            report(done, len(shards))


def _check_owner(folder: Path, accepted: Sequence[str]) -> None:
    owner = json.loads((folder / "vae.json").read_text(encoding="utf-8"))["sha256"]
    if owner not in accepted:
        raise ValueError(
            f"latents in {folder} come from other weights (sha256 {owner[:12]}..., not {accepted[0][:12]}); "
            "encode into another folder"
        )


class LatentShards:
    """Clips and their latents as one indexed set."""

    def __init__(self, clips: Path, latents: Path, *accepted: str, rank: int = 0, of: int = 1) -> None:
        """Open the clips of `clips` whose latents, by weights of an `accepted` SHA-256, are in `latents`.

        rank, of: read the share of one of several workers, see `ClipShards.share`.
        """
        done = sorted(path for path in latents.glob("shard-*") if path.is_dir())
        if not done:
            raise FileNotFoundError(f"no latents in {latents}; encode {clips} first (`train latents`)")
        done = share_of(done, rank, of)
        for path in done:
            _check_owner(path, accepted)
        self.clips = ClipShards(clips, names=[path.name for path in done])
        self.z, self.start, self.depth0 = (
            np.concatenate([np.load(path / f"{name}.npy") for path in done])
            for name in ("z", "start", "depth0")
        )

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def captions(self) -> list[str]:
        """Table that `clip.caption` indexes."""
        return self.clips.captions

    @property
    def groups(self) -> int:
        """Latent frames of a clip."""
        return self.z.shape[1]

    def read(self, indices: Sequence[int], first: Sequence[int], groups: int) -> LatentClip:
        """Return `groups` latents of clips `indices` from latent frame `first[i]` on, and their pixel frames.

        The first of them counts as a start image; poses stay relative to frame 0 of the clip.
        """
        spans = [slice(GROUP * a, GROUP * (a + groups) - GROUP + 1) for a in first]
        clip = self.clips.read_many(indices, spans)
        z = np.stack([self.z[i, a : a + groups] for i, a in zip(indices, first, strict=True)])
        rows = (list(indices), list(first))
        start, depth0 = self.start[rows], self.depth0[rows]
        return LatentClip(
            clip,
            torch.from_numpy(z).float(),
            torch.from_numpy(start).float(),
            torch.from_numpy(depth0).float(),
        )
