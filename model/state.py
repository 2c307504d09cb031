"""State as a value: a tree of tensors, batch axis first, and the few operations on it.

The leaves of a tree are tensors with the batch axis first, or None where a part is absent; its nodes are
tuples and NamedTuples, lists, dicts with names as keys, and dataclasses, mixed as you like. Ours are
NamedTuples. Nothing here writes into its arguments.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from wm_env.model.placement import placed

Tree = TypeVar("Tree")


def tree_map(fn: Callable[..., Tensor], tree: Tree, *rest: Tree) -> Tree:
    """Return `tree` with `fn` applied to every tensor (and the tensors at the same place in `rest`)."""
    if tree is None:
        if any(other is not None for other in rest):
            raise ValueError("states differ in structure: a part is absent in one and present in another")
        return tree
    if isinstance(tree, Tensor):
        return fn(tree, *rest)  # type: ignore[return-value]
    names, parts = _node(tree)
    others = []
    for other in rest:
        if type(other) is not type(tree):
            kinds = f"a {type(tree).__name__} in one is a {type(other).__name__} in another"
            raise ValueError(f"states differ in structure: {kinds}")
        its, its_parts = _node(other)
        if its != names:
            raise ValueError(f"states differ in structure: one has {list(names)}, another {list(its)}")
        others.append(its_parts)
    return _rebuilt(tree, names, [tree_map(fn, *same) for same in zip(parts, *others, strict=True)])


def _node(tree: Any, prefix: str = "") -> tuple[Sequence[str], Sequence[Any]]:
    """Return the names and the parts of a node; of a dict in the order of its names.

    Raises `TypeError` for what is neither a node nor a leaf. prefix: where the node is, for that sentence.
    """
    if isinstance(tree, tuple):
        names = getattr(tree, "_fields", None) or [str(index) for index in range(len(tree))]
        return names, tree
    if isinstance(tree, list):
        return [str(index) for index in range(len(tree))], tree
    if isinstance(tree, Mapping):
        odd = [key for key in tree if not isinstance(key, str) or "." in key or not key]
        if odd:
            raise TypeError(f"a dict in a state has names without a dot as keys, not {odd[0]!r}")
        ordered = sorted(tree)
        return ordered, [tree[name] for name in ordered]
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = [field.name for field in dataclasses.fields(tree) if field.init]
        return fields, [getattr(tree, name) for name in fields]
    where = f" at {prefix!r}" if prefix else ""
    raise TypeError(
        f"a state holds tensors (batch axis first) and None in tuples, lists, dicts and dataclasses, not "
        f"{type(tree).__name__}{where}"
    )


def _rebuilt(tree: Any, names: Sequence[str], parts: list[Any]) -> Any:
    """Return a node like `tree` of other parts."""
    if isinstance(tree, tuple):
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    if isinstance(tree, list):
        return parts
    named = dict(zip(names, parts, strict=True))
    if isinstance(tree, Mapping):
        return {name: named[name] for name in tree}
    return dataclasses.replace(tree, **named)


def cat(trees: Sequence[Tree]) -> Tree:
    """Return the states of several batches as one batch."""
    return tree_map(lambda *leaves: torch.cat(leaves), trees[0], *trees[1:])


def select(tree: Tree, index: Tensor | Sequence[int]) -> Tree:
    """Return the batch slots `index` (int64 or bool mask) of a state."""
    chosen = functools.cache(functools.partial(placed, torch.as_tensor(index)))
    return tree_map(lambda leaf: leaf[chosen(leaf.device)], tree)


def put(tree: Tree, index: Tensor | Sequence[int], values: Tree) -> Tree:
    """Return a copy of `tree` whose batch slots `index` hold the slots of `values`."""
    where = functools.cache(functools.partial(placed, torch.as_tensor(index)))
    return tree_map(lambda leaf, new: leaf.index_copy(0, where(leaf.device), new), tree, values)


def repeat(tree: Tree, times: int) -> Tree:
    """Return every slot `times` times, as views where possible (`expand`, no copy for batch 1)."""
    return tree_map(
        lambda leaf: (
            leaf.expand(times, *leaf.shape[1:]) if leaf.shape[0] == 1 else leaf.repeat_interleave(times, 0)
        ),
        tree,
    )


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield `(dotted name, tensor)` for every tensor of a state, in a fixed order."""
    if tree is None:
        return
    if isinstance(tree, Tensor):
        yield prefix, tree
        return
    for name, part in zip(*_node(tree, prefix), strict=True):
        yield from leaves(part, f"{prefix}.{name}" if prefix else name)


def unflatten(template: Tree, tensors: dict[str, Tensor], prefix: str = "") -> Tree:
    """Return a state shaped like `template` with the tensors that `leaves` named; all must be present."""
    if template is None:
        return template
    if isinstance(template, Tensor):
        if prefix not in tensors:
            raise ValueError(f"state tensor {prefix!r} is missing")
        return tensors[prefix]  # type: ignore[return-value]
    names, parts = _node(template, prefix)
    named = [(f"{prefix}.{name}" if prefix else name, part) for name, part in zip(names, parts, strict=True)]
    return _rebuilt(template, names, [unflatten(part, tensors, name) for name, part in named])  # type: ignore[no-any-return]


def nbytes(tree: Any) -> int:
    """Return the bytes of distinct storage that a state refers to."""
    seen = {leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes() for _, leaf in leaves(tree)}
    return sum(seen.values())


class GDNState(NamedTuple):
    """All that a GDN block remembers between chunks.

    S: `(B, H, D, D)` float32, key-value memory of the main branch (row = key, column = value).
    z: `(B, H, D)` float32, its normaliser.
    S_cam: `(B, H, D, D)` float32, memory of the camera branch.
    conv_k, conv_k_cam: `(B, 3, N, C)`, last inputs of the short convolutions, oldest first, zeros at start.
    """

    S: Tensor
    z: Tensor
    S_cam: Tensor
    conv_k: Tensor
    conv_k_cam: Tensor


class KVChunk(NamedTuple):
    """Keys and values of one committed chunk: each `(B, H, n, D)`, rotated; valid `(B,)` bool on the CPU."""

    k: Tensor
    v: Tensor
    k_cam: Tensor
    v_cam: Tensor
    valid: Tensor


class WindowState(NamedTuple):
    """What a softmax block attends to beside the current chunk, oldest first (sink, then recent chunks)."""

    chunks: tuple[KVChunk, ...]


class BlockState(NamedTuple):
    """State of one block: its attention state and `ffn_tail` `(B, 1, N, C)`, last input of the FFN's
    temporal convolution."""

    attention: GDNState | WindowState
    ffn_tail: Tensor


class DiTState(NamedTuple):
    """State of the whole transformer: one `BlockState` a block, and `frame` `(B,)` int64, the number of
    latent frames committed so far (absolute RoPE position of the next)."""

    blocks: tuple[BlockState, ...]
    frame: Tensor
