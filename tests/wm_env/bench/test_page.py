"""Figures on pages and beside them are light, and show what they showed."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wm_env.bench.page import light, write_figures

REPORTS = Path(__file__).resolve().parents[3] / "docs" / "reports"
LIMIT = 4 * 2**20  # bytes of all committed reports together
NEAR = 4.0  # grey levels that a colour of a palette is off on average, in a picture of many colours


def png(pixels: np.ndarray) -> bytes:
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, format="png")
    return kept.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_picture_of_few_colours_keeps_every_pixel() -> None:
    few = np.random.default_rng(0).integers(0, 256, (200, 3), dtype=np.uint8)
    drawn = few[np.random.default_rng(1).integers(0, 200, (60, 90))]
    assert (pixels(light(png(drawn))) == drawn).all()


def test_a_photograph_keeps_its_size_and_nearly_its_colours_in_less_than_half_the_bytes() -> None:
    x, y = np.meshgrid(np.arange(120), np.arange(80))
    smooth = np.stack([2 * x, 3 * y, 255 - x - y], -1)
    grain = np.random.default_rng(0).integers(-2, 3, smooth.shape)
    photograph = np.clip(smooth + grain, 0, 255).astype(np.uint8)
    packed = light(png(photograph))
    assert len(packed) < len(png(photograph)) / 2
    assert np.abs(pixels(packed).astype(int) - photograph).mean() < NEAR


def test_the_page_holds_the_very_picture_that_lies_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 2), dpi=100)
    figure.subplots().plot([0, 1, 2])
    [path], [block] = write_figures(tmp_path, [("line", "A line.", figure)])
    held = re.search(r'src="data:image/png;base64,([^"]+)"', block)
    assert held is not None and base64.b64decode(held[1]) == path.read_bytes()
    assert pixels(path.read_bytes()).shape == (200, 300, 3)


def test_the_committed_reports_are_light_and_their_pictures_whole() -> None:
    kept = [path for path in REPORTS.rglob("*") if path.suffix in (".html", ".json", ".gz", ".md")]
    assert sum(path.stat().st_size for path in kept) < LIMIT
    for page in (path for path in kept if path.suffix == ".html"):
        pictures = re.findall(r'src="([^"]+)"', page.read_text())
        assert pictures and all(source.startswith("data:image/png;base64,") for source in pictures)
        for source in pictures:
            Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).verify()
