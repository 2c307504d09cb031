"""The reliability diagram: how often frames were within the bound, by how probable that was said to be."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from wm_env.model.metrics.forecasts import Bin

SIDE, MARGIN = 320, 44  # pixels
_INK, _GREY, _BLUE = (34, 34, 34), (170, 170, 170), (40, 100, 180)


def reliability_diagram(bins: Sequence[Bin], title: str) -> Image.Image:
    """Return a square picture: said across, was up, the diagonal is a perfect forecast; dots grow with n."""
    side = SIDE + 2 * MARGIN
    picture = Image.new("RGB", (side, side), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(12)

    def at(said: float, was: float) -> tuple[float, float]:
        return MARGIN + said * SIDE, MARGIN + (1 - was) * SIDE

    draw.rectangle((*at(0, 1), *at(1, 0)), outline=_GREY)
    draw.line([at(0, 0), at(1, 1)], _GREY, 1)
    for tick in range(0, 11, 2):
        share = tick / 10
        draw.text((at(share, 0)[0] - 8, at(share, 0)[1] + 6), f"{share:g}", _INK, font)
        draw.text((at(0, share)[0] - 26, at(0, share)[1] - 7), f"{share:g}", _INK, font)
    draw.line([at(one.forecast, one.happened) for one in bins], _BLUE, 2)
    most = max(one.n for one in bins)
    for one in bins:
        x, y = at(one.forecast, one.happened)
        radius = 2 + 3 * (one.n / most) ** 0.5
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), _BLUE)
    draw.text((MARGIN, 12), title, _INK, font)
    draw.text((MARGIN + SIDE / 2 - 60, side - 18), "trust that was said", _INK, font)
    draw.text((MARGIN + 6, MARGIN + 4), "share within the bound", _INK, font)
    return picture
