"""Our code reproduces recorded numbers of the published reference, file by file."""

from __future__ import annotations

from pathlib import Path

from golden_checks import CHECKS, Fixture, Measured, load


def test_fixture_is_reproduced(golden_file: Path, measured: list[Measured]) -> None:
    measured += reproduce(golden_file).measured


def test_own_fixture_is_reproduced(own_file: Path) -> None:
    """Small recordings of our own (`own/make.py`): they stay where the reference's are absent."""
    assert reproduce(own_file).measured


def reproduce(path: Path) -> Fixture:
    """Return the fixture after its check: a known kind, no error above tolerance, no tensor left unread."""
    fixture = load(path)
    assert fixture.kind in CHECKS, f"{path.name}: unknown kind {fixture.kind!r}"
    CHECKS[fixture.kind](fixture)
    assert not fixture.failures(), "\n".join(fixture.failures())
    assert not fixture.unread(), f"no check reads {fixture.unread()}"
    return fixture
