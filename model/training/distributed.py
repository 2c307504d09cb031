"""One training on many processes: DDP or FSDP2 under `torchrun`, the same curve as on one.

The global batch of a step is M = `LoopConfig.microbatches` draws of the step function, each with a random
stream of its own, seeded by the run's generator. With W processes (W divides M), process r computes

    draws r M/W ... (r+1) M/W - 1,     gradient = (1/M) sum over all draws

so the number of processes decides who computes what and nothing else: a run on W processes is, up to the
order of sums, the run on one, and its `state.pt` continues on any other number. Every process draws all M
seeds, so the generator (the data position) is the same everywhere.

    ddp    every process holds everything; gradients are averaged while the backward pass still runs
    fsdp   weights, gradients, optimizer states and EMA are split over the processes (FSDP2, block by block)

Muon works with both; under FSDP2 it gathers the update of each matrix once a step (muon.py), which AdamW does
not need to. Frozen parameters and parameters that a loss leaves out are no error.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

Strategy = Literal["ddp", "fsdp"]
Compute = Callable[[torch.Generator, int], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The processes of one run: `rank` of `size`, and how the model is spread. `SOLO` is the single one."""

    rank: int = 0
    size: int = 1
    strategy: Strategy = "ddp"

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank={self.rank} must be in [0, {self.size})")
        if self.strategy not in ("ddp", "fsdp"):
            raise ValueError(f"strategy={self.strategy!r} is unknown; choose ddp or fsdp")

    @property
    def main(self) -> bool:
        """Whether this process writes the files and reports."""
        return self.rank == 0

    def own(self, count: int) -> range:
        """Return which of `count` draws are this process's."""
        if count % self.size:
            raise ValueError(
                f"microbatches={count} cannot be dealt to {self.size} processes; make it a multiple of them"
            )
        share = count // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    def decide(self, *flags: bool) -> tuple[bool, ...]:
        """Return process 0's flags everywhere: clocks differ, and all must leave the loop together."""
        if self.size == 1:
            return flags
        told = torch.tensor(flags, dtype=torch.int64, device=collective_device())
        dist.broadcast(told, src=0)
        return tuple(bool(flag) for flag in told.tolist())

    def collect(self, values: list[dict[str, float]]) -> list[dict[str, float]]:
        """Return the dicts of all processes, in the order of the draws."""
        if self.size == 1:
            return values
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, values)
        return [value for part in told for value in part]

    def mean_(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their mean over the processes."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)
                tensor.div_(self.size)


SOLO = Group()


def collective_device() -> torch.device:
    """Return where small messages of the process group live."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


@contextlib.contextmanager
def joined(strategy: Strategy, device: str) -> Iterator[tuple[Group, str]]:
    """Yield this process's group and device; outside `torchrun` (no WORLD_SIZE) the single process.

    device: "cpu" (gloo) or "cuda" (NCCL, one GPU a process). Leaves the process group at the end.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SOLO, device
        return
    kind = torch.device(device).type
    if kind == "cuda":
        if torch.device(device).index is not None:
            raise ValueError(f"device={device}: under torchrun every process takes its own GPU; give cuda")
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=timedelta(minutes=60))
    try:
        yield Group(rank=dist.get_rank(), size=size, strategy=strategy), device
        dist.barrier()  # process 0 may still be writing the last state
    finally:
        dist.destroy_process_group()


class _Loss(nn.Module):
    """The whole computation of a loss as one module, so that DDP sees one forward however many there are."""

    def __init__(self, model: nn.Module, compute: Compute) -> None:
        super().__init__()
        self.model, self.compute = model, compute

    def forward(self, generator: torch.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        return self.compute(generator, step)


def distribute(model: nn.Module, compute: Compute, group: Group) -> Compute:
    """Return `compute` such that its backward pass averages gradients over the group; FSDP splits `model`.

    compute(generator, step) -> (loss, metrics) uses `model`. Call before the optimizers are built: FSDP2
    replaces the parameters. With one process, `compute` itself.
    """
    if group.size == 1:
        return compute
    if group.strategy == "fsdp":
        device = next(model.parameters()).device
        mesh = init_device_mesh(device.type, (group.size,))
        for module in model.modules():
            if isinstance(module, nn.ModuleList):
                for block in module:
                    fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return compute
    # a loss may leave parts of a model out; without looking for them DDP would wait for their gradients
    return DistributedDataParallel(_Loss(model, compute), find_unused_parameters=True)


@contextlib.contextmanager
def averaging(compute: Compute, now: bool) -> Iterator[None]:
    """Average gradients in this backward pass only if `now`; a DDP process adds up its draws first."""
    if isinstance(compute, DistributedDataParallel) and not now:
        with compute.no_sync():
            yield
    else:
        yield


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor: itself, or the shard of a split one."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(values: Any, keep: bool) -> Any:
    """Return nested dicts and lists with every split tensor whole; all processes call it together.

    keep: whether this process wants them (process 0); the others get empty tensors, one at a time in memory.
    """
    if isinstance(values, DTensor):
        whole = values.full_tensor()
        return whole.detach().cpu() if keep else whole.new_empty(0)
    if isinstance(values, dict):
        return {key: gathered(value, keep) for key, value in values.items()}
    if isinstance(values, list):
        return [gathered(value, keep) for value in values]
    return values


def split_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor on the device, and split as, `like`; every process holds the same whole one."""
    if isinstance(like, DTensor):
        moved = tensor.to(like.device)
        return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)
    return tensor.to(like.device)


def split_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return a whole optimizer `state_dict` with every tensor that is shaped like its parameter split so."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    entries = {
        index: {
            name: split_like(value, parameters[index])
            if isinstance(value, Tensor) and value.shape == parameters[index].shape
            else value
            for name, value in values.items()
        }
        for index, values in state["state"].items()
    }
    return {**state, "state": entries}
