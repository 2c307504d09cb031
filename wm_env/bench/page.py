"""One self-contained HTML page: text, tables and figures, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from wm_env.bench.glossary import lines
from wm_env.bench.provenance import Report
from wm_env.bench.records import plain
from wm_env.model.storage.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100  # of figures
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1060px; margin: 2em auto; color: #222;
  padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px }
td, th { padding: 2px 6px; text-align: right }
th { border-bottom: 1px solid #888 } td:first-child, th:first-child { text-align: left }
tr.judged { font-weight: 600 } img { max-width: 100% } code { background: #f2f2f2; overflow-wrap: anywhere }
.verdict { font-size: 19px; font-weight: 600 } details { margin: 1em 0 }
summary { cursor: pointer; color: #555 }
figure { margin: 2em 0 } figcaption { color: #555; font-size: 13px } .note { color: #555; font-size: 13px }
"""


def light(png: bytes) -> bytes:
    """Return an opaque picture as PNG with a palette of its own, a third of the bytes; as large as before.

    Up to 256 colours, nearest and without dithering: lines and text keep their colours, photographs show
    bands that are smaller than what they are looked at for.
    """
    with Image.open(io.BytesIO(png)) as picture:
        few = picture.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    few.save(packed, format="png", optimize=True)
    return packed.getvalue()


def write_figures(out: Path, figures: Iterable[tuple[str, str, Figure]]) -> tuple[list[Path], list[str]]:
    """Write (file stem, caption, figure) as PNG into `out`; return the paths and the HTML blocks.

    A figure says by its own dpi how large it is.
    """
    paths, blocks = [], []
    for name, caption, figure in figures:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi="figure", metadata={"Software": None})
        packed = light(buffer.getvalue())
        path = out / f"{name}.png"
        with atomic_path(path) as temporary:
            temporary.write_bytes(packed)
        paths.append(path)
        picture = base64.b64encode(packed).decode()
        blocks.append(
            f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{picture}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    return paths, blocks


def write_page(path: Path, title: str, parts: Sequence[str]) -> Path:
    """Write the page with `title` and return its path; `parts` are HTML."""
    head = f"<title>{html.escape(title)}</title><style>{_STYLE}</style><h1>{html.escape(title)}</h1>"
    with atomic_path(path) as temporary:
        temporary.write_text(
            "\n".join(["<!doctype html><meta charset='utf-8'>", head, *parts, ""]), encoding="utf-8"
        )
    return path


def leading(verdict: str) -> str:
    """Return the sentence that a page begins with."""
    return f"<p class='verdict'>{html.escape(verdict)}</p>"


def folded(summary: str, parts: Iterable[str]) -> str:
    """Return parts of a page that are seen when they are asked for, as one line."""
    return f"<details><summary>{html.escape(summary)}</summary>{''.join(parts)}</details>"


def how(report: Report, settings: Any) -> str:
    """Return, folded, how a report came about: weights, machine, command, settings (a dataclass)."""
    told = html.escape(json.dumps(plain(settings)))
    return folded("How it was measured", [opening(report), f"<p>Settings: <code>{told}</code></p>"])


def words(names: Iterable[str]) -> str:
    """Return, folded, what the words of the page mean."""
    found = "".join(f"<li>{html.escape(line)}</li>" for line in lines(names))
    return folded("What the words mean", [f"<ul>{found}</ul>"])


def markdown_folded(summary: str, told: Sequence[str]) -> list[str]:
    """Return lines of Markdown that are seen when they are asked for."""
    return [f"<details><summary>{html.escape(summary)}</summary>", "", *told, "", "</details>", ""]


def markdown_end(settings: Any, told: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return the end of a report in Markdown, folded: how it was measured (`told`, settings), its words."""
    measured = [*told, f"Settings: `{json.dumps(plain(settings))}`"]
    meanings = [f"- {line}" for line in lines(names)]
    return [
        *markdown_folded("How it was measured", measured),
        *markdown_folded("What the words mean", meanings),
    ]


def opening(report: Report) -> str:
    """Return the paragraph that says where the numbers come from."""
    return (
        f"<p>Weights sha256 <code>{report.weights_sha256 or 'none'}</code>; {report.date}; "
        f"{html.escape(report.hardware)}, {report.threads} thread(s), torch {report.torch}.<br>"
        f"<code>{html.escape(report.command)}</code></p>"
    )


def table(titles: Sequence[str], rows: Mapping[str, Sequence[str]], judged: str | None = None) -> str:
    """Return an HTML table with a named row per entry; the row `judged` is in bold."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in ["", *titles])
    body = "".join(
        ('<tr class="judged">' if name == judged else "<tr>")
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in [name, *cells])
        + "</tr>"
        for name, cells in rows.items()
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def number(value: float | None, digits: int = 2) -> str:
    """Return the number as text, "-" where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"
