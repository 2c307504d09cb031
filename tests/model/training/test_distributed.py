"""A training on two processes is the training on one, with DDP, with FSDP2, and handed over in the middle."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import distributed_job as job

from wm_env.kernels.frame_gdn import frame_gdn
from wm_env.kernels.inputs import gdn_inputs
from wm_env.model.embedded import load_embedded
from wm_env.model.storage.checkpoint import load_checkpoint
from wm_env.model.training.distributed import SOLO, Group, joined

CURVE = 1e-4  # relative, on the loss of every step
FLOAT64 = 1e-11  # rounding of sums over a few frames in float64
WEIGHTS = 1e-6  # the same sums in another order


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the runs of two gloo processes (ddp, fsdp, begun) and of one (solo)."""
    out = tmp_path_factory.mktemp("runs")
    ports = []
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
            ports.append(str(free.getsockname()[1]))
    processes = []
    for rank in ("0", "1"):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ports[0], "SECOND_PORT": ports[1]}
        command = [sys.executable, job.__file__, str(out)]
        processes.append(subprocess.Popen(command, env={**os.environ, **environment}))
    job.train(out / "solo", SOLO)
    assert [process.wait(timeout=600) for process in processes] == [0, 0]
    return out


def curve(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "losses.jsonl").read_text().splitlines()]
    return [line["train"]["loss"] for line in lines if "train" in line]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_follow_the_curve_of_one_with_the_same_global_batch(
    folders: Path, strategy: str
) -> None:
    expected = curve(folders / "solo")
    assert len(set(expected)) == job.CONFIG.total_steps
    assert curve(folders / strategy) == pytest.approx(expected, rel=CURVE)
    trained, card = load_checkpoint(folders / strategy / "dit.safetensors")
    assert (card["processes"], card["steps"]) == (2, job.CONFIG.total_steps)
    for name, tensor in load_checkpoint(folders / "solo" / "dit.safetensors")[0].items():
        assert torch.allclose(trained[name], tensor, atol=WEIGHTS), name


def test_the_command_under_torchrun_leaves_a_world(folders: Path) -> None:
    world = load_embedded(folders / "command" / "world")
    assert world.spec.name == "command" and world.spec.trained_steps == 3
    assert load_checkpoint(folders / "command" / "dit.safetensors")[1]["processes"] == 2


def test_a_run_goes_on_with_another_strategy_and_another_number_of_processes(folders: Path) -> None:
    # two steps by DDP, one by FSDP2, the last by one process
    run = job.train(folders / "begun", SOLO)
    assert run.finished and run.metrics.keys() == {"weights"}
    assert curve(folders / "begun") == pytest.approx(curve(folders / "solo"), rel=CURVE)


def test_the_frame_gdn_scan_spreads_over_processes_with_gradients(folders: Path) -> None:
    x = gdn_inputs(seed=2, frames=5, with_state=False)
    q, k, v, beta, g, qn, kn = (t.requires_grad_(True) for t in x[:7] if t is not None)
    sides = {"q": q, "k": k, "v": v, "beta": beta, "g": g, "q_norm": qn, "k_norm": kn}
    causal, _ = frame_gdn(**sides, state=None, chunk_starts=tuple(range(5)))
    both, _ = frame_gdn(**sides, state=None)
    loss = causal.square().sum() + both.square().sum()
    expected = [causal.detach(), both.detach(), *torch.autograd.grad(loss, (k, v, beta, g))]
    parts = [torch.load(folders / f"scan-{rank}.pt") for rank in (0, 1)]
    for whole, *halves in zip(expected, *parts, strict=True):
        assert torch.allclose(torch.cat(halves, dim=2), whole, rtol=FLOAT64, atol=FLOAT64)


def test_draws_are_dealt_evenly_or_refused() -> None:
    assert [list(Group(rank=r, size=2).own(6)) for r in (0, 1)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="microbatches=3 cannot be dealt to 2 processes"):
        Group(rank=0, size=2).own(3)


def test_without_torchrun_a_training_has_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("fsdp", "cpu") as (group, device):
        assert (group, device) == (SOLO, "cpu")
