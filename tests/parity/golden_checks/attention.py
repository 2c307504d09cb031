"""Checks of self-attention modules, ray transforms and Plücker maps."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from golden_checks.fixture import Fixture
from wm_env.kernels.temporal_conv import short_conv
from wm_env.model.attention import GDNAttention, Geometry, SoftmaxAttention, from_ray_frame, to_ray_frame
from wm_env.model.camera import Rays, camera_input, clip_windows, ray_transforms
from wm_env.model.chunks import Chunks
from wm_env.model.config import DiTConfig
from wm_env.model.frame_counts import chunk_starts, explicit_starts
from wm_env.model.geometry import relative_to_first
from wm_env.model.intrinsics import cover_crop, crop_intrinsics, intrinsics_per_frame
from wm_env.model.layers import RMSNorm, camera_rotary, rotary
from wm_env.model.released.names import attention_rows, convert


def starts_of(case: dict[str, Any], frames: int) -> tuple[int, ...]:
    """Return the chunk starts of a call: an explicit list, else a size and a rule, else one chunk."""
    size = case.get("chunk_size")
    if case.get("chunk_index") is not None:
        return explicit_starts(frames, case["chunk_index"])
    return chunk_starts(frames, size, case.get("chunk_split_strategy", "uniform"))


def uniform_conv_chunk(case: dict[str, Any]) -> int | None:
    """Return the chunk size of the reference's convolution quirk, where the metadata says that it is on."""
    return int(case["chunk_size"]) if case.get("conv_chunks") == "uniform" else None


def complex_table(pairs: Tensor) -> Tensor:
    return torch.view_as_complex(pairs.contiguous())


def gdn_attention(fixture: Fixture) -> None:
    config = fixture.meta["config"]
    for name, case in fixture.meta["cases"].items():
        _attention_case(fixture, config, name, case)


def _attention_case(fixture: Fixture, config: dict[str, Any], name: str, case: dict[str, Any]) -> None:
    frames, height, width = config["THW"]
    softmax = case["attn"] == "softmax"
    module, cfg = _module(fixture, config, softmax)
    x = fixture["input.x"].unflatten(1, (frames, height * width))  # (B, T, N, C)
    batch = x.shape[0]

    table = rotary(torch.arange(frames)[None], height, width, cfg)  # (1, T, N, D/2)
    pairs = torch.view_as_real(table)[0].flatten(0, 1)  # (T*N, D/2, 2)
    fixture.check("input.rope_cis_f64", pairs)
    for part, values in (("cos", pairs[..., 0]), ("sin", pairs[..., 1])):
        if f"input.rope_{part}" in fixture:
            fixture.check(f"input.rope_{part}", values)
    cis = table.expand(batch, -1, -1, -1)

    starts = starts_of(case, frames)
    if "normalized_chunk_index" in case:
        assert [*starts, frames] == case["normalized_chunk_index"], f"{name}: chunk boundaries {starts}"
    if softmax and (case.get("chunk_size") or 0) >= frames:
        # the reference's softmax blocks drop all chunking then, explicit lists too
        # (docs/reference/transformer.md#chunks)
        starts = (0,)

    rays = None
    if "input.camera_conditions" in fixture:
        rays = ray_transforms(fixture["input.camera_conditions"], height, width)
    outputs = {"output": rays} if rays is None else {"output": rays, "output_nocam": None}
    for prefix, camera in outputs.items():
        recorded = f"{prefix}.{name}"
        if recorded not in fixture:
            continue
        out, raw = _run(module, x, Geometry(cis, camera), starts, case)
        fixture.check(recorded, out.flatten(1, 2))
        variants = {"output_bf16": out, "output_raw": raw} if prefix == "output" else {}
        for variant, value in variants.items():
            if f"{variant}.{name}" in fixture:
                fixture.check(f"{variant}.{name}", value.flatten(1, 2))
    if isinstance(module, GDNAttention):
        _intermediates(fixture, module, x, name, starts, case)


