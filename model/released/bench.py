"""Time one streaming chunk of stage 1 with random weights: no download, no image, no decoder.

    python -m wm_env.model.released.bench --size full --device cuda --json out.json
    python -m wm_env.model.released.bench --size tiny                              (the same code on a CPU)
    python -m wm_env.model.released.bench --size tiny --against-diffusers

Reports seconds per chunk (5 forwards of the transformer) and peak GPU memory. With --against-diffusers, our
whole-clip forward and that of diffusers' bidirectional transformer run in turn on the same weights and
inputs, in CPU time, so that other work on the machine hardly counts.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from wm_env.kernels.frame_gdn import resolve_impl
from wm_env.model.camera import CameraInput
from wm_env.model.config import DiTConfig, sana_wm
from wm_env.model.dit import DiT
from wm_env.model.flow import STUDENT_STEPS, denoise_chunk, listed_schedule
from wm_env.model.released.stage1 import name_from_diffusers, rows_in_diffusers
from wm_env.model.released_names import convert
from wm_env.model.text import TextTokens

TINY = dataclasses.replace(sana_wm(), hidden=128, heads=4, depth=4, caption_channels=48, latent_channels=16)
GRIDS = {"full": (22, 40), "tiny": (4, 6)}
TEXT = {"full": 300, "tiny": 20}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Time stage 1 of the streaming model with random weights."""

    size: Literal["full", "tiny"] = "tiny"
    """"full" is the released 2.66 B model at 704x1280."""
    device: str = "cpu"
    """Torch device."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of weights and activations."""
    chunks: int = 3
    """Timed chunks, after one that warms up."""
    against_diffusers: bool = False
    """Compare one whole-clip forward with diffusers' transformer instead (tiny, CPU, float32)."""
    json: Path | None = None
    """File for the result as JSON."""

    def run(self) -> dict[str, Any]:
        if self.chunks < 1:
            raise ValueError(f"--chunks {self.chunks} must be at least 1")
        facts: dict[str, Any] = {
            "hardware": torch.cuda.get_device_name() if self.device != "cpu" else platform.processor(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        result = facts | (self._compare() if self.against_diffusers else self._stream())
        print(json.dumps(result, indent=2))
        if self.json is not None:
            self.json.write_text(json.dumps(result, indent=2) + "\n")
        return result

    @torch.inference_mode()
    def _stream(self) -> dict[str, Any]:
        cfg = sana_wm() if self.size == "full" else TINY
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.dtype]
        impl = resolve_impl("auto", self.device)
        dit = random_transformer(cfg, impl, self.device, dtype)
        grid = GRIDS[self.size]
        text = TextTokens(
            torch.randn(1, TEXT[self.size], cfg.caption_channels, device=self.device, dtype=dtype),
            torch.ones(1, TEXT[self.size], device=self.device, dtype=dtype),
        )
        state, seconds = dit.empty_state(1, grid, cfg.chunk_frames + 1), []
        schedule = listed_schedule(STUDENT_STEPS)
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        for chunk in range(self.chunks + 1):
            frames = cfg.chunk_frames + (chunk == 0)
            x = torch.randn(1, cfg.latent_channels, frames, *grid, device=self.device, dtype=dtype)
            camera = _forward_camera(cfg, frames, grid, self.device)

            def network(x: Tensor, timestep: Tensor, state: Any, camera: CameraInput = camera) -> Any:
                return dit(x, timestep, text, camera, state)

            _wait(self.device)
            started = time.perf_counter()
            _, state = denoise_chunk(network, x, state, schedule)
            _wait(self.device)
            seconds.append(time.perf_counter() - started)
        timed = sorted(seconds[1:])
        return {
            "what": f"a streaming chunk of stage 1, {self.size}, {grid[0]}x{grid[1]}, {self.dtype}, {impl}",
            "parameters": sum(parameter.numel() for parameter in dit.parameters()),
            "seconds_per_chunk": timed[len(timed) // 2],
            "seconds_all": seconds,
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if self.device != "cpu" else None,
        }

    @torch.inference_mode()
    def _compare(self) -> dict[str, Any]:
        from diffusers import SanaWMTransformer3DModel

        cfg = dataclasses.replace(TINY, window_chunks=None)
        torch.manual_seed(0)
        theirs = SanaWMTransformer3DModel(
            in_channels=cfg.latent_channels, num_layers=cfg.depth, hidden_size=cfg.hidden,
            num_attention_heads=cfg.heads, linear_head_dim=cfg.head_dim,
            caption_channels=cfg.caption_channels, chunk_plucker_post_attn_blocks=cfg.depth,
        ).eval()  # fmt: skip
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        ours = DiT(cfg).eval()
        released = {name_from_diffusers(key): value for key, value in theirs.state_dict().items()}
        ours.load_state_dict(convert(released, rows_in_diffusers(cfg)))
        grid, frames = (8, 12), 7
        x = torch.randn(1, cfg.latent_channels, frames, *grid)
        timestep = torch.full((1, frames), 500.0)
        timestep[:, 0] = 0
        text = TextTokens(torch.randn(1, 20, cfg.caption_channels), torch.ones(1, 20))
        camera = _forward_camera(cfg, frames, grid, "cpu")

        def run_ours() -> Tensor:
            return ours(x, timestep, text, camera)[0]

        def run_theirs() -> Tensor:
            return theirs(
                x, timestep[:, None], text.tokens[:, None], mask=text.mask,
                camera_conditions=camera.conditions, chunk_plucker=camera.plucker, return_dict=False,
            )[0]  # fmt: skip

        spent: dict[str, list[float]] = {"ours": [], "theirs": []}
        outputs = {"ours": run_ours(), "theirs": run_theirs()}  # also warms up
        for _ in range(self.chunks):
            for name, function in (("ours", run_ours), ("theirs", run_theirs)):
                started = time.process_time()
                function()
                spent[name].append(time.process_time() - started)
        best = {name: min(times) for name, times in spent.items()}
        error = (outputs["ours"] - outputs["theirs"]).abs().max() / outputs["theirs"].abs().max()
        return {
            "what": f"forward of {frames} latents of {grid[0]}x{grid[1]}, CPU seconds, best of {self.chunks}",
            "diffusers": version("diffusers"),
            "ours": best["ours"],
            "theirs": best["theirs"],
            "ratio": best["theirs"] / best["ours"],
            "relative_error": float(error),
        }


def random_transformer(cfg: DiTConfig, impl: str, device: str, dtype: torch.dtype) -> DiT:
    """Return a transformer of small random weights, made on the device so that the host holds none."""
    with torch.device("meta"):
        dit = DiT(cfg, impl=impl)
    dit = dit.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    for name, parameter in dit.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.02)
    return dit


def _forward_camera(cfg: DiTConfig, frames: int, grid: tuple[int, int], device: str) -> CameraInput:
    """Return a camera that moves 0.2 m forward per latent frame; the maps are random."""
    c2w = torch.eye(4, device=device).repeat(1, frames, 1, 1)
    c2w[0, :, 2, 3] = 0.2 * torch.arange(frames, device=device)
    lens = torch.tensor([grid[1] / 2, grid[1] / 2, grid[1] / 2, grid[0] / 2], device=device)
    conditions = torch.cat([c2w.flatten(2), lens.expand(1, frames, 4)], dim=-1)
    return CameraInput(conditions, torch.randn(1, cfg.plucker_channels, frames, *grid, device=device))


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    tyro.cli(Bench).run()
