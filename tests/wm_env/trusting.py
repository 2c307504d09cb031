"""A world of random weights with a calibration whose numbers are known."""

from __future__ import annotations

import shutil
from pathlib import Path

from wm_env.model.embedded import load_embedded
from wm_env.model.trust_calibration import SUFFIX, Calibration
from wm_env.model.trust_model import TrustModel


def model(name: str, weight: float, bias: float = 0.0, unit: str = "grey levels") -> TrustModel:
    """Return p = sigmoid(bias + weight x) of one signal."""
    one, none = (1.0,), (0.0,)
    return TrustModel(
        bound=20.0, unit=unit, names=(name,), mean=none, std=one, weight=(weight,), square=none, bias=bias
    )


def with_calibration(world: str, folder: Path, start_limit: float | None = None) -> str:
    """Return a copy of a world's folder with a calibration: trust falls by the step, 2 - 2 log(1 + n)."""
    home = Path(shutil.copytree(world, folder))
    spec = load_embedded(home).spec
    assert spec.weights_sha256 is not None
    calibration = Calibration(
        world=spec.name,
        options={},
        weights_sha256=spec.weights_sha256,
        made={"by": "a test"},
        appearance=model("steps", -2.0, 2.0),
        place=model("moved", -1.0, 1.0, "mean |log depth|"),
        cells=model("detail", 3.0),
        start_limit=start_limit,
    )
    calibration.save(home / f"{spec.name}{SUFFIX}")
    return str(home)