def _run(
    module: GDNAttention | SoftmaxAttention,
    x: Tensor,
    geometry: Geometry,
    starts: tuple[int, ...],
    case: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Return the module's output and the sum of its branches before the output gate, both `(B, T, N, C)`."""
    raw: list[Tensor] = []
    merge = type(module).merge

    def remember(x: Tensor, main: Tensor, camera: Tensor | None) -> Tensor:
        raw.append(main if camera is None else main + module.camera.out(camera))
        return merge(module, x, main, camera)

    module.merge = remember  # type: ignore[method-assign]
    with torch.no_grad():
        out, _ = module(x, geometry, None, Chunks(starts, uniform=uniform_conv_chunk(case)))
    return out, raw[0]


def _intermediates(
    fixture: Fixture,
    module: GDNAttention,
    x: Tensor,
    name: str,
    starts: tuple[int, ...],
    case: dict[str, Any],
) -> None:
    with torch.no_grad():
        beta, log_decay = module.gates(x)
        if "inter.beta" in fixture:
            fixture.check("inter.beta", beta)
        if "inter.decay" in fixture:
            fixture.check("inter.decay", log_decay.exp())
        if f"inter.k_conv.{name}" in fixture:
            key = module.qkv(x).chunk(3, dim=-1)[1]
            mixed, _ = short_conv(
                key, module.conv_k, chunk_starts=starts, compat_uniform_chunk=uniform_conv_chunk(case)
            )
            fixture.check(f"inter.k_conv.{name}", mixed.flatten(1, 2))


def _module(
    fixture: Fixture, config: dict[str, Any], softmax: bool
) -> tuple[GDNAttention | SoftmaxAttention, DiTConfig]:
    cfg = DiTConfig(
        latent_channels=1,
        hidden=config["hidden"],
        heads=config["heads"],
        depth=1,
        caption_channels=1,
        softmax_every=1 if softmax else 2,
        window_chunks=None,
        short_conv_kernel=config["conv_kernel_size"],
        gdn_eps=config["eps"],
        qk_norm_eps=config["qk_norm_eps"],
    )
    weights = fixture.weights()
    if softmax:  # the file's weights serve both kinds of block; softmax blocks have no convolution
        weights = {key: value for key, value in weights.items() if not key.startswith("conv_k")}
    has_camera = any(key.endswith("_proj_cam.weight") for key in weights)
    rows = [
        row
        for row in attention_rows(cfg, softmax, "", "")
        if has_camera or not (row.ours or "").startswith("camera.")
    ]
    module = SoftmaxAttention(cfg) if softmax else GDNAttention(cfg)
    missing, unexpected = module.load_state_dict(convert(weights, rows), strict=False)
    assert not unexpected
    assert all(key.startswith("camera.") and not has_camera for key in missing), missing
    return module, cfg


def ucpe(fixture: Fixture) -> None:
    config = fixture.meta["config"]
    frames, height, width = config["FHW"]
    head_dim, tokens = config["head_dim"], height * width
    rays = ray_transforms(fixture["input.camera_conditions"], height, width)
    flat = Rays(*(matrices.flatten(1, 2) for matrices in rays))  # (B, T*N, 4, 4)
    fixture.check("output.P", flat.to_ray)
    fixture.check("output.P_T", flat.to_ray.transpose(-1, -2))
    fixture.check("output.P_inv", flat.to_world)
    fixture.check("output.raymats", rays.to_ray.unflatten(2, (height, width)))
    fixture.used.add("output.absmap")  # unused by the model; its tolerance says not to test it

    cfg = DiTConfig(
        latent_channels=1,
        hidden=head_dim * config["heads"],
        heads=config["heads"],
        depth=1,
        caption_channels=1,
    )
    table = rotary(torch.arange(frames)[None], height, width, cfg)  # (1, T, N, D/2)
    fixture.check("input.rope_cis_f64", torch.view_as_real(table)[0].flatten(0, 1))
    fixture.check("output.rope_cam_cis_f64", torch.view_as_real(camera_rotary(table))[0].flatten(0, 1))
    raw = [
        fixture[f"input.{name}"].transpose(1, 2).unflatten(1, (frames, tokens)) for name in ("q", "kv", "o")
    ]  # (B, T, N, H, D) each
    cis = table.expand(raw[0].shape[0], -1, -1, -1)

    def recorded_order(x: Tensor) -> Tensor:
        return x.flatten(1, 2).transpose(1, 2)  # (B, T, N, H, ...) -> (B, H, T*N, ...)

    q, kv, _ = to_ray_frame(raw[0], raw[1], raw[1], rays, cis)
    fixture.check("output.q", recorded_order(q))
    fixture.check("output.kv", recorded_order(kv))
    fixture.check("output.o", recorded_order(from_ray_frame(raw[2], rays, cis)))

    def prepare(x: Tensor, weight: Tensor) -> Tensor:
        norm = RMSNorm(cfg.hidden, config["norm_eps"])
        norm.load_state_dict({"weight": weight})
        with torch.no_grad():
            return norm(x.flatten(-2)).relu().unflatten(-1, (cfg.heads, head_dim))

    q = prepare(raw[0], fixture["input.prep.q_norm_weight"])
    k = prepare(raw[1], fixture["input.prep.k_norm_weight"]) * (head_dim**-0.5 * tokens**-0.5)
    before = k.square().sum(-1)
    q, k, v = to_ray_frame(q, k, raw[2], rays, cis)
    inflation = k.square().sum(-1).clamp_min(1e-12) / before.clamp_min(1e-12)
    for name, value in (("q", q), ("k", k), ("v", v)):
        fixture.check(f"output.prep.{name}", recorded_order(value).transpose(-1, -2))
    fixture.check("output.prep.inflation_sq", recorded_order(inflation))


def plucker(fixture: Fixture) -> None:
    config = fixture.meta["config"]
    frames, frame_size = config["F"], tuple(config["target_size"])
    stride = config["vae_stride"][0]
    grid = tuple(config["latent"][1:])
    c2w = relative_to_first(fixture["input.c2w"])[None]  # (1, F, 4, 4)
    matrices = fixture["input.K"]
    pixels = intrinsics_per_frame(matrices, frames)  # (F, 4)
    camera = camera_input(c2w, pixels[None], frame_size, grid, clip_windows(frames, stride))
    fixture.check("output.camera_conditions", camera.conditions[0])
    fixture.check("output.chunk_plucker", camera.plucker[0])

    for name in fixture.names("output."):
        form = name.removeprefix("output.")
        if form == "intrinsics_vec4":
            fixture.check(name, pixels)
            assert torch.equal(intrinsics_per_frame(pixels, frames), pixels)
        elif match := re.fullmatch(r"resampled_(\d+)_to_F", form):
            fixture.check(name, intrinsics_per_frame(matrices[: int(match[1])], frames))
        elif form == "single_3x3":
            fixture.check(name, intrinsics_per_frame(matrices[0], len(fixture[name])))
        elif match := re.fullmatch(r"truncated_F_to_(\d+)", form):
            fixture.check(name, intrinsics_per_frame(matrices, int(match[1])))
        elif match := re.fullmatch(r"crop_(\d+)x(\d+)_to_(\d+)x(\d+)", form):
            w, h, to_w, to_h = (int(number) for number in match.groups())
            resized, corner = cover_crop((h, w), (to_h, to_w))
            rows = intrinsics_per_frame(matrices, len(fixture[name]))
            fixture.check(name, crop_intrinsics(rows, (h, w), resized, corner))
