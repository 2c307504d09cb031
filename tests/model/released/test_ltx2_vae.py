"""The LTX-2 autoencoder decodes chunk by chunk what it decodes at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from released_parts import VAE

from wm_env.model.storage.folder import look_into, only
from wm_env.model.vae.ltx2 import LTX2VAE, causal_decode, load_ltx2_vae

STREAM_TOLERANCE = 1e-5  # float32, values of about 1; the order of convolution sums differs


@pytest.fixture(scope="module")
def vae(vae_folder: Path) -> LTX2VAE:
    return load_ltx2_vae(only(look_into(vae_folder.parent).vaes, "autoencoder", vae_folder))


@torch.inference_mode()
def test_any_split_of_the_latents_decodes_to_the_same_pixels(vae: LTX2VAE) -> None:
    z = torch.randn(2, 4, 6, 2, 3, generator=torch.Generator().manual_seed(0))
    whole = vae.module.decode(z, return_dict=False)[0]
    assert whole.shape == (2, 3, 41, 64, 96)
    for split in ([1, 3, 2], [4, 1, 1], [6]):
        state, parts = None, []
        for chunk in z.split(split, dim=2):
            pixels, state = causal_decode(vae.module.decoder, chunk, state)
            parts.append(pixels)
        assert (torch.cat(parts, dim=2) - whole).abs().max() < STREAM_TOLERANCE, split


@torch.inference_mode()
def test_decoding_leaves_the_given_state_as_it_was(vae: LTX2VAE) -> None:
    z = torch.randn(1, 4, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    _, state = causal_decode(vae.module.decoder, z[:, :, :1], None)
    before = [tail.clone() for tail in state.tails]
    first, after = causal_decode(vae.module.decoder, z[:, :, 1:], state)
    again, _ = causal_decode(vae.module.decoder, z[:, :, 1:], state)
    assert all(torch.equal(a, b) for a, b in zip(state.tails, before, strict=True))
    assert torch.equal(first, again)
    assert [t.shape for t in after.tails] == [t.shape for t in state.tails]


@torch.inference_mode()
def test_encoding_is_the_scaled_posterior_mode(vae: LTX2VAE) -> None:
    frames = torch.randint(0, 256, (1, 9, 32, 64, 3), dtype=torch.uint8)
    mode = vae.module.encode(frames.permute(0, 4, 1, 2, 3) / 127.5 - 1).latent_dist.mode()
    mean, std = (x[:, None, None, None] for x in (vae.module.latents_mean, vae.module.latents_std))
    torch.testing.assert_close(vae.encode(frames), (mode - mean) / std)
    assert (vae.spatial_ratio, vae.temporal_ratio, vae.channels, vae.causal) == (32, 8, 4, True)


@torch.inference_mode()
def test_any_split_of_a_film_encodes_to_the_same_latents(vae: LTX2VAE) -> None:
    frames = torch.randint(0, 256, (2, 41, 64, 96, 3), generator=torch.Generator().manual_seed(0)).byte()
    whole = vae.encode(frames)
    assert whole.shape == (2, 4, 6, 2, 3)
    for split in ([1, 8, 32], [17, 24], [41]):
        state, parts = None, []
        for part in frames.split(split, dim=1):
            latents, state = vae.encode_next(part, state)
            parts.append(latents)
        torch.testing.assert_close(torch.cat(parts, dim=2), whole, atol=STREAM_TOLERANCE, rtol=0)


def test_an_autoencoder_that_injects_noise_is_refused() -> None:
    from diffusers import AutoencoderKLLTX2Video

    with torch.device("meta"):
        module = AutoencoderKLLTX2Video(**VAE, decoder_inject_noise=(True, False, False, False))
    with pytest.raises(ValueError, match="noise"):
        LTX2VAE(module)
