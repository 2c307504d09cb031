"""Writes this folder's fixtures: our model at small odd sizes with random weights, recorded in float64.

    python tests/parity/own/make.py

The format is that of the golden fixtures, so the same checks read both. What is recorded is the slow
frame-by-frame recurrence with the model's casts to float32 lifted; the checks run the fast one in float32.
These files guard against change; agreement with the reference needs the golden folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor

from wm_env.model import flow, layers
from wm_env.model.attention import GDNAttention, Geometry, SoftmaxAttention
from wm_env.model.camera import CameraInput, ray_transforms
from wm_env.model.chunks import Chunks
from wm_env.model.config import DiTConfig
from wm_env.model.dit import DiT
from wm_env.model.frame_counts import chunk_starts, streaming_bounds
from wm_env.model.geometry import se3_exp
from wm_env.model.kinematics import KEYS, KeyMotion, c2w_from_actions
from wm_env.model.metrics import pose_errors
from wm_env.model.refiner.truncated import REFINER_SIGMAS, pack, refine_blocks, refine_clip
from wm_env.model.released.names import Row, attention_rows, table
from wm_env.model.text import TextTokens

FOLDER = Path(__file__).parent
ATTENTION, WHOLE = {"rel": 3e-6}, {"rel": 1e-5}


@contextmanager
def float64() -> Iterator[None]:
    """Every `.float()` and complex64 of the model becomes its double twin, so that nothing is rounded.

    Only the timestep features stay float32, as they are by definition
    (docs/reference/transformer.md#embeddings).
    """
    single = Tensor.float

    def timestep_features(timestep: Tensor) -> Tensor:
        with patch.object(Tensor, "float", single):
            return layers.timestep_features(timestep)

    def rotary(positions: Tensor, height: int, width: int, cfg: DiTConfig) -> Tensor:
        with patch.object(torch, "complex64", torch.complex128):
            return layers.rotary(positions, height, width, cfg)

    with (
        patch.object(Tensor, "float", Tensor.double),
        patch("wm_env.model.dit.rotary", rotary),
        patch("wm_env.model.dit.timestep_features", timestep_features),
    ):
        yield


def save(name: str, tensors: dict[str, Tensor], **meta: Any) -> None:
    single = {key: value.detach().contiguous() for key, value in tensors.items()}
    single = {key: value.float() if value.is_floating_point() else value for key, value in single.items()}
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in meta.items()}
    save_file(single, FOLDER / f"{name}.safetensors", text)


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Move every parameter off its identity initialisation, by float32 values (what the file can hold)."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            value = 1 + 0.1 * noise
        elif parameter.ndim > 1:
            value = noise * parameter[0].numel() ** -0.5
        else:
            value = 0.3 * noise
        parameter.data = value.double()


def released(module: torch.nn.Module, rows: list[Row]) -> dict[str, Tensor]:
    """Return `weight.<released key>` of every row; dead rows hold zeros."""
    ours = module.state_dict()
    return {
        f"weight.{row.released}": torch.zeros(row.released_shape)
        if row.ours is None
        else ours[row.ours].reshape(row.released_shape)
        for row in rows
    }


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def camera_path(batch: int, frames: int, grid: tuple[int, int]) -> Tensor:
    """Return camera conditions `(B, T, 20)` of a random walk."""
    steps = se3_exp(0.15 * normal(5, batch, frames, 6))
    poses = [torch.eye(4, dtype=torch.float64).expand(batch, 4, 4)]
    for frame in range(1, frames):
        poses.append(poses[-1] @ steps[:, frame])
    height, width = grid
    intrinsics = torch.tensor([0.9 * width, 0.8 * height, width / 2, height / 2]).expand(batch, frames, 4)
    return torch.cat([torch.stack(poses, 1).flatten(-2), intrinsics], dim=-1).float().double()


def attention() -> None:
    batch, frames, height, width, hidden, heads = 2, 6, 2, 3, 16, 2
    cases: dict[str, dict[str, Any]] = {
        "clip": {"attn": "gdn"},
        "uniform_2": {"attn": "gdn", "chunk_size": 2, "chunk_split_strategy": "uniform"},
        "first_frame_2": {"attn": "gdn", "chunk_size": 2, "chunk_split_strategy": "first_frame"},
        "softmax_uniform_4": {"attn": "softmax", "chunk_size": 4, "chunk_split_strategy": "uniform"},
    }
    shape = {"latent_channels": 1, "caption_channels": 1, "depth": 1, "hidden": hidden, "heads": heads}
    cfg = DiTConfig(**shape, softmax_every=2, window_chunks=None)
    gdn, softmax = GDNAttention(cfg, "naive").double(), SoftmaxAttention(cfg).double()
    randomise(gdn, 1)
    shared = {key: value for key, value in gdn.state_dict().items() if key in softmax.state_dict()}
    softmax.load_state_dict(shared)
    x = normal(2, batch, frames * height * width, hidden)
    conditions = camera_path(batch, frames, (height, width))
    positions = torch.arange(frames)[None]
    with float64(), patch.object(torch, "complex64", torch.complex128):
        cis = layers.rotary(positions, height, width, cfg)
        rays = ray_transforms(conditions, height, width)
    tensors = {
        "input.x": x,
        "input.camera_conditions": conditions,
        "input.rope_cis_f64": torch.view_as_real(cis)[0].flatten(0, 1),
        **released(gdn, list(attention_rows(cfg, False, "", ""))),
    }
    cis = cis.expand(batch, -1, -1, -1)
    for name, case in cases.items():
        starts = chunk_starts(frames, case.get("chunk_size"), case.get("chunk_split_strategy", "uniform"))
        case["normalized_chunk_index"] = [*starts, frames]
        for prefix, seen in (("output", rays), ("output_nocam", None)):
            args = (x.unflatten(1, (frames, -1)), Geometry(cis, seen), None)
            with float64(), torch.no_grad():
                out, _ = (gdn if case["attn"] == "gdn" else softmax)(*args, Chunks(starts))
            tensors[f"{prefix}.{name}"] = out.flatten(1, 2)
    config = {
        "hidden": hidden, "heads": heads, "head_dim": hidden // heads, "B": batch,
        "THW": [frames, height, width], "eps": 1e-8, "qk_norm_eps": 1e-5, "conv_kernel_size": 4,
    }  # fmt: skip
    tolerances = {"output": ATTENTION}
    save(
        "own_attention", tensors, kind="gdn_ucpe_attention", config=config, cases=cases, tolerances=tolerances
    )


SIZES = {
    "hidden": 16, "heads": 2, "depth": 2, "softmax_every_n": 2, "in_channels": 3, "mlp_ratio": 2,
    "caption_channels": 5, "text_len": 4, "attn_eps": 1e-8, "qk_norm_eps": 1e-5, "cross_norm_eps": 1e-6,
    "y_norm_eps": 1e-5,
}  # fmt: skip


def small_dit(sizes: dict[str, Any], seed: int, **window: Any) -> tuple[DiT, dict[str, Tensor]]:
    cfg = DiTConfig(
        latent_channels=sizes["in_channels"], hidden=sizes["hidden"], heads=sizes["heads"],
        depth=sizes["depth"], softmax_every=sizes["softmax_every_n"], ffn_ratio=sizes["mlp_ratio"],
        caption_channels=sizes["caption_channels"], **window,
    )  # fmt: skip
    model = DiT(cfg, impl="naive").double()
    randomise(model, seed)
    return model, released(model, table(cfg, caption_tokens=sizes["text_len"]))


def dit_inputs(batch: int, frames: int, grid: tuple[int, int]) -> dict[str, Tensor]:
    mask = torch.ones(batch, SIZES["text_len"], dtype=torch.int64)
    mask[0, -1] = 0
    return {
        "input.x": normal(10, batch, SIZES["in_channels"], frames, *grid),
        "input.y": normal(11, batch, 1, SIZES["text_len"], SIZES["caption_channels"]),
        "input.mask": mask,
        "input.camera_conditions": camera_path(batch, frames, grid),
        "input.chunk_plucker": normal(12, batch, 48, frames, *grid),
    }


def clip() -> None:
    batch, frames, grid = 2, 5, (2, 3)
    model, weights = small_dit(SIZES, 3, window_chunks=None)
    inputs = dit_inputs(batch, frames, grid)
    time = torch.tensor([[0.0, 999.5, 999.5, 500.2, 500.2], [0.0, 31.9, 700.0, 700.0, 1000.0]]).double()
    inputs["input.timestep"] = time[:, None]
    text = TextTokens(inputs["input.y"][:, 0], inputs["input.mask"])
    camera = CameraInput(inputs["input.camera_conditions"], inputs["input.chunk_plucker"])
    calls: dict[str, dict[str, Any]] = {
        "whole": {"chunk_index": None},
        "chunks": {"chunk_index": [0, 1, 3]},
        "no_camera": {"chunk_index": None, "camera_conditions": None, "chunk_plucker": None},
    }
    tensors = inputs | weights
    for name, call in calls.items():
        starts = call["chunk_index"] or (0,)
        with float64(), torch.no_grad():
            seen = None if name == "no_camera" else camera
            out, _ = model(inputs["input.x"], time, text, seen, chunks=Chunks(tuple(starts)))
        tensors[f"output.{name}"] = out
    config = SIZES | {"B": batch, "THW": [frames, *grid]}
    save("own_clip", tensors, kind="dit", config=config, calls=calls, tolerances={"output": WHOLE})


def stream() -> None:
    frames, grid, base = 7, (2, 2), 2
    narrow = SIZES | {"hidden": 8, "heads": 1}
    model, weights = small_dit(narrow, 9, window_chunks=2, sink=True)
    inputs = dit_inputs(1, frames, grid)
    latents = inputs.pop("input.x")
    text = TextTokens(inputs["input.y"][:, 0], inputs["input.mask"])
    bounds, steps = streaming_bounds(frames, base), [1000, 700, 0]
    tensors, chunks, state, clean = {**inputs, **weights, "input.latents": latents}, [], None, []
    for index, (start, end) in enumerate(pairwise(bounds)):
        camera = CameraInput(
            inputs["input.camera_conditions"][:, start:end], inputs["input.chunk_plucker"][:, :, start:end]
        )
        calls: list[tuple[Tensor, Tensor, Tensor]] = []

        def network(
            x: Tensor, timestep: Tensor, state: Any, camera: Any = camera, calls: Any = calls
        ) -> tuple[Tensor, Any]:
            with float64(), torch.no_grad():
                v, new_state = model(x, timestep, text, camera, state)
            calls.append((x, timestep, v))
            return v, new_state

        with float64():
            x, state = flow.denoise_chunk(
                network, latents[:, :, start:end], state, flow.listed_schedule(steps), held=[0][: start == 0]
            )
        for i, (seen, timestep, v) in enumerate(calls):
            tensors[f"chunk{index}.call{i}.x"] = seen
            tensors[f"chunk{index}.call{i}.timestep"] = timestep[:, None]
            tensors[f"chunk{index}.call{i}.out"] = v
        tensors[f"chunk{index}.latents"] = x
        clean.append(x)
        chunks.append({"start_f": start, "end_f": end, "n_calls": len(calls)})
    tensors["output.latents"] = torch.cat(clean, dim=2)
    config = narrow | {
        "base_chunk_frames": base, "num_cached_blocks": 2, "sink_token": True, "cfg_scale": 1.0,
        "denoising_step_list": steps, "condition_frame_info": {"0": 0.0}, "update_rule": "euler",
    }  # fmt: skip
    save("own_stream", tensors, kind="streaming", config=config, chunks=chunks, tolerances={"": WHOLE})


def samplers() -> None:
    frames, steps, shift = 5, 3, 8.0
    latents, texts = normal(20, 1, 2, frames, 1, 2), normal(21, 2, 1, 1, 2, 3)
    toy = {"formula": "v = a*x + b*t/1000 + c*mean(y)", "a": 0.7, "b": -0.4, "c": 0.9}
    tensors = {"input.latents": latents, "input.condition": texts[0], "input.uncondition": texts[1]}
    cases: dict[str, dict[str, Any]] = {
        "clip_cfg3": {"cls": "LTXFlowEuler", "cfg_scale": 3.0},
        "staggered": {"cls": "ChunkFlowEuler", "cfg_scale": 1.0, "chunk_index": [0, 2, 3]},
    }
    schedule = flow.shifted_schedule(steps, shift)
    for name, case in cases.items():
        calls: list[tuple[Tensor, Tensor, Tensor, Any]] = []

        def network(x: Tensor, time: Tensor, starts: Any, text: Tensor, calls: Any = calls) -> Tensor:
            mean = text.flatten(1).mean(1)[:, None, None, None, None]
            v = toy["a"] * x + toy["b"] * time[:, None, :, None, None] / 1000 + toy["c"] * mean
            calls.append((x, time, v, starts))
            return v

        velocity = flow.guide(network, texts[1], texts[0], case["cfg_scale"])
        solve: Callable[..., Tensor] = flow.flow_euler_ltx if name == "clip_cfg3" else flow.chunk_flow_euler
        extra = {"starts": case["chunk_index"]} if "chunk_index" in case else {}
        with float64():
            tensors[f"output.{name}"] = solve(velocity, latents, schedule, held={0: 0.0}, **extra)
        for i, (x, time, v, _) in enumerate(calls):
            tensors |= {
                f"{name}.call{i}.x": x,
                f"{name}.call{i}.timestep": time[:, None],
                f"{name}.call{i}.v": v,
            }
        active = [list(starts) if extra else None for *_, starts in calls]
        case |= {"condition_frame_info": {"0": 0.0}, "n_calls": len(calls), "chunk_index_per_call": active}
    name = f"schedule.shift{shift}.steps{steps}"
    tensors |= {f"{name}.sigmas": schedule.sigmas, f"{name}.timesteps": schedule.timesteps}
    config = {"T": frames, "steps": steps, "flow_shift": shift, "toy": toy}
    save("own_samplers", tensors, kind="samplers", config=config, cases=cases, tolerances={"": {"rel": 1e-5}})


def refiner() -> None:
    latents = normal(30, 1, 2, 4, 2, 2)
    noises = {"single.noise": normal(31, 1, 2, 3, 2, 2), "ar.noise0": normal(32, 1, 2, 2, 2, 2)}
    noises["ar.noise1"] = normal(33, 1, 2, 1, 2, 2)
    toy = "v = 0.6*x - 0.3*timestep/1000 + 0.1*token_index/num_tokens"
    calls: list[tuple[Tensor, Tensor]] = []

    def network(tokens: Tensor, timestep: Tensor, span: Any, memory: Any) -> tuple[Tensor, Any]:
        if bool((timestep > 0).any()):
            calls.append((tokens, timestep))
        place = torch.arange(tokens.shape[1], dtype=torch.float64)[:, None] / tokens.shape[1]
        return 0.6 * tokens - 0.3 * timestep[..., None] / 1000 + 0.1 * place, None

    tensors = {"input.latent": latents, "sigmas": torch.tensor(REFINER_SIGMAS), **noises}
    cases: dict[str, dict[str, Any]] = {"single": {"sink_size": 1}, "ar": {"sink_size": 1, "block_size": 2}}
    for name, case in cases.items():
        calls.clear()
        with float64():
            tensors[f"output.{name}"] = (
                refine_clip(network, latents, noises["single.noise"])
                if name == "single"
                else refine_blocks(network, latents, lambda block: noises[f"ar.noise{block}"], block=2)
            )
        case["n_calls"] = len(calls)
        for i, (tokens, timestep) in enumerate(calls):
            tensors |= {f"{name}.call{i}.tokens": tokens, f"{name}.call{i}.timestep": timestep}
    x = normal(34, 1, 3, 2, 2, 4)
    tensors |= {"pack.x": x, "pack.tokens_p2": pack(x, 2)}
    save(
        "own_refiner",
        tensors,
        kind="refiner",
        config={"toy": toy},
        cases=cases,
        tolerances={"": {"rel": 1e-5}},
    )


def paths() -> None:
    cases: dict[str, dict[str, Any]] = {
        "walk": {"action": "w-6,wd-5,none-4"},
        "look": {"action": "i-20,jk-3", "pitch_limit_deg": 5.0, "rotation_speed_deg": 1.5},
        "abrupt": {"action": "sa-3,l-2", "smooth": False},
    }
    tensors = {}
    for name, case in cases.items():
        settings = {key: value for key, value in case.items() if key not in ("action", "smooth")}
        motion = KeyMotion(**settings, inertia=case.get("smooth", True))
        tensors[f"{name}.c2w"] = c2w_from_actions(case["action"], motion)
    strings = [
        {"action": "W-2", "raises": False, "frames": 3},
        {"action": "x-2", "raises": True, "type": "ValueError"},
    ]
    meta = {"strings": strings, "allowed_keys": "".join(sorted(KEYS)), "tolerances": {"": {"abs": 1e-6}}}
    save("own_actions", tensors, kind="actions", cases=cases, **meta)

    truth = c2w_from_actions("wd-10,l-4", KeyMotion(inertia=False))
    prediction = c2w_from_actions("w-5,wa-5,l-4", KeyMotion(inertia=False))
    rotation, translation, cammc = pose_errors(truth.float(), prediction.float(), "upstream").means()
    case = {"F": len(truth), "RotErr_deg": rotation, "TransErr_rel": translation, "CamMC_rel": cammc}
    tolerances = {"RotErr": {"abs_deg": 5e-3, "abs_deg_near_zero": 5e-2}, "": {"abs": 1e-5}}
    pair = {"pair.gt_c2w": truth, "pair.pred_c2w": prediction}
    save("own_poses", pair, kind="pose_metrics", cases={"pair": case}, tolerances=tolerances)


if __name__ == "__main__":
    for write in (attention, clip, stream, samplers, refiner, paths):
        write()
