"""LTX-2 video autoencoder (diffusers' module): encode, whole-clip decode, and causal decode with a state.

A causal convolution of temporal kernel k sees its input's last k-1 frames from before; the first call
replicates frame 0 instead. Upsamplers double time and drop the first copy once per stream. So latent 0 gives
1 pixel frame, every later one `temporal_ratio`, and

    decode(a | b) = decode(a), then decode(b) with the k-1 last inputs of every convolution

Those inputs are the `DecodeState`, passed in and returned; the module itself keeps nothing. The encoder goes
on in the same way (`EncodeState`), so that a long film is encoded chunk by chunk. Legend: `B` batch, `C`
latent channels, `T` latent frames, `F` pixel frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_env.model.pixels import from_uint8, to_uint8
from wm_env.model.placement import placed
from wm_env.model.storage.folder import Component
from wm_env.model.storage.tensor_files import list_tensors, load_tensorwise
from wm_env.model.vae.normalisation import LatentScale, denormalise, normalise

INSTALL = "install it with `pip install 'wm-env[released]'`"


class DecodeState(NamedTuple):
    """Last k-1 input frames of every causal convolution in order, each `(B, C_i, k-1, h_i, w_i)`."""

    tails: tuple[Tensor, ...]


class EncodeState(NamedTuple):
    """The same of the encoder's convolutions."""

    tails: tuple[Tensor, ...]


class _Tails:
    """The tails of one call: hands out the old ones in order and collects the new ones."""

    def __init__(self, state: DecodeState | EncodeState | None) -> None:
        self.old: Iterator[Tensor] | None = None if state is None else iter(state.tails)
        self.new: list[Tensor] = []

    @property
    def first(self) -> bool:
        return self.old is None

    def extend(self, x: Tensor, kernel: int) -> Tensor:
        """Return `x` with its k-1 past frames in front, and remember the last k-1 of the result."""
        past = x[:, :, :1].expand(-1, -1, kernel - 1, -1, -1) if self.old is None else next(self.old)
        x = torch.cat([past, x], dim=2)
        self.new.append(x[:, :, x.shape[2] - (kernel - 1) :].clone())
        return x


