"""`make test-fast` leaves out slow tests and still looks into every file of tests."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parent
SLOW = "pytest.mark.slow"
ALL_SLOW = {  # and why
    "wm_env/annotation/test_annotate.py": "poses are found in rendered films",
    "examples/test_train_own_world.py": "the script trains in a process of its own",
    "model/released/measure/test_against_diffusers.py": "importing diffusers takes longer than a test may",
    "model/training/test_recipe_run.py": "trainings, if short ones",
    "wm_env/test_ray.py": "Ray starts processes",
    "wm_env/test_torchrl.py": "importing TorchRL takes longer than a test may",
}


def fast_tests(source: str) -> list[str]:
    """Return the names of the tests in a file's source that are not marked slow."""
    tree = ast.parse(source)
    marked = [ast.unparse(node.value) for node in tree.body if isinstance(node, ast.Assign)
              and ast.unparse(node.targets[0]) == "pytestmark"]  # fmt: skip
    if any(SLOW in marks for marks in marked):
        return []
    tests = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    return [test.name for test in tests if SLOW not in map(ast.unparse, test.decorator_list)]


def test_every_file_has_a_fast_test_or_is_listed_with_a_reason() -> None:
    files = {path.relative_to(TESTS).as_posix(): path for path in sorted(TESTS.rglob("test_*.py"))}
    slow = {name for name, path in files.items() if not fast_tests(path.read_text())}
    assert slow == set(ALL_SLOW)


def test_marks_of_tests_and_of_files_are_seen() -> None:
    source = "import pytest\n\n\n@pytest.mark.slow\ndef test_a(): ...\n\n\ndef test_b(): ...\n"
    assert fast_tests(source) == ["test_b"]
    assert fast_tests(f"{source}pytestmark = [pytest.mark.slow]\n") == []
