"""Finds the golden fixtures, makes one test of each, and reports what was measured.

With an explicit `--golden DIR` nothing may be skipped: a skip in this folder becomes a failure.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # golden_checks: importlib mode puts no folder on the path

from golden_checks import Measured, report

OWN = Path(__file__).parent / "own"
MEASURED = pytest.StashKey[list[Measured]]()
IGNORED = (".md", ".py")


def golden_folder(config: pytest.Config) -> Path:
    explicit = config.getoption("--golden")
    folder = Path(explicit).resolve() if explicit else config.rootpath.parent / "shared" / "golden"
    if explicit and not folder.is_dir():
        raise pytest.UsageError(f"--golden {explicit}: there is no such folder")
    return folder


def files_of(folder: Path) -> list[Path]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in files if path.suffix not in IGNORED and not path.name.startswith(".")]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEASURED] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "own_file" in metafunc.fixturenames:
        marks = {
            "own_clip.safetensors": pytest.mark.slow
        }  # whole clips: several seconds; the others less than one
        own = [pytest.param(path, id=path.name, marks=marks.get(path.name, ())) for path in files_of(OWN)]
        metafunc.parametrize("own_file", own)
    if "golden_file" in metafunc.fixturenames:
        metafunc.parametrize("golden_file", golden_params(metafunc.config))


def golden_params(config: pytest.Config) -> list[Any]:
    folder = golden_folder(config)
    found = files_of(folder)
    if found:
        return [pytest.param(path, id=str(path.relative_to(folder))) for path in found]
    if config.getoption("--golden"):
        raise pytest.UsageError(f"--golden {folder}: there is no fixture in it")
    reason = f"golden fixtures are absent: {folder}"
    return [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=reason))]


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> list[Measured]:
    """Everything compared so far in this session."""
    return request.config.stash[MEASURED]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    result = yield
    if item.config.getoption("--golden") and (result.skipped or hasattr(result, "wasxfail")):
        result.outcome = "failed"
        result.longrepr = f"with an explicit --golden nothing may be skipped: {result.longrepr}"
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the measured errors, all of them with --golden, and write them where asked."""
    measured = config.stash[MEASURED]
    if config.getoption("--parity-report"):
        report.write(measured, Path(config.getoption("--parity-report")))
    if not config.getoption("--golden") or not measured:
        return
    terminalreporter.section("measured errors (max |ours - recorded|, relative to max |recorded|)")
    for m in measured:
        mark = "" if m.error <= m.tolerance else "  FAILED"
        line = f"{m.file:<28} {m.name:<52} {m.measure:<8} {m.error:9.2e} of {m.tolerance:7.0e}{mark}"
        terminalreporter.write_line(line)
