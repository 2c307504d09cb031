"""Every document that code or documentation cites is in the repository, under the cited heading.

Code cites a document by its path from the root of the repository, `docs/reference/transformer.md#gates`. A
page links relative to its own folder and may name a document either way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import wm_env

ROOT = Path(__file__).resolve().parent.parent
CODE = ("kernels", "model", "wm_env", "agents", "examples", "tests")
OUTSIDE = re.compile(r"\.\./shared(?!/golden\b)")  # recorded fixtures are data and lie beside the checkout
CITATION = re.compile(r"(?<![\w/.{-])((?:\.{0,2}/)?(?:[\w.-]+/)*[\w-]+\.md)(?:#([\w-]+))?")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def files() -> list[Path]:
    """Return all that may cite: sources, settings and pages, but not this file with its bad examples."""
    sources = [path for folder in CODE for path in sorted((ROOT / folder).rglob("*.py"))]
    found = [path for path in sources if path.name != Path(__file__).name]
    found += [ROOT / "pyproject.toml", ROOT / "Makefile", *ROOT.glob("*.cff")]
    return [*found, *sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings as GitHub makes them; a repeated heading gets -1, -2, ..."""
    found: list[str] = []
    for line in re.sub(r"^```.*?^```", "", page, flags=re.M | re.S).splitlines():
        if heading := re.match(r"#{1,6} +(.+)", line):
            text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).strip().lower()
            found.append(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return {f"{slug}-{before}" if (before := found[:i].count(slug)) else slug for i, slug in enumerate(found)}


def citations(text: str, is_page: bool) -> Iterator[tuple[str, str, bool]]:
    """Yield (path, anchor, is a link) of everything cited; the path is empty in a link to the page itself."""
    for path, anchor in CITATION.findall(LINK.sub("]", text) if is_page else text):
        yield path, anchor, False
    for target in LINK.findall(text) if is_page else ():
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor, True


def problems(text: str, path: Path, root: Path) -> list[str]:
    """Return what is wrong with the citations in `text`, the content of the file `path` below `root`."""
    is_page = path.suffix == ".md"
    wrong = [f"{match} is outside the repository" for match in OUTSIDE.findall(text)]
    for cited, anchor, is_link in citations(text, is_page):
        places = [path.parent / cited] if is_link else [root / cited, path.parent / cited][: 1 + is_page]
        found = [path] if not cited else [place.resolve() for place in places if place.exists()]
        if not found or not found[0].is_relative_to(root):
            wrong.append(f"{cited} is no file of the repository")
        elif anchor and anchor not in anchors(text if found[0] == path else found[0].read_text()):
            wrong.append(f"{cited} has no heading #{anchor}")
    return wrong


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_file_cites_is_there(path: Path) -> None:
    assert problems(path.read_text(), path, ROOT) == []


def missing_paths(text: str, root: Path) -> list[str]:
    """Return the paths in backquotes, with a slash in them, that are neither file nor folder below `root`."""
    return [path for path in re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text) if not (root / path).exists()]


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_path_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    assert missing_paths(text, ROOT) == []
    assert missing_paths(f"{text} `model/` `model/nothing.py` `nothing/`", ROOT) == [
        "model/nothing.py",
        "nothing/",
    ]


def test_citation_and_changelog_name_the_version_of_the_package() -> None:
    assert f"\nversion: {wm_env.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{wm_env.__version__}] - " in (ROOT / "CHANGELOG.md").read_text()


def test_a_bad_citation_is_found(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "page.md"
    page.write_text("# A page\n## Ray `maps`\n## Twice\n## Twice\n```\n# no heading\n```\n")
    assert anchors(page.read_text()) == {"a-page", "ray-maps", "twice", "twice-1"}

    code, gone = tmp_path / "code.py", "is no file of the repository"
    good = "(docs/page.md#ray-maps), docs/page.md. x"
    assert problems(good, code, tmp_path) == []
    assert problems("see page.md 3.1", code, tmp_path) == [f"page.md {gone}"]
    assert problems("docs/page.md#ray-map", code, tmp_path) == ["docs/page.md has no heading #ray-map"]
    assert problems("docs/page.md#no-heading", code, tmp_path) == ["docs/page.md has no heading #no-heading"]
    assert problems("../shared/page.md", code, tmp_path) == [
        "../shared is outside the repository",
        f"../shared/page.md {gone}",
    ]

    other = tmp_path / "docs" / "other.md"
    assert problems("# Other\n[a](page.md#twice-1) [b](#other) [c](https://x.org/y)", other, tmp_path) == []
    assert problems("[a](docs/page.md) [b](#here)", other, tmp_path) == [
        f"docs/page.md {gone}",
        " has no heading #here",
    ]
    (tmp_path.parent / "outside.md").write_text("# Outside\n")
    assert problems("[a](../../outside.md)", other, tmp_path) == [f"../../outside.md {gone}"]
