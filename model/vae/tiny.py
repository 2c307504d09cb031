"""A causal RGB-D video autoencoder: 64x64 pixels, stride 8 in space, 4 in time, 32 channels.

A latent frame describes a group of 4 pixel frames; group 0 is the start image repeated, group t > 0 is the
pixel frames 4t-3 .. 4t. Pixels are vectors p = (r, g, b, d) with colours in [-1, 1] and inverse depth

    d = clip(1.2 / z, 0, 3) - 1,        z in metres along the optical axis.

Both directions are a linear map plus a convolutional residual:

    z_t = normalise(E p_t + enc(p_t)),       p_t = D (z_t, z_{t-1}) + dec(z_t, z_{t-1}) + mean.

E and D start as principal components of 8x8x4 patches and their least-squares inverse, both residuals at
zero. The decoder is causal: its whole state is the previous latent (the same latent at the start), so
decoding chunk by chunk equals decoding the clip. The depth of a start image is not given to a world: a small
U-Net predicts it from colours and viewing rays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_env.model.config import check_ranges
from wm_env.model.geometry import pixel_rays
from wm_env.model.pixels import PIXEL_CHANNELS, from_uint8, metric_depth, to_pixels

GROUP = 4  # pixel frames per latent frame
STRIDE = 8


@dataclass(frozen=True, kw_only=True)
class TinyVAEConfig:
    """Widths of the autoencoder; `size` is height and width of a frame in pixels."""

    size: int = 64
    channels: int = 32
    encoder_width: tuple[int, int] = (72, 96)  # at stride 4 and 8
    decoder_width: tuple[int, int, int] = (144, 80, 32)  # at stride 8, 4 and 2
    depth_width: tuple[int, int, int, int] = (16, 32, 56, 72)  # at stride 2, 4, 8 and 16

    def __post_init__(self) -> None:
        widths = ("encoder_width", "decoder_width", "depth_width")
        check_ranges(
            self, {"size": (16, 4096), "channels": (1, 4096), **dict.fromkeys(widths, (1, 8192))}, {}
        )
        for name, count in zip(widths, (2, 3, 4), strict=True):
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != count:
                raise ValueError(f"{name}={value!r:.80} must be {count} integers")
        if self.size % 16:
            raise ValueError(f"size={self.size} must be a multiple of 16")


class DecodeState(NamedTuple):
    """What the decoder remembers: `previous` `(B, C, h, w)` float32, the last decoded latent."""

    previous: Tensor


def group_frames(frames: Tensor) -> Tensor:
    """Return `(B, T, 4, ...)` groups of `(B, 1 + 4 (T-1), ...)` frames: frame 0 repeated, then fours."""
    if (frames.shape[1] - 1) % GROUP:
        n = frames.shape[1]
        low = n - (n - 1) % GROUP
        raise ValueError(f"{n} frames do not fit the VAE: need 4k+1; nearest are {low} and {low + GROUP}")
    first = frames[:, :1].expand(-1, GROUP, *frames.shape[2:])
    return torch.cat([first, frames[:, 1:]], dim=1).unflatten(1, (-1, GROUP))


class EncodedImage(NamedTuple):
    """A start image: latent `(B, C, h, w)`, predicted depth `(B, H, W)` in metres, and both as pixels
    `(B, 4, H, W)`."""

    latent: Tensor
    depth: Tensor
    pixels: Tensor


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))), the last convolution zero at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class DepthNet(nn.Module):
    """U-Net: colours and viewing rays -> inverse depth.

    The inverse depth of a plane is linear in the ray (n . r / distance), so walls and floor are linear in
    the input; what is learned is which plane a pixel lies on.
    """

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        a, b, c, d = widths
        self.stem = nn.Conv2d((3 + 2) * 4, a, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(4 * i, o, 1) for i, o in ((a, b), (b, c), (c, d)))
        self.left = nn.ModuleList(ResidualBlock(w) for w in (a, b, c))
        self.bottom = nn.Sequential(ResidualBlock(d), ResidualBlock(d))
        self.gather = nn.Linear(d, d)  # the mean over the image, added everywhere: room size, light
        self.up = nn.ModuleList(nn.Conv2d(i, 4 * o, 1) for i, o in ((d, c), (c, b), (b, a)))
        self.right = nn.ModuleList(ResidualBlock(w) for w in (c, b, a))
        self.head = nn.Conv2d(a + 20, 4, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, -0.6)  # type: ignore[arg-type]  # 3 m

    def forward(self, colour: Tensor, intrinsics: Tensor) -> Tensor:
        """Return inverse depth `(B, h, w)` of colours `(B, 3, h, w)` and intrinsics `(B, 4)` in pixels."""
        height, width = colour.shape[-2:]
        rays = pixel_rays(intrinsics.to(colour.dtype), height, width, 0.5)[..., :2]  # (B, h, w, 2)
        image = torch.cat([colour, rays.movedim(-1, 1)], dim=1)
        image = F.pixel_unshuffle(image, 2)  # (B, 20, h/2, w/2)
        x, skips = self.stem(image), []
        for left, down in zip(self.left, self.down, strict=True):
            x = left(x)
            skips.append(x)
            x = down(F.pixel_unshuffle(x, 2))
        x = self.bottom(x)
        x = x + self.gather(F.silu(x).mean((-2, -1)))[:, :, None, None]
        for right, up in zip(self.right, self.up, strict=True):
            x = right(F.pixel_shuffle(up(F.silu(x)), 2) + skips.pop())
        return F.pixel_shuffle(self.head(torch.cat([F.silu(x), image], dim=1)), 2)[:, 0]


class TinyVAE(nn.Module):
    """The autoencoder of the module docstring. Latents have zero mean and unit variance per channel."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: TinyVAEConfig) -> None:
        super().__init__()
        self.config = config
        inputs, channels = GROUP * PIXEL_CHANNELS, config.channels
        self.linear_encoder = nn.Conv2d(inputs, channels, STRIDE, STRIDE)
        self.linear_decoder = nn.Conv2d(2 * channels, inputs * STRIDE**2, 1)
        e4, e8 = config.encoder_width
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(inputs * 16, e4, 1),
            ResidualBlock(e4),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * e4, e8, 1),
            ResidualBlock(e8),
            nn.SiLU(),
            nn.Conv2d(e8, channels, 1),
        )
        d8, d4, d2 = config.decoder_width
        self.decoder = nn.Sequential(
            nn.Conv2d(2 * channels, d8, 3, padding=1),
            ResidualBlock(d8),
            ResidualBlock(d8),
            nn.Conv2d(d8, 4 * d4, 1),
            nn.PixelShuffle(2),
            ResidualBlock(d4),
            ResidualBlock(d4),
            nn.Conv2d(d4, 4 * d2, 1),
            nn.PixelShuffle(2),
            ResidualBlock(d2),
            nn.SiLU(),
            nn.Conv2d(d2, inputs * 4, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.depth_net = DepthNet(config.depth_width)
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.ones(channels))
        for last in (self.encoder[-1], self.decoder[-2]):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """`(C, h, w)` of a latent frame."""
        side = self.config.size // STRIDE
        return self.config.channels, side, side

    def encode_raw(self, groups: Tensor) -> Tensor:
        """Return latents `(B, C, h, w)` before normalisation of groups `(B, 4, 4, H, W)` of pixels."""
        x = groups.flatten(1, 2)  # (B, 16, H, W)
        x = x.contiguous(memory_format=torch.channels_last)
        return self.linear_encoder(x) + self.encoder(x)

    def encode_groups(self, groups: Tensor) -> Tensor:
        """Return normalised latents `(B, C, h, w)` of groups `(B, 4, 4, H, W)` of pixels."""
        raw = self.encode_raw(groups)
        return (raw - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def encode_clip(self, rgb: Tensor, depth: Tensor) -> Tensor:
        """Return latents `(B, T, C, h, w)` of uint8 `(B, 4T-3, H, W, 3)` and depth `(B, 4T-3, H, W)` m."""
        groups = group_frames(to_pixels(rgb, depth))  # (B, T, 4, 4, H, W)
        return self.encode_groups(groups.flatten(0, 1)).unflatten(0, groups.shape[:2])

    def predict_depth(self, rgb: Tensor, intrinsics: Tensor) -> Tensor:
        """Return the depth `(B, H, W)` in metres of pictures uint8 `(B, H, W, 3)`; intrinsics `(B, 4)`."""
        return metric_depth(self.depth_net(from_uint8(rgb).movedim(-1, 1), intrinsics))

    def encode_image(self, rgb: Tensor, intrinsics: Tensor) -> EncodedImage:
        """Return a start image as a world is given it, its depth predicted.

        rgb uint8 `(B, H, W, 3)`; intrinsics `(B, 4)` in pixels of this size.
        """
        depth = self.predict_depth(rgb, intrinsics)
        pixels = to_pixels(rgb, depth)  # (B, 4, H, W)
        return EncodedImage(self.encode_groups(pixels[:, None].expand(-1, GROUP, -1, -1, -1)), depth, pixels)

    def start_decoding(self, latent: Tensor) -> DecodeState:
        """Return the decode state before the first latent `(B, C, h, w)`: that latent itself."""
        return DecodeState(latent)

    def decode(self, latent: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """Return pixels `(B, 4, 4, H, W)` (frame, channel) of a latent `(B, C, h, w)`, and the next state."""
        x = torch.cat([latent, state.previous], dim=1)  # (B, 2C, h, w)
        x = x.contiguous(memory_format=torch.channels_last)
        pixels = F.pixel_shuffle(self.linear_decoder(x), STRIDE) + self.decoder(x)  # (B, 16, H, W)
        return pixels.unflatten(1, (GROUP, PIXEL_CHANNELS)), DecodeState(latent)

    def decode_clip(self, latents: Tensor) -> Tensor:
        """Return pixels `(B, 1 + 4 (T-1), 4, H, W)` of latents `(B, T, C, h, w)` from the start of a clip."""
        previous = torch.cat([latents[:, :1], latents[:, :-1]], dim=1)
        pixels, _ = self.decode(latents.flatten(0, 1), DecodeState(previous.flatten(0, 1)))
        pixels = pixels.unflatten(0, latents.shape[:2])  # (B, T, 4, 4, H, W)
        return torch.cat([pixels[:, 0, -1:], pixels[:, 1:].flatten(1, 2)], dim=1)


@torch.no_grad()
def init_from_patches(vae: TinyVAE, groups: Tensor, previous: Tensor, depth_weight: float = 0.6) -> None:
    """Set the linear path of `vae` from groups and the groups before them, both `(B, 4, 4, H, W)`.

    Encoder: the first C principal components of the 8x8x4 patches (inverse depth weighed by
    `depth_weight`), whitened. Decoder: least squares from (z_t, z_{t-1}) to the patch.
    """
    channels, inputs = vae.config.channels, GROUP * PIXEL_CHANNELS
    now, before = (
        F.unfold(x.flatten(1, 2), STRIDE, stride=STRIDE).transpose(1, 2) for x in (groups, previous)
    )
    now, before = now.flatten(0, 1).double(), before.flatten(0, 1).double()  # (P, inputs * 64), channel-major
    weight = torch.ones(GROUP, PIXEL_CHANNELS, STRIDE**2, dtype=now.dtype)
    weight[:, 3] = depth_weight
    weight = weight.flatten()
    mean = now.mean(0)
    centred = (now - mean) * weight
    eigenvalues, vectors = torch.linalg.eigh(centred.T @ centred / len(now))  # ascending
    std, basis = eigenvalues[-channels:].flip(0).sqrt(), vectors[:, -channels:].flip(1)
    project = (basis * weight[:, None] / std).T  # (C, inputs * 64)
    vae.linear_encoder.weight.copy_(project.reshape(channels, inputs, STRIDE, STRIDE))
    vae.linear_encoder.bias.copy_(-(project @ mean))  # type: ignore[union-attr]
    codes = torch.cat([(now - mean) @ project.T, (before - mean) @ project.T], dim=1)  # (P, 2C)
    codes = torch.cat([codes, torch.ones_like(codes[:, :1])], dim=1)
    gram = codes.T @ codes + 1e-3 * len(codes) * torch.eye(codes.shape[1], dtype=codes.dtype)
    solution = torch.linalg.solve(gram, codes.T @ now)  # (2C + 1, inputs * 64)
    vae.linear_decoder.weight.copy_(solution[:-1].T[:, :, None, None])
    vae.linear_decoder.bias.copy_(solution[-1])  # type: ignore[union-attr]