class LTX2VAE:
    """`AutoencoderKLLTX2Video` as pure functions; `module` may be moved between devices by the caller."""

    def __init__(self, module: Any) -> None:
        config = module.config
        if config.timestep_conditioning or any(_flags(config.decoder_inject_noise)):
            raise ValueError(
                "an LTX-2 autoencoder with timestep conditioning or injected noise is not supported"
            )
        if config.patch_size_t != 1:
            raise ValueError(f"patch_size_t={config.patch_size_t} is not supported; LTX-2 uses 1")
        self.module = module
        self.causal = bool(config.decoder_causal)
        self.channels = int(config.latent_channels)
        # the module's own ratios are 64 and 16 unless its config overrides them
        strides = [upsampler.stride for up in module.decoder.up_blocks for upsampler in up.upsamplers or ()]
        self.spatial_ratio = int(config.patch_size) * math.prod(stride[1] for stride in strides)
        self.temporal_ratio = math.prod(stride[0] for stride in strides)

    def scale(self, device: torch.device) -> LatentScale:
        """Return the normalisation of latents on `device`; the module's halves may be on different ones."""
        mean, std = (placed(x, device) for x in (self.module.latents_mean, self.module.latents_std))
        return LatentScale(mean, std, float(self.module.config.scaling_factor))

    def encode(self, frames: Tensor) -> Tensor:
        """Return latents `(B, C, T, h, w)` float32 of frames uint8 `(B, F, H, W, 3)`: the posterior mode."""
        x = from_uint8(placed(frames, _device(self.module.encoder)).permute(0, 4, 1, 2, 3))
        posterior = self.module.encode(x.to(self.module.dtype)).latent_dist
        return normalise(posterior.mode().float(), self.scale(x.device))

    def encode_next(self, frames: Tensor, state: EncodeState | None) -> tuple[Tensor, EncodeState]:
        """Return latents `(B, C, T, h, w)` float32 of the next frames uint8 `(B, F, H, W, 3)`, and the state.

        state None: a film begins, F = ratio k + 1 frames give 1 + k latents; otherwise ratio k give k. Equal
        to `encode` of the whole film.
        """
        x = from_uint8(placed(frames, _device(self.module.encoder)).permute(0, 4, 1, 2, 3))
        mode, state = causal_encode(self.module.encoder, x.to(self.module.dtype), state)
        return normalise(mode[:, : self.channels].float(), self.scale(x.device)), state

    def _denormalised(self, latents: Tensor) -> Tensor:
        z = placed(latents, _device(self.module.decoder), torch.float32)
        return denormalise(z, self.scale(z.device))

    def decode_clip(self, latents: Tensor) -> Tensor:
        """Return frames uint8 `(B, F, H, W, 3)`, F = ratio * (T - 1) + 1, of a whole clip of latents."""
        z = self._denormalised(latents)
        return to_frames(self.module.decode(z.to(self.module.dtype), return_dict=False)[0])

    def decode(self, latents: Tensor, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
        """Return the frames uint8 `(B, F, H, W, 3)` of the next latents `(B, C, n, h, w)`, and the state.

        state None: latent 0 of a stream is among them and gives 1 frame; all others give `temporal_ratio`.
        """
        z = self._denormalised(latents)
        pixels, state = causal_decode(self.module.decoder, z.to(self.module.dtype), state)
        return to_frames(pixels), state


def _device(half: nn.Module) -> torch.device:
    return next(half.parameters()).device


def to_frames(pixels: Tensor) -> Tensor:
    """Return uint8 `(B, F, H, W, 3)` of pixels `(B, 3, F, H, W)` in [-1, 1]."""
    return to_uint8(pixels).permute(0, 2, 3, 4, 1)


def causal_decode(decoder: nn.Module, z: Tensor, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
    """Return pixels `(B, 3, F, H, W)` of autoencoder latents `(B, C, n, h, w)` and the state after them."""
    net: Any = decoder
    tails = _Tails(state)
    x = _convolve(net.conv_in, z, tails)
    for block in net.mid_block.resnets:
        x = _residual(block, x, tails)
    for up in net.up_blocks:
        if up.conv_in is not None:
            x = _residual(up.conv_in, x, tails)
        for upsampler in up.upsamplers or ():
            x = _upsample(upsampler, x, tails)
        for block in up.resnets:
            x = _residual(block, x, tails)
    x = _convolve(net.conv_out, F.silu(net.norm_out(x)), tails)
    return _unpatch(x, net.patch_size), DecodeState(tuple(tails.new))


def causal_encode(
    encoder: nn.Module, pixels: Tensor, state: EncodeState | None
) -> tuple[Tensor, EncodeState]:
    """Return moments `(B, C + 1, T, h, w)`, means first, of pixels `(B, 3, F, H, W)`, and the state after."""
    net: Any = encoder
    tails = _Tails(state)
    x = _convolve(net.conv_in, _patch(pixels, net.patch_size), tails)
    for down in net.down_blocks:
        for block in down.resnets:
            x = _residual(block, x, tails)
        for downsampler in down.downsamplers or ():
            x = _downsample(downsampler, x, tails)
    for block in net.mid_block.resnets:
        x = _residual(block, x, tails)
    x = _convolve(net.conv_out, F.silu(net.norm_out(x)), tails)
    return x, EncodeState(tuple(tails.new))


def _convolve(conv: Any, x: Tensor, tails: _Tails) -> Tensor:
    return conv.conv(tails.extend(x, conv.kernel_size[0]))


def _residual(block: Any, x: Tensor, tails: _Tails) -> Tensor:
    """x + conv(act(norm(conv(act(norm(x)))))), with a pointwise shortcut where the width changes."""
    h = _convolve(block.conv1, block.nonlinearity(block.norm1(x)), tails)
    h = _convolve(block.conv2, block.nonlinearity(block.norm2(h)), tails)
    if block.norm3 is not None:
        x = block.norm3(x.movedim(1, -1)).movedim(-1, 1)
    if block.conv_shortcut is not None:
        x = block.conv_shortcut(x)
    return x + h


def _upsample(upsampler: Any, x: Tensor, tails: _Tails) -> Tensor:
    """Channels to space and time, plus the same of the input; the first temporal copies are dropped once."""
    stride = upsampler.stride
    drop = stride[0] - 1 if tails.first else 0
    out = _to_space_time(_convolve(upsampler.conv, x, tails), stride)[:, :, drop:]
    if upsampler.residual:
        repeats = stride[0] * stride[1] * stride[2] // upsampler.upscale_factor
        out = out + _to_space_time(x, stride).repeat(1, repeats, 1, 1, 1)[:, :, drop:]
    return out


def _downsample(downsampler: Any, x: Tensor, tails: _Tails) -> Tensor:
    """Space and time to channels, plus the same of the input; the film's first frame stands in before it."""
    stride = downsampler.stride
    if tails.first:
        x = torch.cat([x[:, :, :1].expand(-1, -1, stride[0] - 1, -1, -1), x], dim=2)
    kept = _to_channels(x, stride).unflatten(1, (-1, downsampler.group_size)).mean(2)
    return _to_channels(_convolve(downsampler.conv, x, tails), stride) + kept


def _to_channels(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """Return `(B, C*st*sh*sw, T, h, w)` of `(B, C, T*st, h*sh, w*sw)`: the inverse of `_to_space_time`."""
    x = x.unflatten(4, (-1, stride[2])).unflatten(3, (-1, stride[1])).unflatten(2, (-1, stride[0]))
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)  # of (B, C, T, st, h, sh, w, sw)


def _to_space_time(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """Return `(B, C, T*st, h*sh, w*sw)` of `(B, C*st*sh*sw, T, h, w)`."""
    x = x.unflatten(1, (-1, *stride))  # (B, C, st, sh, sw, T, h, w)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def _patch(x: Tensor, patch: int) -> Tensor:
    """Return `(B, 3*p*p, F, h, w)` of pixels `(B, 3, F, h*p, w*p)`: the inverse of `_unpatch`."""
    x = x.unflatten(4, (-1, patch)).unflatten(3, (-1, patch))  # (B, 3, F, h, dy, w, dx)
    return x.permute(0, 1, 6, 4, 2, 3, 5).flatten(1, 3)


def _unpatch(x: Tensor, patch: int) -> Tensor:
    """Return `(B, 3, F, h*p, w*p)` of `(B, 3*p*p, F, h, w)`; the features are ordered c, dx, dy."""
    x = x.unflatten(1, (-1, patch, patch))  # (B, 3, dx, dy, F, h, w)
    return x.permute(0, 1, 4, 5, 3, 6, 2).flatten(5, 6).flatten(3, 4)


def _flags(value: bool | tuple[bool, ...] | list[bool]) -> tuple[bool, ...]:
    return (value,) if isinstance(value, bool) else tuple(value)


def load_ltx2_vae(
    component: Component, *, device: str = "cpu", dtype: torch.dtype = torch.float32, tiled: bool = False
) -> LTX2VAE:
    """Return the autoencoder of a folder, strictly loaded tensor by tensor.

    tiled: `decode_clip` cuts large clips into tiles of 96 frames, 64 apart, and into spatial ones.
    """
    try:
        from diffusers import AutoencoderKLLTX2Video
    except ImportError as error:
        raise ImportError(f"the LTX-2 autoencoder needs diffusers; {INSTALL}") from error
    config = {key: value for key, value in component.config.items() if not key.startswith("_")}
    with torch.device("meta"):
        module = AutoencoderKLLTX2Video(**config)
    weights = component.weights()
    load_tensorwise(module, list_tensors(weights), source=str(weights), device=device, dtype=dtype)
    vae = LTX2VAE(module.eval().requires_grad_(False))
    if tiled:
        module.spatial_compression_ratio = vae.spatial_ratio
        module.temporal_compression_ratio = vae.temporal_ratio
        module.enable_tiling(tile_sample_min_num_frames=96, tile_sample_stride_num_frames=64)
        module.use_framewise_decoding = True
    return vae
