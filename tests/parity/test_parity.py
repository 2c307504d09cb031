"""Our code reproduces recorded numbers of the published reference, file by file."""

from __future__ import annotations

from pathlib import Path

from golden_checks import CHECKS, Measured, load


def test_fixture_is_reproduced(golden_file: Path, measured: list[Measured]) -> None:
    fixture = load(golden_file)
    assert fixture.kind in CHECKS, f"{golden_file.name}: unknown kind {fixture.kind!r}"
    CHECKS[fixture.kind](fixture)
    measured += fixture.measured
    assert not fixture.failures(), "\n".join(fixture.failures())
    assert not fixture.unread(), f"no check reads {fixture.unread()}"
