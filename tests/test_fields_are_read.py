"""Every field of a settings class is read by someone: a setting that nobody reads does nothing.

A field counts as read where an attribute of its name is loaded outside the class's own checks
(`__post_init__`); `self.NAME` counts for the class it stands in, its bases and its subclasses alone. Two
classes with a field of one name, each in a variable, cannot be told apart: this finds what is never read, not
what is read in vain.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("kernels", "model", "wm_env", "agents")
# Not settings but results, of which these fields are written out whole or checked by a test. So are those of
# the records of a report, all of them.
RESULTS = {
    "Row": {"reason"},  # why a released tensor has no place here: tests/model/released/test_loading.py
    "Score": {"mean_distance", "collisions_per_step"},  # written as a row, all fields at once
}


class Classes:
    """The dataclasses of some sources, and where attributes are loaded in them."""

    def __init__(self, sources: list[str]) -> None:
        self.fields: dict[str, set[str]] = defaultdict(set)  # classes of one name are taken together
        self.bases: dict[str, set[str]] = defaultdict(set)
        self.loaded: set[str] = set()  # names, of anything but self
        self.own: dict[str, set[str]] = defaultdict(set)  # names of self, by class
        for source in sources:
            self._visit(ast.parse(source), None)

    def unread(self, name: str) -> list[str]:
        """Return the fields of a dataclass that nobody reads."""
        relatives = {name, *self._above(name), *(other for other in self.bases if name in self._above(other))}
        read = self.loaded.union(*(self.own[relative] for relative in relatives))
        return sorted(self.fields[name] - read)

    def is_record(self, name: str) -> bool:
        """Return whether a class is part of a report, which `Record.to_json` writes out whole."""
        return "Record" in self._above(name)

    def _above(self, name: str) -> Iterator[str]:
        for base in self.bases.get(name, ()):
            yield base
            yield from self._above(base)

    def _visit(self, node: ast.AST, inside: str | None) -> None:
        if isinstance(node, ast.ClassDef):
            inside = node.name
            self.bases[inside] |= {ast.unparse(base).split(".")[-1] for base in node.bases}
            if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
                self.fields[inside] |= {
                    line.target.id
                    for line in node.body
                    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
                }
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
            return
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            of_self = isinstance(node.value, ast.Name) and node.value.id == "self" and inside is not None
            (self.own[inside] if of_self and inside else self.loaded).add(node.attr)
        for child in ast.iter_child_nodes(node):
            self._visit(child, inside)


FOUND = Classes([path.read_text() for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))])
SETTINGS = (
    *(
        "EnvConfig",
        "LoopConfig",
        "DiTConfig",
        "PPOSettings",
        "WorldLossConfig",
        "ClipLossConfig",
        "ImageConfig",
    ),
    *(
        "RenderConfig",
        "SamplerConfig",
        "TinyVAEConfig",
        "TinyRefinerConfig",
        "DriftSettings",
        "ReleasedSettings",
    ),
)


def test_the_settings_classes_are_among_those_that_are_looked_at() -> None:
    assert [name for name in SETTINGS if name not in FOUND.fields or FOUND.is_record(name)] == []
    assert FOUND.is_record("DriftReport") and FOUND.is_record("Gain")


@pytest.mark.parametrize("name", sorted(name for name in FOUND.fields if not FOUND.is_record(name)))
def test_every_field_is_read_by_someone(name: str) -> None:
    assert set(FOUND.unread(name)) == RESULTS.get(name, set())


def test_a_field_that_only_its_own_check_or_another_class_reads_is_found() -> None:
    a = """
@dataclass(frozen=True)
class A:
    used: int
    checked: int
    elsewhere: int
    above: int
    shown: int
    def __post_init__(self): assert self.checked > 0
    def show(self): return self.shown
"""
    b = """
class B:
    def f(self, a): return a.used + self.elsewhere
class C(A):
    def f(self): return self.above
"""
    assert Classes([a, b]).unread("A") == ["checked", "elsewhere"]
