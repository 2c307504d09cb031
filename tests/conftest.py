"""Options shared by the tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        metavar="DIR",
        help="folder of golden fixtures for tests/parity; every file in it must be used and none skipped "
        "(default: ../shared/golden beside the repository, skipped where absent)",
    )
    parser.addoption(
        "--parity-report",
        metavar="FILE",
        help="write the errors that tests/parity measured to FILE (Markdown) and to a CSV file beside it",
    )
