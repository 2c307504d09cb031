"""A training of a small transformer on random latents: what each process of `test_distributed.py` runs.

python distributed_job.py OUT; RANK and WORLD_SIZE come from the environment, as with torchrun.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from wm_env.kernels.frame_gdn import frame_gdn
from wm_env.kernels.frame_gdn.shards import bidirectional_shard, exchange, shard_map
from wm_env.kernels.inputs import gdn_inputs
from wm_env.model.config import tiny
from wm_env.model.dit import DiT
from wm_env.model.text import TextTokens
from wm_env.model.training import command
from wm_env.model.training.batches import WorldBatch, camera_of_clip
from wm_env.model.training.distributed import SOLO, Group, joined
from wm_env.model.training.export import Export
from wm_env.model.training.losses.flow_matching import WorldLossConfig, world_loss
from wm_env.model.training.run import Run
from wm_env.model.training.schedule import LoopConfig
from wm_env.model.training.transformer import parameter_rule

BATCH, FRAMES, SIZE = 2, 3, 16
CONFIG = LoopConfig(
    total_steps=4, lr=1e-2, muon_lr=1e-2, warmup_steps=2, log_every=1, eval_every=4, microbatches=2, seed=5
)


def model(recompute: bool = False) -> DiT:
    torch.manual_seed(0)
    size = {"hidden": 16, "heads": 1, "depth": 2, "softmax_every": 2, "caption_channels": 8}
    return DiT(type(tiny())(**{**vars(tiny()), **size}), recompute=recompute)


def batch(generator: torch.Generator) -> WorldBatch:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    c2w = torch.eye(4).repeat(BATCH, 4 * FRAMES - 3, 1, 1)
    c2w[..., :3, 3] = 0.1 * normal(BATCH, 1, 3) * torch.arange(4 * FRAMES - 3)[:, None]
    camera = camera_of_clip(c2w, torch.full((BATCH, 4), SIZE / 2), SIZE)
    text = TextTokens(normal(BATCH, FRAMES, 2, 8), torch.ones(BATCH, FRAMES, 2))
    return WorldBatch(normal(BATCH, 32, FRAMES, 2, 2).sin(), camera, text, None)


def step(module: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
    assert isinstance(module, DiT)
    settings = WorldLossConfig(own_history=0.5, window_dropout=0.5)
    return world_loss(module, batch(generator), settings, generator).mean, {}


def scan(folder: Path, rank: int) -> None:
    """Write outputs and gradients of a causal and a bidirectional scan of 5 frames, 3 here and 2 there."""
    x = gdn_inputs(seed=2, frames=5, with_state=False)
    here = slice(0, 3) if rank == 0 else slice(3, 5)
    q, k, v, beta, g, qn, kn = (t[:, :, here].requires_grad_(True) for t in x[:7] if t is not None)
    own, back = (shard_map(k=k, v=v, beta=beta, g=g, k_norm=kn, reverse=reverse) for reverse in (False, True))
    before, after = exchange(own, back)
    sides = {"q": q, "k": k, "v": v, "beta": beta, "g": g, "q_norm": qn, "k_norm": kn}
    causal, _ = frame_gdn(**sides, state=before, chunk_starts=tuple(range(q.shape[2])))
    both = bidirectional_shard(**sides, before=before, after=after)
    found = torch.autograd.grad(causal.square().sum() + both.square().sum(), (k, v, beta, g))
    torch.save([causal.detach(), both.detach(), *found], folder / f"scan-{rank}.pt")


def train(out: Path, group: Group, steps: int | None = None, recompute: bool = False) -> Run:
    run = Run(
        model=model(recompute), step_fn=step, config=CONFIG, out=out, rule=parameter_rule, group=group,
        settings={"dit": "small"}, evaluate=lambda m: {"weights": float(m.head.bias.square().sum())},  # type: ignore[arg-type, union-attr]
        export=Export(name="dit", entries={"part": "dit"}),
    )  # fmt: skip
    run.advance(steps=steps)
    return run


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with joined("ddp", "cpu") as (here, _):
        assert here is not SOLO
        train(folder / "ddp", here)
        sharded = Group(rank=here.rank, size=here.size, strategy="fsdp")
        train(folder / "fsdp", sharded, recompute=True)
        train(folder / "begun", here, steps=2)
        train(folder / "begun", sharded, steps=1)
        scan(folder, here.rank)
    os.environ["MASTER_PORT"] = os.environ["SECOND_PORT"]  # the first may still be closing
    words = [
        "world",
        "--preset",
        "smoke",
        "--steps",
        "1",
        "--microbatches",
        "2",
        "--out",
        str(folder / "command"),
    ]
    command.main(words)  # joins the processes anew, as under torchrun
