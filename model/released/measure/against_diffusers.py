"""Time our whole-clip forward and that of diffusers' bidirectional transformer, in turn, on equal weights.

    python -m wm_env.model.released.measure.against_diffusers --repeats 5

CPU, float32, one thread, processor time, so that other work on the machine hardly counts. Needs diffusers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wm_env.model.camera import CameraInput
from wm_env.model.config import DiTConfig, sana_wm
from wm_env.model.dit import DiT
from wm_env.model.released.names import convert
from wm_env.model.released.stage1 import name_from_diffusers, rows_in_diffusers
from wm_env.model.text import TextTokens

CFG = dataclasses.replace(
    sana_wm(), hidden=128, heads=4, depth=4, caption_channels=48, latent_channels=16, window_chunks=None
)
GRID, FRAMES, TEXT = (8, 12), 7, 20


@torch.inference_mode()
def compare(cfg: DiTConfig = CFG, *, repeats: int) -> dict[str, Any]:
    """Return the best processor seconds of both, their ratio and the relative error between the outputs."""
    if repeats < 1:
        raise ValueError(f"--repeats {repeats} must be at least 1")
    from diffusers import SanaWMTransformer3DModel  # optional: only for this comparison

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
    x = torch.randn(1, cfg.latent_channels, FRAMES, *GRID)
    timestep = torch.full((1, FRAMES), 500.0)
    timestep[:, 0] = 0
    text = TextTokens(torch.randn(1, TEXT, cfg.caption_channels), torch.ones(1, TEXT))
    camera = _forward_camera(cfg)

    def run_ours() -> Tensor:
        return ours(x, timestep, text, camera)[0]

    def run_theirs() -> Tensor:
        return theirs(
            x, timestep[:, None], text.tokens[:, None], mask=text.mask,
            camera_conditions=camera.conditions, chunk_plucker=camera.plucker, return_dict=False,
        )[0]  # fmt: skip

    spent: dict[str, list[float]] = {"ours": [], "theirs": []}
    outputs = {"ours": run_ours(), "theirs": run_theirs()}  # also warms up
    for _ in range(repeats):
        for name, function in (("ours", run_ours), ("theirs", run_theirs)):
            started = time.process_time()
            function()
            spent[name].append(time.process_time() - started)
    best = {name: min(times) for name, times in spent.items()}
    error = (outputs["ours"] - outputs["theirs"]).abs().max() / outputs["theirs"].abs().max()
    return {
        "what": f"forward of {FRAMES} latents of {GRID[0]}x{GRID[1]}, CPU seconds, best of {repeats}",
        "diffusers": version("diffusers"),
        "torch": torch.__version__,
        "ours": best["ours"],
        "theirs": best["theirs"],
        "ratio": best["theirs"] / best["ours"],
        "relative_error": float(error),
    }


def _forward_camera(cfg: DiTConfig) -> CameraInput:
    """Return a camera that moves 0.2 m forward per latent frame; the maps are random."""
    c2w = torch.eye(4).repeat(1, FRAMES, 1, 1)
    c2w[0, :, 2, 3] = 0.2 * torch.arange(FRAMES)
    lens = torch.tensor([GRID[1] / 2, GRID[1] / 2, GRID[1] / 2, GRID[0] / 2])
    conditions = torch.cat([c2w.flatten(2), lens.expand(1, FRAMES, 4)], dim=-1)
    return CameraInput(conditions, torch.randn(1, cfg.plucker_channels, FRAMES, *GRID))


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="timed forwards of each (default 3)")
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    try:
        result = compare(repeats=options.repeats)
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
