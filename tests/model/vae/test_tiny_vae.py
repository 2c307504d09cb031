"""The tiny autoencoder: causal decoding, principal components at the start, depth, shapes."""

from __future__ import annotations

import pytest
import torch

from wm_env.model.pixels import inverse_depth, metric_depth, to_pixels, to_rgb
from wm_env.model.vae.tiny import TinyVAE, TinyVAEConfig, group_frames, init_from_patches

SMALL = TinyVAEConfig(
    size=16, channels=4, encoder_width=(8, 8), decoder_width=(8, 8, 4), depth_width=(4, 4, 8, 8)
)


def small_vae() -> TinyVAE:
    torch.manual_seed(0)
    vae = TinyVAE(SMALL)
    for parameter in vae.parameters():  # the residual paths start at zero; tests want them alive
        parameter.data += 0.02 * torch.randn_like(parameter)
    return vae.eval()


def test_decoding_chunk_by_chunk_equals_decoding_the_clip() -> None:
    vae, latents = small_vae(), torch.randn(2, 5, 4, 2, 2)
    whole = vae.decode_clip(latents)  # (2, 17, 4, 16, 16)
    state, parts = vae.start_decoding(latents[:, 0]), []
    for t in range(5):
        pixels, state = vae.decode(latents[:, t], state)
        parts.append(pixels[:, -1:] if t == 0 else pixels)
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-5)


def test_a_later_latent_changes_no_earlier_frame() -> None:
    vae, latents = small_vae(), torch.randn(1, 4, 4, 2, 2)
    changed = latents.clone()
    changed[:, 2] += 1
    same = (vae.decode_clip(latents) - vae.decode_clip(changed)).abs().amax((0, 2, 3, 4)) < 1e-6
    assert same.tolist() == [True] * 5 + [False] * 8  # latent 2 is frames 5-8, latent 3 sees it too


def test_principal_components_of_a_low_rank_signal_reconstruct_it() -> None:
    torch.manual_seed(1)
    patterns = torch.randn(3, 4, 4, 8, 8) * 0.2  # 3 patterns, 4 channels of latent: exact up to whitening
    weights = torch.randn(300, 3, 2, 2)
    groups = torch.einsum("bkyx,kfcij->bfcyixj", weights, patterns).reshape(300, 4, 4, 16, 16)
    vae = TinyVAE(SMALL)
    init_from_patches(vae, groups + 1e-3 * torch.randn_like(groups), groups)
    latent = vae.encode_groups(groups).detach()
    decoded = vae.decode(latent, vae.start_decoding(latent))[0].detach()
    assert float((decoded - groups).square().mean() / groups.square().mean()) < 1e-2
    assert latent[:, :3].mean().abs() < 0.1
    assert float(latent[:, :3].std()) == pytest.approx(1.0, abs=0.1)


def test_the_start_image_is_encoded_as_four_equal_frames_with_predicted_depth() -> None:
    vae = small_vae()
    rgb = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    intrinsics = torch.tensor([[9.0, 9.0, 8.0, 8.0]]).expand(3, 4)
    latent, depth, _ = vae.encode_image(rgb, intrinsics)
    assert latent.shape == (3, *vae.latent_shape)
    assert depth.shape == (3, 16, 16)
    clip = vae.encode_clip(rgb[:, None], depth[:, None])  # one frame is the start group alone
    assert torch.allclose(clip[:, 0], latent, atol=1e-5)


def test_depth_and_its_inverse_agree_in_range_and_saturate_outside() -> None:
    depth = torch.tensor([0.1, 0.4, 1.2, 7.0, 60.0, torch.inf])
    back = metric_depth(inverse_depth(depth))
    assert back.tolist() == pytest.approx([0.4, 0.4, 1.2, 7.0, 60.0, 60.0], rel=1e-4)


def test_colours_survive_the_way_to_pixels_and_back() -> None:
    rgb = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert to_rgb(to_pixels(rgb, torch.ones(1, 16, 16))).equal(rgb)


def test_frame_counts_that_do_not_fit_are_refused() -> None:
    assert group_frames(torch.arange(9)[None]).tolist() == [[[0] * 4, [1, 2, 3, 4], [5, 6, 7, 8]]]
    with pytest.raises(ValueError, match=r"11 frames.*nearest are 9 and 13"):
        group_frames(torch.zeros(1, 11))
