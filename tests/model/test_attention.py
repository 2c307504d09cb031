"""Attention modules: gates, output gate, cross-attention and the window, each by its formula."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from wm_env.model.attention import (
    CrossAttention,
    GDNAttention,
    Geometry,
    SoftmaxAttention,
    commit,
    from_ray_frame,
    to_ray_frame,
)
from wm_env.model.camera import apply_per_token, camera_conditions, ray_transforms
from wm_env.model.chunks import ONE, cut_at
from wm_env.model.config import DiTConfig
from wm_env.model.geometry import se3_exp
from wm_env.model.layers import camera_rotary, rotary, rotate
from wm_env.model.state import KVChunk, WindowState

CFG = DiTConfig(
    latent_channels=4, hidden=32, heads=2, depth=2, caption_channels=8, window_chunks=3, chunk_frames=1
)
FRAMES, GRID = 3, (2, 3)
CLOSE = 1e-5  # float32


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module with its weights away from the silent start."""
    generator = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module


def geometry(camera: bool = True) -> Geometry:
    steps = torch.arange(FRAMES, dtype=torch.float64)[:, None]
    c2w = se3_exp(steps * torch.tensor([0.3, 0, 0.5, 0, 0.2, 0], dtype=torch.float64))[None]
    rays = ray_transforms(camera_conditions(c2w, torch.tensor([[2.0, 2.0, 1.5, 1.0]])), *GRID)
    return Geometry(rotary(torch.arange(FRAMES)[None], *GRID, CFG), rays if camera else None)


