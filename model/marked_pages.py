"""Pages whose numbers are made from files: what stands between two marks is replaced, the rest is left alone.

    <!-- measured: NAME -->          lines of their own: a section, such as a table
    ...
    <!-- end -->

    ... comes back at <!--=NAME-->36<!--/--> dB ...          within a line: a number, or a few words

Markdown shows neither mark. A line that begins with a comment is HTML to Markdown, so a number within a line
may not be its first word. Nothing here needs more than the standard library.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_SECTION = re.compile(r"^<!-- measured: ([\w-]+) -->\n(.*?)^(?=<!-- end -->)", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"<!--=([\w-]+)-->([^\n]*?)<!--/-->")
_FIRST = re.compile(r"^\s*(?:>\s*)*<!--=([\w-]+)-->", re.MULTILINE)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int) -> str:
    """Return a Markdown table whose last `numbers` columns are set to the right."""
    rule = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def filled(text: str, found: Mapping[str, str]) -> str:
    """Return a page with all that is marked replaced by the text of its name in `found`.

    A name may mark several numbers, but only one section. Raises `ValueError` where names are marked that
    `found` lacks or the reverse, where a mark has no end, and where a marked number begins its line.
    """
    sections, numbers = _SECTION.findall(text), _NUMBER.findall(text)
    opened = len(re.findall(r"<!-- measured: ", text)) + text.count("<!--=")
    closed = text.count("<!-- end -->") + text.count("<!--/-->")
    whole = len(sections) + len(numbers)
    if not whole == opened == closed:
        raise ValueError(
            f"the page opens {opened} marks and closes {closed}, and {whole} of them are whole; "
            "a section ends in a line `<!-- end -->`, a number in `<!--/-->` on the line it begins in"
        )
    if first := _FIRST.findall(text):
        raise ValueError(f"the numbers {first} begin their lines, which Markdown reads as HTML; move them on")
    named = [name for name, _ in sections] + sorted({name for name, _ in numbers})
    if sorted(named) != sorted(found):
        raise ValueError(f"the page marks {sorted(named)}; there are {sorted(found)}")
    text = _SECTION.sub(lambda mark: f"<!-- measured: {mark[1]} -->\n{found[mark[1]]}\n", text)
    return _NUMBER.sub(lambda mark: f"<!--={mark[1]}-->{found[mark[1]]}<!--/-->", text)


def rewrite(root: Path, pages: Mapping[str, Mapping[str, str]], *, check: bool) -> int:
    """Rewrite the pages below `root`, or with `check` only say which would change; return the exit code.

    pages: the texts of every page's marks. 0: nothing left to do; 1: with `check`, a page would change.
    Raises `ValueError` with the page's name as `filled` does, `OSError` where a page cannot be read.
    """
    changed = []
    for page, found in pages.items():
        path = root / page
        text = path.read_text(encoding="utf-8")
        try:
            new = filled(text, found)
        except ValueError as error:
            raise ValueError(f"{page}: {error}") from error
        if new != text:
            changed.append(page)
            if check:
                _tell(page, text, new)
            else:
                path.write_text(new, encoding="utf-8")
    print(f"{'differs' if check else 'rewritten'}: {', '.join(changed) or 'no page'}")
    return 1 if changed and check else 0


def _tell(page: str, text: str, new: str) -> None:
    """Print every marked text that differs."""
    for pattern in (_SECTION, _NUMBER):
        for (name, old), (_, made) in zip(pattern.findall(text), pattern.findall(new), strict=True):
            if old != made:
                print(f"{page}: {name}: the page says {old.strip()!r}, the files {made.strip()!r}")


def arguments(document: str | None, folder: Path, words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a command that rewrites the pages of a folder: `folder` and `check`."""
    parser = argparse.ArgumentParser(description=(document or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=folder, help="pages and files of numbers")
    parser.add_argument("--check", action="store_true", help="change nothing; say which page would change")
    return parser.parse_args(words)


def refused(error: Exception) -> int:
    """Print why pages cannot be made, and return the exit code for it."""
    print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
    return 2
