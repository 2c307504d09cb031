"""Writes docs/api.md from the docstrings of the public names and the settings of the environment.

python docs/api.py            writes the page
python docs/api.py --check    exit code 1 where the page is not what would be written
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
from pathlib import Path

import wm_env
from wm_env.documented import fields_of
from wm_env.worlds import FAMILIES

PAGE = Path(__file__).parent / "api.md"
HEAD = """# Public names

Everything that `import wm_env` offers; loaded on first use. Made from the docstrings by `python docs/api.py`.
The guide is [The environment](environment.md), the contract its
[reference](reference/environment.md).
"""


def table(cls: type) -> list[str]:
    """Return the fields of a dataclass as a table of name, type, default and meaning."""
    meaning = fields_of(cls)
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        kind = str(field.type).replace("|", "\\|")
        rows.append(f"| `{field.name}` | `{kind}` | `{field.default!r}` | {meaning[field.name]} |")
    return rows


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for name in wm_env.__all__:
        thing = getattr(wm_env, name)
        parts.append(f"## {name}\n")
        if inspect.isfunction(thing):
            parts.append(f"```text\n{name}{inspect.signature(thing)}\n```\n")
        if name == "EnvConfig":
            parts.append("Settings of `gym.make` and `gym.make_vec`, all optional.\n")
            parts += [*table(thing), ""]
        else:
            parts.append(f"```text\n{inspect.getdoc(thing)}\n```\n")
    parts.append("## Options of worlds\n")
    parts.append("`load_world(name, **options)` and the settings of the same names take, by family:\n")
    for family in FAMILIES:
        parts.append(f"**{family.what[0].upper()}{family.what[1:]}**\n")
        parts += [*table(family.options), ""]
    return "\n".join(parts).rstrip() + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; say whether the page differs")
    options = parser.parse_args(arguments)
    text = page()
    if options.check:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print(f"{PAGE.name} {'is up to date' if same else 'differs; run python docs/api.py'}")
        return 0 if same else 1
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
