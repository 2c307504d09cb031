"""Frame-wise gated delta rule: the definition against its equations, the matrix form against it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_env.kernels.frame_gdn import GDNMemory, frame_gdn, resolve_impl
from wm_env.kernels.inputs import gdn_inputs, relative_error, run_gdn, worst_error

FLOAT64 = 1e-11  # rounding of sums over a few frames in float64
FLOAT32 = 2e-5  # the same in float32
BFLOAT16 = 4e-2  # bfloat16 keeps 8 bits; gradients pass several rounded products

# frames, chunk starts, tokens, key dim, value dim
ODD_SHAPES = [
    (1, (0,), 1, 1, 1),
    (1, (0,), 7, 5, 3),
    (2, (0,), 1, 3, 8),
    (2, (0, 1), 6, 8, 8),
    (5, (0,), 9, 6, 6),
    (5, (0, 1, 2, 3, 4), 4, 7, 5),
    (7, (0, 4), 3, 8, 4),
    (8, (0, 1, 4, 7), 5, 4, 9),
    (3, (0,), 33, 14, 14),
]


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("every_chunk", [True, False])
@pytest.mark.parametrize("shape", ODD_SHAPES)
def test_matrix_form_and_its_gradients_equal_the_definition(
    shape: tuple, every_chunk: bool, with_state: bool, normalised: bool
) -> None:
    frames, starts, tokens, key_dim, value_dim = shape
    inputs = gdn_inputs(
        seed=1,
        batch=2,
        heads=3,
        frames=frames,
        tokens=tokens,
        key_dim=key_dim,
        value_dim=value_dim,
        normalised=normalised,
        with_state=with_state,
    )
    results = [
        run_gdn(inputs, impl, chunk_starts=starts, every_chunk=every_chunk, gradients=True)
        for impl in ("chunk", "naive")
    ]
    name, error = worst_error(*results)
    assert error < FLOAT64, name


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, FLOAT32), (torch.bfloat16, BFLOAT16)])
@pytest.mark.parametrize("frames", [1, 5])
def test_low_precision_inputs_stay_close_to_the_definition(
    frames: int, dtype: torch.dtype, bound: float
) -> None:
    inputs = gdn_inputs(seed=2, frames=frames, tokens=16, key_dim=8, value_dim=8, dtype=dtype)
    exact = run_gdn(type(inputs)(*(x.double() for x in inputs)), "naive", gradients=True)
    for impl in ("naive", "chunk"):
        results = run_gdn(inputs, impl, gradients=True)
        assert results["out"].dtype == dtype
        assert results["S"].dtype == results["z"].dtype == torch.float32
        name, error = worst_error(results, exact)
        assert error < bound, (impl, name)


@pytest.mark.parametrize("impl", ["naive", "chunk"])
def test_autocast_changes_neither_the_memory_nor_the_output(impl: str) -> None:
    inputs = gdn_inputs(seed=3, frames=3, dtype=torch.float32)
    outside = run_gdn(inputs, impl)
    with torch.autocast("cpu", torch.bfloat16):
        inside = run_gdn(inputs, impl)
    assert worst_error(inside, outside)[1] == 0


def test_the_definition_is_the_recurrence_written_out() -> None:
    """One head, three frames in chunks [0, 2): every memory by hand, with D x D matrices."""
    x = gdn_inputs(seed=4, heads=1, frames=3, tokens=4, key_dim=3, value_dim=2)
    k, kn, v = x.k[0, 0], x.k_norm[0, 0], x.v[0, 0]  # (T,N,D), (T,N,D), (T,N,V)
    d, beta, eye = x.g[0, 0].exp(), torch.diag_embed(x.beta[0, 0]), torch.eye(3, dtype=torch.float64)
    one = torch.ones(4, dtype=torch.float64)

    def step(t: int, S: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        S = d[t] * (eye - k[t].T @ beta[t] @ k[t]) @ S + k[t].T @ beta[t] @ v[t]
        z = d[t] * (eye - kn[t].T @ beta[t] @ kn[t]) @ z + kn[t].T @ beta[t] @ one
        return S, z

    zero = (torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    after_0 = step(0, x.S[0, 0], x.z[0, 0])
    after_1 = step(1, *after_0)
    after_2 = step(2, *after_1)
    back_0 = step(1, *zero)  # what frame 0 sees of frame 1
    memories = [tuple(a + b for a, b in zip(after_0, back_0, strict=True)), after_1, after_2]
    expected = torch.stack(
        [(x.q[0, 0, t] @ S) / (x.q_norm[0, 0, t] @ z + 1e-8)[:, None] for t, (S, z) in enumerate(memories)]
    )
    results = run_gdn(x, "naive", chunk_starts=(0, 2))
    assert relative_error(results["out"][0, 0], expected) < FLOAT64
    assert relative_error(results["S"][0, 0], after_2[0]) < FLOAT64
    assert relative_error(results["z"][0, 0], after_2[1]) < FLOAT64


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    cut=st.integers(0, 3),
    seed=st.integers(0, 99),
    impl=st.sampled_from(["naive", "chunk"]),
)
def test_any_split_at_chunk_ends_gives_the_same_output(
    lengths: list[int], cut: int, seed: int, impl: str
) -> None:
    """Two calls, the second seeded with the memory of the first, equal one call over all chunks."""
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    frames, split = sum(lengths), starts[cut % len(lengths)]
    x = gdn_inputs(seed=seed, frames=frames)
    whole = run_gdn(x, impl, chunk_starts=starts)
    if split == 0:
        return
    tensors = {name: t for name, t in x._asdict().items() if name not in ("S", "z")}
    first = {name: t[:, :, :split] for name, t in tensors.items()}
    second = {name: t[:, :, split:] for name, t in tensors.items()}
    out_1, memory = frame_gdn(
        **first, state=GDNMemory(x.S, x.z), chunk_starts=[s for s in starts if s < split], impl=impl
    )
    out_2, memory = frame_gdn(
        **second, state=memory, chunk_starts=[s - split for s in starts if s >= split], impl=impl
    )
    assert relative_error(torch.cat([out_1, out_2], 2), whole["out"]) < FLOAT64
    assert relative_error(memory.S, whole["S"]) < FLOAT64
    assert relative_error(memory.z, whole["z"]) < FLOAT64


@pytest.mark.parametrize("impl", ["naive", "chunk"])
def test_earlier_chunks_do_not_see_later_ones(impl: str) -> None:
    x = gdn_inputs(seed=5, frames=6)
    before = run_gdn(x, impl, chunk_starts=(0, 2, 5))["out"]
    moved = x._replace(k=x.k.clone(), v=x.v.clone(), g=x.g.clone())
    for tensor in (moved.k, moved.v, moved.g):
        tensor[:, :, 5:] *= 3
    after = run_gdn(moved, impl, chunk_starts=(0, 2, 5))["out"]
    assert torch.equal(after[:, :, :5], before[:, :, :5])
    assert not torch.equal(after[:, :, 5], before[:, :, 5])


def test_every_chunk_memory_is_the_memory_of_the_shorter_call() -> None:
    x = gdn_inputs(seed=6, frames=5)
    each = run_gdn(x, "chunk", chunk_starts=(0, 1, 4), every_chunk=True)
    assert each["S"].shape == (1, 3, 2, 4, 4)
    for i, end in enumerate((1, 4, 5)):
        shorter = x._replace(**{n: t[:, :, :end] for n, t in x._asdict().items() if n not in ("S", "z")})
        last = run_gdn(shorter, "chunk")
        assert relative_error(each["S"][:, i], last["S"]) < FLOAT64
        assert relative_error(each["z"][:, i], last["z"]) < FLOAT64


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("normalised", [True, False])
def test_gradients_pass_finite_differences(frames: int, normalised: bool) -> None:
    x = gdn_inputs(seed=7, heads=1, frames=frames, tokens=3, key_dim=3, value_dim=2, normalised=normalised)
    names = [name for name, tensor in x._asdict().items() if tensor is not None]

    def call(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = dict(zip(names, tensors, strict=True))
        state = GDNMemory(found.pop("S"), found.pop("z", None))
        out, memory = frame_gdn(
            **found, state=state, every_chunk=True, chunk_starts=(0,) if frames < 3 else (0, 2)
        )
        return (out, memory.S) if memory.z is None else (out, memory.S, memory.z)

    leaves = [getattr(x, name).requires_grad_() for name in names]
    assert torch.autograd.gradcheck(call, leaves, eps=1e-6, atol=1e-7)


def test_arguments_are_not_written_to() -> None:
    x = gdn_inputs(seed=8, frames=3)
    copies = [t.clone() for t in x]
    run_gdn(x, "chunk", chunk_starts=(0, 2), gradients=True)
    assert all(torch.equal(a, b) for a, b in zip(x, copies, strict=True))


def call(**changes: object) -> None:
    x = gdn_inputs(seed=9)
    arguments = {name: t for name, t in x._asdict().items() if name not in ("S", "z")}
    frame_gdn(**(arguments | {"state": GDNMemory(x.S, x.z)} | changes))


def test_wrong_arguments_are_refused_by_name() -> None:
    x = gdn_inputs(seed=9)
    with pytest.raises(ValueError, match="non-empty"):
        call(k=x.k[:, :, :, :0])
    with pytest.raises(ValueError, match=r"beta is \(1, 2, 3\), needs \(1, 2, 3, 5\)"):
        call(beta=x.g)
    with pytest.raises(ValueError, match="come together"):
        call(q_norm=None)
    with pytest.raises(ValueError, match=r"state\.z"):
        call(state=GDNMemory(x.S, None))
    with pytest.raises(ValueError, match=r"chunk_starts=\(0, 3\)"):
        call(chunk_starts=(0, 3))
    with pytest.raises(ValueError, match="rise strictly"):
        call(chunk_starts=(1,), impl="naive")


def test_the_implementation_is_never_chosen_silently() -> None:
    with pytest.raises(ValueError, match="unknown"):
        call(impl="fast")
    with pytest.raises(ValueError, match="auto"):
        call(impl="auto")
    assert resolve_impl("auto", "cpu") == "chunk"
    assert resolve_impl("naive", "cpu") == "naive"
    with pytest.raises(ValueError, match="fast"):
        resolve_impl("fast", "cpu")
