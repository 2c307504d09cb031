"""Reports are values: they come back from their JSON as they were, and what is wrong in a file is named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from wm_env.bench.records import Record, load, plain, read


class Pair(NamedTuple):
    mean: float
    lo: float | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    split: Literal["val", "train"] = "val"
    sizes: tuple[int, ...] = (1,)


@dataclass(frozen=True, kw_only=True)
class Inner(Record):
    pair: Pair
    table: dict[str, tuple[float | None, ...]]


@dataclass(frozen=True, kw_only=True)
class Outer(Record):
    name: str
    inner: Inner | None
    settings: Settings
    rest: Any


WHOLE = Outer(
    name="a",
    inner=Inner(pair=Pair(1.5, None), table={"x": (1.0, None)}),
    settings=Settings(sizes=(2, 3)),
    rest={"free": [1, "two"]},
)


def test_a_record_comes_back_from_its_json() -> None:
    found = json.loads(json.dumps(WHOLE.to_json()))
    assert found == {
        "name": "a",
        "inner": {"pair": {"mean": 1.5, "lo": None}, "table": {"x": [1.0, None]}},
        "settings": {"split": "val", "sizes": [2, 3]},
        "rest": {"free": [1, "two"]},
    }
    assert Outer.from_json(found) == WHOLE
    assert plain((float("nan"), float("inf"), 2.0)) == [None, None, 2.0]


def test_a_setting_that_an_earlier_version_did_not_have_takes_its_default() -> None:
    found = WHOLE.to_json()
    del found["settings"]["split"]
    assert Outer.from_json(found) == WHOLE


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: found.update(nam="b"), "report has an unknown key 'nam'; known are name, inner"),
        (lambda found: found.pop("inner"), "report lacks the key 'inner'"),
        (lambda found: found["inner"]["pair"].pop("lo"), r"report.inner.pair lacks the key 'lo'"),
        (
            lambda found: found["inner"]["table"].update(x=[1, "b"]),
            r"report.inner.table\['x'\]\[1\] is \"b\"",
        ),
        (lambda found: found.update(name=3), "report.name is 3, where str belongs"),
        (lambda found: found["settings"].update(split="test"), 'report.settings.split is "test"'),
        (lambda found: found["settings"].update(sizes=[True]), r"report.settings.sizes\[0\] is true"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_in_one_sentence(change: Any, says: str) -> None:
    found = json.loads(json.dumps(WHOLE.to_json()))
    change(found)
    with pytest.raises(ValueError, match=says) as error:
        Outer.from_json(found)
    assert "\n" not in str(error.value)


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"found\.json is not JSON"):
        load(Outer, path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"found.json is \[\], where an object with name, inner"):
        load(Outer, path)
    with pytest.raises(ValueError, match="x is 1, where str belongs"):
        read(str, 1, "x")
