"""Small line drawings as SVG text: curves over numbers, and paths seen from one side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT, MARGIN = 420, 240, 34
COLOURS = ("#2a6fbb", "#c4432b", "#3c8d40")


def curve(x: np.ndarray, y: np.ndarray, words: str) -> str:
    """Return a curve of finite numbers `(n,)` over `(n,)`; words: what it is, with its unit."""
    fine = np.isfinite(y)
    if not fine.any():
        return f"<p>{words}: nothing to draw</p>"
    x, y = x[fine], y[fine]
    low, high = _span(y, least=0.02 * max(abs(float(y.max())), 1e-9))
    points = _scaled(x, y, (float(x.min()), float(x.max())), (low, high))
    return _svg(words, [_line(points, COLOURS[0])], (float(x.min()), float(x.max())), (low, high))


def path(x: np.ndarray, y: np.ndarray, words: str, others: Sequence[np.ndarray] = ()) -> str:
    """Return a path `(n,)`, `(n,)` in one unit on both axes, its start as a dot.

    others: paths `(m, 2)` drawn beside it.
    """
    own = np.stack([x, y], axis=1)
    everything = np.concatenate([own, *others])
    middle = (everything.min(0) + everything.max(0)) / 2
    reach = max(float((everything.max(0) - everything.min(0)).max()) / 2, 1e-9) * 1.08
    room = (WIDTH - 2 * MARGIN) / (HEIGHT - 2 * MARGIN)
    across = (middle[0] - reach * room, middle[0] + reach * room)
    up = (middle[1] - reach, middle[1] + reach)
    lines = [
        _line(_scaled(one[:, 0], one[:, 1], across, up), COLOURS[at % 3])
        for at, one in enumerate([own, *others])
    ]
    ((cx, cy),) = _scaled(own[:1, 0], own[:1, 1], across, up)
    return _svg(words, [*lines, f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="4"/>'], across, up)


def _span(values: np.ndarray, least: float) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = max(least, high - low) / 2 * 1.1
    return (low + high) / 2 - room, (low + high) / 2 + room


def _scaled(
    x: np.ndarray, y: np.ndarray, across: tuple[float, float], up: tuple[float, float]
) -> list[tuple[float, float]]:
    """Return places in the drawing, y upwards."""
    u = MARGIN + (x - across[0]) / max(across[1] - across[0], 1e-12) * (WIDTH - 2 * MARGIN)
    v = HEIGHT - MARGIN - (y - up[0]) / max(up[1] - up[0], 1e-12) * (HEIGHT - 2 * MARGIN)
    return list(zip(u.tolist(), v.tolist(), strict=True))


def _line(points: list[tuple[float, float]], colour: str) -> str:
    told = " ".join(f"{u:.1f},{v:.1f}" for u, v in points)
    return f'<polyline points="{told}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _svg(words: str, parts: list[str], across: tuple[float, float], up: tuple[float, float]) -> str:
    frame = (
        f'<rect x="{MARGIN}" y="{MARGIN}" width="{WIDTH - 2 * MARGIN}" height="{HEIGHT - 2 * MARGIN}" '
        'fill="none" stroke="#bbb"/>'
    )
    label = '<text x="{}" y="{}" text-anchor="{}">{}</text>'
    texts = [
        label.format(WIDTH / 2, 20, "middle", words),
        label.format(MARGIN, HEIGHT - 14, "start", f"{across[0]:.4g}"),
        label.format(WIDTH - MARGIN, HEIGHT - 14, "end", f"{across[1]:.4g}"),
        label.format(MARGIN + 4, HEIGHT - MARGIN - 5, "start", f"{up[0]:.4g}"),
        label.format(MARGIN + 4, MARGIN + 14, "start", f"{up[1]:.4g}"),
    ]
    body = "".join([frame, *parts, *texts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'font-size="12" font-family="system-ui, sans-serif">{body}</svg>'
    )