@torch.no_grad()
def test_gates_are_a_sigmoid_per_token_and_a_decay_per_frame() -> None:
    module, x = shaken(GDNAttention(CFG)), normal(2, FRAMES, 6, 32)
    beta, log_decay = module.gates(x)
    by_token = 1 / (1 + torch.exp(-(x @ module.beta.weight.T + module.beta.bias)))  # (B, T, N, H)
    assert torch.allclose(beta, by_token.permute(0, 3, 1, 2), atol=CLOSE)
    raw = x.mean(2) @ module.decay.weight.T + module.decay.bias + module.dt_bias  # (B, T, H)
    expected = -module.A_log.exp() * torch.log1p(raw.exp())
    assert torch.allclose(log_decay, expected.transpose(1, 2), atol=CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kind", [GDNAttention, SoftmaxAttention])
def test_branches_are_added_then_gated_then_projected(kind: type) -> None:
    module, x = shaken(kind(CFG)), normal(1, FRAMES, 6, 32)
    main, camera = normal(1, FRAMES, 6, 32, seed=1), normal(1, FRAMES, 6, 32, seed=2)
    both = main + camera @ module.camera.out.weight.T + module.camera.out.bias
    gate = F.silu(x @ module.gate.weight.T + module.gate.bias)
    expected = (both * gate) @ module.out.weight.T + module.out.bias
    assert torch.allclose(module.merge(x, main, camera), expected, atol=CLOSE)


@torch.no_grad()
def test_a_softmax_block_without_camera_is_softmax_of_rotated_normed_keys() -> None:
    module, x, where = shaken(SoftmaxAttention(CFG)), normal(1, FRAMES, 6, 32), geometry(camera=False)
    q, k, v = module.qkv(x).chunk(3, dim=-1)
    q, k = (
        rotate(y.unflatten(-1, (2, 16)), where.cis) for y in (module.q_norm(q), module.k_norm(k))
    )  # (B, T, N, H, D)
    q, k, v = (y.flatten(1, 2).transpose(1, 2) for y in (q, k, v.unflatten(-1, (2, 16))))  # (B, H, T N, D)
    weights = (q @ k.transpose(-1, -2) / 4).softmax(-1)  # 4 = sqrt(16)
    main = (weights @ v).transpose(1, 2).flatten(-2).unflatten(1, (FRAMES, 6))
    out, window = module(x, where, None, ONE)
    assert torch.allclose(out, module.merge(x, main, None), atol=CLOSE)
    assert torch.allclose(window.chunks[0].k, k, atol=CLOSE)
    assert window.chunks[0].k_cam.abs().max() == 0


@torch.no_grad()
def test_the_camera_branch_reaches_the_output_and_leaves_the_main_memory_alone() -> None:
    module, x = shaken(GDNAttention(CFG)), normal(1, FRAMES, 6, 32)
    with_camera, seen = module(x, geometry(), None, cut_at(range(FRAMES)))
    without, blind = module(x, geometry(camera=False), None, cut_at(range(FRAMES)))
    assert (with_camera - without).abs().max() > 1e-3
    assert torch.equal(seen.S, blind.S) and torch.equal(seen.z, blind.z)
    assert seen.S_cam.abs().max() > 0 == blind.S_cam.abs().max()


def test_the_camera_branch_maps_half_a_head_by_the_ray_and_turns_the_other_half() -> None:
    where = geometry()
    assert where.rays is not None
    q, k, v = (normal(1, FRAMES, 6, 2, 16, seed=seed) for seed in range(3))
    mapped = to_ray_frame(q, k, v, where.rays, where.cis)
    cis = camera_rotary(where.cis)
    for x, found, matrices in zip(
        (q, k, v),
        mapped,
        (where.rays.to_ray.transpose(-1, -2), where.rays.to_world, where.rays.to_world),
        strict=True,
    ):
        assert torch.allclose(found[..., :8], apply_per_token(matrices, x[..., :8].contiguous()), atol=CLOSE)
        assert torch.allclose(found[..., 8:], rotate(x[..., 8:], cis), atol=CLOSE)
    assert torch.allclose(from_ray_frame(mapped[2], where.rays, where.cis), v, atol=1e-4)  # v there and back
    # q . k depends on the two cameras' relative pose alone: at the same token the maps cancel
    assert torch.allclose((mapped[0] * mapped[1]).sum(-1), (q * k).sum(-1), atol=1e-3)


@torch.no_grad()
def test_cross_attention_does_not_look_at_padding_and_is_softmax_over_the_words() -> None:
    module, x, text = shaken(CrossAttention(CFG)), normal(1, FRAMES, 6, 32), normal(1, 1, 5, 32, seed=1)
    mask = torch.tensor([[[1.0, 1, 1, 0, 0]]])
    q = module.q_norm(module.q(x)).flatten(1, 2).unflatten(-1, (2, 16)).transpose(1, 2)  # (B, H, T N, D)
    k, v = module.kv(text[:, 0, :3]).chunk(2, dim=-1)  # the three words alone
    k, v = (y.unflatten(-1, (2, 16)).transpose(1, 2) for y in (module.k_norm(k), v))
    said = ((q @ k.transpose(-1, -2) / 4).softmax(-1) @ v).transpose(1, 2).flatten(-2)
    expected = module.out(said).unflatten(1, (FRAMES, 6))
    assert torch.allclose(module(x, text, mask), expected, atol=CLOSE)


def chunk(number: int, batch: int = 1) -> KVChunk:
    """Return a chunk of one frame of six tokens whose keys and values are all `number`."""
    return KVChunk(*[torch.full((batch, 2, 6, 16), float(number))] * 4, torch.ones(batch, dtype=torch.bool))


@pytest.mark.parametrize(
    ("sink", "slots", "kept"),
    [
        (True, 3, [[1, 0, 0], [1, 0, 2], [1, 2, 3], [1, 3, 4]]),  # the first stays, the oldest other goes
        (False, 3, [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]),
        (True, 1, [[1], [1], [1], [1]]),
        (False, 1, [[1], [2], [3], [4]]),
        (False, 0, [[], [], [], []]),
        (True, None, [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]),
    ],
)
def test_the_window_holds_the_first_chunk_and_the_latest(
    sink: bool, slots: int | None, kept: list[list[int]]
) -> None:
    cfg = dataclasses.replace(CFG, sink=sink, window_chunks=slots)
    window = WindowState(())
    for number, expected in enumerate(kept, start=1):
        window = commit(window, chunk(number), cfg, tokens_per_frame=6)
        assert [int(c.k[0, 0, 0, 0]) for c in window.chunks] == expected
        assert [bool(c.valid[0]) for c in window.chunks] == [number > 0 for number in expected]
