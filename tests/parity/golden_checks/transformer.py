"""Checks of the whole transformer: a clip, its gradients, and streaming with state."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from golden_checks.attention import starts_of, uniform_conv_chunk
from golden_checks.fixture import Fixture, load
from wm_env.kernels.frame_gdn import IMPLEMENTATIONS
from wm_env.model.camera import CameraInput
from wm_env.model.chunks import Chunks
from wm_env.model.config import DiTConfig
from wm_env.model.dit import DiT
from wm_env.model.flow import denoise_chunk, listed_schedule
from wm_env.model.frame_counts import streaming_bounds
from wm_env.model.released.names import convert, table
from wm_env.model.state import BlockState, DiTState, GDNState
from wm_env.model.text import TextTokens


def dit(fixture: Fixture) -> None:
    """Every recorded call, with every implementation of the frame-GDN kernel that is installed."""
    for impl in IMPLEMENTATIONS:
        if impl == "triton" and find_spec("triton") is None:
            continue
        model = build(fixture, impl)
        for name, call in fixture.meta["calls"].items():
            with torch.no_grad():
                out = run(model, fixture, call, arguments(fixture, call))
            for prefix in ("output", "output_bf16"):
                if f"{prefix}.{name}" in fixture:
                    fixture.check(f"{prefix}.{name}", out)


def gradients(fixture: Fixture) -> None:
    """d sum(output * v) / d(inputs and parameters) of every recorded call."""
    source = load(fixture.path.parent / fixture.meta["weights_and_inputs_in"])
    model = build(source)
    ours_of = {row.released: row.ours for row in rows_of(source)}
    parameters = dict(model.named_parameters())
    v = fixture["input.v"]
    for name, call in fixture.meta["calls"].items():
        recorded = fixture.names(f"grad.{name}.")
        if not recorded and f"output.{name}" not in fixture:
            continue
        inputs = {
            key: value.clone().requires_grad_() if value is not None and value.is_floating_point() else value
            for key, value in arguments(source, call).items()
        }
        model.zero_grad()
        out = run(model, source, call, inputs)
        loss = (out * v).sum()
        loss.backward()
        if f"loss.{name}" in fixture:
            recorded_loss = fixture[f"loss.{name}"]
            fixture.check_value(
                f"loss.{name}", loss.reshape(recorded_loss.shape), recorded_loss, like="output"
            )
        if f"output.{name}" in fixture:
            fixture.check(f"output.{name}", out)
        for key in recorded:
            what = key.removeprefix(f"grad.{name}.")
            tensor = inputs.get(what)
            if what.startswith("weight."):
                tensor = parameters[ours_of[what.removeprefix("weight.")] or ""]
            assert tensor is not None and tensor.grad is not None, f"{key}: no gradient arrives"
            fixture.check(key, tensor.grad.reshape(fixture[key].shape))


def streaming(fixture: Fixture) -> None:
    """Chunk by chunk with state: every network call, the clean latents and the state left behind."""
    config = fixture.meta["config"]
    assert config.get("cfg_scale", 1.0) == 1.0, "a streaming fixture with guidance has no recorded text pair"
    assert not any(config["condition_frame_info"].values()), "held streaming frames take no noise"
    window = config["num_cached_blocks"]
    sink_only = window == 1 and config["sink_token"]
    model = build(fixture, window_chunks=window if window > 0 else None, sink=config["sink_token"])
    text = text_of(fixture["input.y"], fixture["input.mask"])
    conditions, plucker = fixture.get("input.camera_conditions"), fixture.get("input.chunk_plucker")
    latents = fixture["input.latents"]
    bounds = streaming_bounds(latents.shape[2], config["base_chunk_frames"])
    schedule = listed_schedule(config["denoising_step_list"])
    held = [int(frame) for frame in config["condition_frame_info"]]

    state: DiTState | None = None
    clean = []
    for index, chunk in enumerate(fixture.meta["chunks"]):
        start, end = bounds[index : index + 2]
        assert (start, end) == (chunk["start_f"], chunk["end_f"]), f"chunk {index} is {start}..{end}"
        camera = None
        if conditions is not None and plucker is not None:
            camera = CameraInput(conditions[:, start:end], plucker[:, :, start:end])
        calls: list[tuple[Tensor, Tensor, Tensor]] = []

        def network(
            x: Tensor, timestep: Tensor, state: Any, camera: Any = camera, calls: Any = calls
        ) -> tuple[Tensor, Any]:
            with torch.no_grad():
                v, new_state = model(x, timestep, text, camera, state)
            calls.append((x, timestep, v))
            return v, new_state

        inside = [frame - start for frame in held if start <= frame < end]
        rule = config.get("update_rule", "euler")
        x, state = denoise_chunk(network, latents[:, :, start:end], state, schedule, held=inside, rule=rule)
        assert len(calls) == chunk["n_calls"], f"chunk {index} took {len(calls)} calls"
        for i, (seen, timestep, v) in enumerate(calls):
            fixture.check(f"chunk{index}.call{i}.x", seen)
            name = f"chunk{index}.call{i}.timestep"
            fixture.check_value(name, timestep, per_frame(fixture[name], timestep))
            if f"chunk{index}.call{i}.out" in fixture:
                fixture.check(f"chunk{index}.call{i}.out", v)
        fixture.check(f"chunk{index}.latents", x)
        assert state is not None
        for number, block in enumerate(state.blocks):
            slots = numbered_slots(block, first=index == 0, sink_only=sink_only)
            for slot, value in slots.items():
                name = f"chunk{index}.cache.block{number}.slot{slot}"
                if name in fixture:
                    fixture.check(name, value)
            if sink_only:  # recorded keys and values that no later call reads
                fixture.used |= {f"chunk{index}.cache.block{number}.slot{slot}" for slot in range(4)}
        clean.append(x)
    assert bounds[-1] == bounds[len(fixture.meta["chunks"])], "the recorded chunks end before the clip"
    fixture.check("output.latents", torch.cat(clean, dim=2))


def numbered_slots(block: BlockState, *, first: bool, sink_only: bool) -> dict[int, Tensor]:
    """Return what a chunk left in a block's state, in the reference's numbered layout.

    See docs/reference/transformer.md#streaming-state.

    sink_only: the window has room for the sink alone, so we keep no keys of later chunks.
    """
    tail = block.ffn_tail.permute(0, 3, 1, 2)  # (B, 1, N, C) -> (B, C, 1, N)
    past = block.attention
    if isinstance(past, GDNState):
        per_site = [
            t.permute(0, 2, 1, 3).flatten(0, 1) for t in (past.conv_k_cam, past.conv_k)
        ]  # (B*N, 3, C)
        return {
            0: past.S.transpose(-1, -2),
            1: past.z[..., None],
            2: past.S_cam,
            3: per_site[0],
            4: per_site[1],
            6: torch.tensor(1.0),
            9: tail,
        }
    if sink_only and not first:
        return {6: torch.tensor(0.0), 9: tail}
    newest = past.chunks[0] if first and bool(past.chunks[0].valid.all()) else past.chunks[-1]
    return {0: newest.k, 1: newest.v, 2: newest.k_cam, 3: newest.v_cam, 6: torch.tensor(0.0), 9: tail}


def config_of(fixture: Fixture, **window: Any) -> DiTConfig:
    config = fixture.meta["config"]
    return DiTConfig(
        latent_channels=config["in_channels"],
        hidden=config["hidden"],
        heads=config["heads"],
        depth=config["depth"],
        caption_channels=config["caption_channels"],
        softmax_every=config["softmax_every_n"],
        ffn_ratio=config["mlp_ratio"],
        gdn_eps=config["attn_eps"],
        qk_norm_eps=config["qk_norm_eps"],
        cross_norm_eps=config["cross_norm_eps"],
        caption_norm_eps=config["y_norm_eps"],
        **({"window_chunks": None} | window),
    )


def rows_of(fixture: Fixture, **window: Any) -> list[Any]:
    return table(config_of(fixture, **window), caption_tokens=fixture.meta["config"]["text_len"])


def build(fixture: Fixture, impl: str = "chunk", **window: Any) -> DiT:
    model = DiT(config_of(fixture, **window), impl)
    model.load_state_dict(convert(fixture.weights(), rows_of(fixture, **window)), strict=True)
    return model


def arguments(fixture: Fixture, call: dict[str, Any]) -> dict[str, Tensor | None]:
    """Return the tensors of a call: `input.<name>` unless the call says otherwise (null, `[...]`)."""
    found: dict[str, Tensor | None] = {}
    for name in ("x", "timestep", "y", "mask", "camera_conditions", "chunk_plucker"):
        said = call.get(name, f"input.{name}")
        found[name] = None if said is None else expression(fixture, said)
    return found


def expression(fixture: Fixture, text: str) -> Tensor:
    """Return the tensor of `name` or `name[:,0,-1]`."""
    match = re.fullmatch(r"([\w.]+)(?:\[([\d:,\s-]+)\])?", text)
    assert match, f"cannot read the recorded argument {text!r}"
    tensor = fixture[match[1]]
    if match[2] is None:
        return tensor
    return tensor[tuple(slice(None) if part.strip() == ":" else int(part) for part in match[2].split(","))]


def run(model: DiT, fixture: Fixture, call: dict[str, Any], inputs: dict[str, Tensor | None]) -> Tensor:
    x, timestep, y, mask = (inputs[name] for name in ("x", "timestep", "y", "mask"))
    conditions, plucker = inputs["camera_conditions"], inputs["chunk_plucker"]
    assert x is not None and timestep is not None and y is not None and mask is not None
    assert (conditions is None) == (plucker is None), "poses and Plücker maps come together or not at all"
    camera = CameraInput(conditions, plucker) if conditions is not None and plucker is not None else None
    out, _ = model(
        x,
        timestep.flatten(1) if timestep.ndim > 1 else timestep[:, None],  # (B, 1, T) or (B,)
        text_of(y, mask),
        camera,
        chunks=Chunks(starts_of(call, x.shape[2]), uniform=uniform_conv_chunk(fixture.meta["config"] | call)),
    )
    return out


def text_of(y: Tensor, mask: Tensor) -> TextTokens:
    return TextTokens(y[:, 0], mask.reshape(len(mask), -1))  # (B, 1, L, E), (B, L) or (B, 1, 1, L)


def per_frame(recorded: Tensor, like: Tensor) -> Tensor:
    """Return a recorded timestep `(B, 1, n)` or `(B,)` as `(B, n)`."""
    return recorded.reshape(recorded.shape[0], -1).expand_as(like)
