"""How tolerances are read: longest prefix wins, `*` stands for a number, null means not tested."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_checks import Fixture

TOLERANCES = {
    "": {"rel": 1e-5},
    "output": {"rel": 1e-6},
    "output.absmap": None,
    "chunk*.cache": {"rel": 1e-3},
    "RotErr": {"abs_deg": 0.005, "abs_deg_near_zero": 0.05},
}


@pytest.fixture
def fixture() -> Fixture:
    names = ("output.a", "output.absmap", "chunk12.cache.slot0", "chunk1.latents")
    tensors = {name: torch.tensor([1.0, -2.0]) for name in names}
    return Fixture(Path("file.safetensors"), "kind", {"tolerances": TOLERANCES}, tensors)


def test_the_longest_prefix_wins(fixture: Fixture) -> None:
    assert fixture.tolerance("output.a") == {"rel": 1e-6}
    assert fixture.tolerance("chunk12.cache.slot0") == {"rel": 1e-3}
    assert fixture.tolerance("chunk1.latents") == {"rel": 1e-5}
    assert fixture.tolerance("output.absmap") is None


def test_an_error_is_relative_to_the_largest_recorded_value(fixture: Fixture) -> None:
    fixture.check("chunk12.cache.slot0", torch.tensor([1.0, -2.001]))
    assert fixture.measured[0].error == pytest.approx(5e-4, rel=1e-3)
    assert not fixture.failures()
    fixture.check("output.a", torch.tensor([1.0, -2.001]))
    assert len(fixture.failures()) == 1


def test_what_is_not_to_be_tested_counts_as_read(fixture: Fixture) -> None:
    fixture.check("output.absmap", torch.tensor([9.0, 9.0]))
    assert not fixture.measured
    assert fixture.unread() == ["chunk1.latents", "chunk12.cache.slot0", "output.a"]


def test_small_angles_have_a_wider_tolerance_than_large_ones(fixture: Fixture) -> None:
    recorded = torch.tensor([0.0, 10.0])
    fixture.check_value("angles", torch.tensor([0.03, 10.003]), recorded, like="RotErr_deg")
    assert [m.tolerance for m in fixture.measured] == [0.05, 0.005]
    assert not fixture.failures()


def test_nan_is_never_close(fixture: Fixture) -> None:
    with pytest.raises(AssertionError, match="not finite"):
        fixture.check("output.a", torch.tensor([1.0, float("nan")]))
