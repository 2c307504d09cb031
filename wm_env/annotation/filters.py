"""Which clips are accepted: every bound of the recipe against what was measured, each with its reason."""

from __future__ import annotations

import math
from typing import NamedTuple

from wm_env.annotation.measures import Measures
from wm_env.annotation.recipe import Filters

ROTATION = "the camera only turns, or too little to tell: its translations are unknown"


class _Bound(NamedTuple):
    """What is measured, in words and by a format, and its bound. least: it may not be below, else above."""

    value: float | None
    bound: float
    words: str
    form: str
    least: bool


def reasons(measures: Measures, settings: Filters, *, zoom: bool) -> tuple[str, ...]:
    """Return why a clip is refused, one sentence a filter; none where it is accepted.

    zoom: whether every frame has a focal length of its own, so that a change of it is no fault. What could
    not be measured decides nothing.
    """
    found = []
    for value, bound, words, form, least in _bounds(measures, settings, zoom):
        if value is None:
            continue
        if value < bound if least else not value <= bound:
            asked = f"at {'least' if least else 'most'} {form.format(bound)} is asked"
            said = form.format(value) if math.isfinite(value) else "more than all"
            found.append(f"{words.format(said)}, {asked}")
    low, high = settings.fov_deg
    if not low <= measures.fov_deg <= high:
        wide = f"{measures.fov_deg:.0f} degrees wide, {low:.0f} to {high:.0f} are asked"
        found.append(f"the picture is {wide}")
    return tuple(found)


def _bounds(m: Measures, s: Filters, zoom: bool) -> tuple[_Bound, ...]:
    off, agree = "matches are {} of the width off where the poses put them", "of the observations agree"
    return (
        _Bound(
            m.share_placed,
            s.share_placed,
            "the longest run of frames with a pose is {} of the clip",
            "{:.0%}",
            True,
        ),
        _Bound(m.error, s.error, f"the {off}", "{:.2%}", False),
        _Bound(m.error_worst, s.error_worst, f"in one part the {off}", "{:.2%}", False),
        _Bound(m.agree, s.agree, f"{{}} {agree} with the poses", "{:.0%}", True),
        _Bound(m.agree_worst, s.agree_worst, f"in one part {{}} {agree} with the poses", "{:.0%}", True),
        _Bound(m.observations, s.observations, "{} points are seen in a frame", "{:.0f}", True),
        _Bound(m.parallax_deg, s.parallax_deg, "the rays to a point differ by {} degrees", "{:.2f}", True),
        _Bound(m.path, s.path, "the path is {} of the distance of what is seen", "{:.2f}", True),
        _Bound(m.speed, s.speed, "the camera moves at {} m/s", "{:.1f}", False),
        _Bound(m.jump, s.jump, "a step is {} times those around it", "{:.1f}", False),
        _Bound(m.turn_deg, s.turn_deg, "the camera turns {} degrees between two frames", "{:.0f}", False),
        _Bound(m.sharp, s.sharp, "the sharpness of the duller frames is {}", "{:.2f}", True),
        _Bound(None if zoom else m.zoom, s.zoom, "the focal length changes by {}", "{:.1%}", False),
        _Bound(m.unit_change, s.unit_change, "the unit of the path changes by {}", "{:.0%}", False),
        _Bound(m.scale_interval, s.scale_interval, "the scale is known to {} of itself", "{:.0%}", False),
    )
