"""Weights that wait on the host and visit the device: a whole network for its turn, or block after block.

    Visitor    all weights of a module: brought, used, dropped; nothing is copied back
    in_turn    the blocks of a network, each there while it is called:

        block i runs        i is there, i + 1 is on its way, i - 1 stays until the device is done with it

so three blocks at most are on the device, and the copy of one runs beside the work of another. Frozen weights
alone can visit: what a visitor would change is lost.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

AT_ONCE = 3  # blocks on the device


class Visitor:
    """The weights of a module on the CPU (pinned for CUDA), which lends copies of them to `device`.

    It holds no reference to the module's parts, so that a dropped network is freed at once.
    """

    def __init__(self, module: nn.Module, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._slots = [
            (weakref.ref(owner), name)
            for owner in module.modules()
            for name, value in (*owner._parameters.items(), *owner._buffers.items())
            if value is not None
        ]
        self.host: list[Tensor] = []
        for slot in self._slots:  # one by one: the host never holds two copies of all of them
            self.host.append(self._kept(_value(slot)))
            _assign(slot, self.host[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(held_bytes(value) for value in self.host)

    def copies(self) -> list[Tensor]:
        """Return fresh copies on the device, of pinned memory without waiting."""
        return [_copy(value, self.device) for value in self.host]

    def arrive(self, values: list[Tensor]) -> None:
        """Let the module compute with copies on the device."""
        for slot, value in zip(self._slots, values, strict=True):
            _assign(slot, value)

    def leave(self) -> None:
        """Give the module its weights on the host back; copies are freed with their last reference."""
        self.arrive(self.host)

    def _kept(self, value: Tensor) -> Tensor:
        if value.requires_grad:
            raise ValueError("only frozen weights can visit a device; call requires_grad_(False) first")
        value = value.detach().cpu()
        plain = type(value) is Tensor  # a quantised weight cannot be pinned; its copy is waited for
        return value.pin_memory() if self.device.type == "cuda" and plain else value


class _Turns:
    """Which blocks of a network are on the device."""

    def __init__(self, visitors: Sequence[Visitor]) -> None:
        self.visitors = visitors
        self.there: dict[int, list[Tensor]] = {}
        device = visitors[0].device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._come: dict[int, Any] = {}  # block -> event: its copy has arrived
        self._done: dict[int, Any] = {}  # block -> event: the device has computed it

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks on the device."""
        return sum(self.visitors[i].nbytes for i in self.there)

    def before(self, i: int) -> None:
        """Bring block i in and send for the next one."""
        following = (i + 1) % len(self.visitors)
        for old in [old for old in self.there if old not in (i, following, self._newest_done(i))]:
            self._drop(old)
        self._send_for(i)
        come = self._come.pop(i, None)  # None where it has stayed since its last turn
        if self._stream is not None and come is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(come)
        self.visitors[i].arrive(self.there[i])
        self._send_for(following)

    def after(self, i: int) -> None:
        """Let block i go; its copies stay until the device has used them."""
        self.visitors[i].leave()
        if self._stream is not None:
            self._done[i] = torch.cuda.current_stream(self._stream.device).record_event()

    def _newest_done(self, i: int) -> int:
        return (i - 1) % len(self.visitors)

    def _send_for(self, i: int) -> None:
        if i in self.there:
            return
        if self._stream is None:
            self.there[i] = self.visitors[i].copies()
            return
        with torch.cuda.stream(self._stream):
            self.there[i] = self.visitors[i].copies()
            self._come[i] = self._stream.record_event()

    def _drop(self, i: int) -> None:
        if i in self._done:
            self._done.pop(i).synchronize()  # else its memory would be written to while it is read
        self._come.pop(i, None)
        del self.there[i]


def in_turn(network: nn.Module, blocks: Sequence[nn.Module], device: torch.device | str) -> _Turns:
    """Make the blocks of a network visit `device` one after the other, and put all else there for good.

    The network is on the CPU and frozen. Its blocks are called as modules, in any order. Returns what knows
    which of them are on the device.
    """
    if not blocks:
        raise ValueError("a network without blocks cannot visit a device block by block")
    turns = _Turns([Visitor(block, device) for block in blocks])
    own = {id(owner) for block in blocks for owner in block.modules()}
    for owner in network.modules():
        if id(owner) in own:
            continue
        for name, value in (*owner._parameters.items(), *owner._buffers.items()):
            if value is not None:
                _assign((weakref.ref(owner), name), value.detach().to(device))
    for i, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda *_, i=i: turns.before(i))
        block.register_forward_hook(lambda *_, i=i: turns.after(i))
    return turns


def held_bytes(value: Tensor) -> int:
    """Return the bytes of a tensor, of a quantised one those of its parts."""
    if type(value) in (Tensor, nn.Parameter):
        return value.nbytes
    names, _ = value.__tensor_flatten__()  # type: ignore[attr-defined]
    return sum(held_bytes(getattr(value, name)) for name in names)


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Return the longest list of parts in a network: its transformer blocks, whatever they are called."""
    lists = [list(module) for module in network.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ValueError(f"a {type(network).__name__} has no list of blocks")
    return max(lists, key=len)


def _copy(value: Tensor, device: torch.device) -> Tensor:
    if type(value) is not Tensor:
        return value.to(device) if device.type != "cpu" else value.clone()
    return value.to(device, non_blocking=value.is_pinned(), copy=True)


def _value(slot: tuple[Any, str]) -> Tensor:
    owner, name = slot[0](), slot[1]
    value: Tensor = owner._parameters[name] if name in owner._parameters else owner._buffers[name]
    return value


def _assign(slot: tuple[Any, str], value: Tensor) -> None:
    owner, name = slot[0](), slot[1]
    if owner is None:
        return  # the network is gone
    if name in owner._parameters:
        owner._parameters[name] = nn.Parameter(value, requires_grad=False)
    else:
        owner._buffers[name] = value
