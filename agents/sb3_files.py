"""Policies in Stable-Baselines3's own `.zip` files, which hold pickles: loading one runs what it says."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any, Protocol, TypeVar

M_co = TypeVar("M_co", covariant=True)


class Loads(Protocol[M_co]):
    """An algorithm of Stable-Baselines3, such as `PPO`."""

    def load(self, path: Path, **options: Any) -> M_co:
        """Return the model that a `.zip` holds."""
        ...


def load_zip(algorithm: Loads[M_co], file: Path, **options: Any) -> M_co:
    """Return the model of a `.zip`, after a warning that names the file: nothing is unpickled before it.

    options: those of `algorithm.load`. Raises `ValueError` for a file that is none.
    """
    warnings.warn(
        f"{str(file)!r} is a file of Stable-Baselines3, which holds pickles: loading it runs whatever they "
        "say, so load only your own (a policy.safetensors holds none)",
        stacklevel=3,
    )
    try:
        return algorithm.load(file, **options)
    except (zipfile.BadZipFile, KeyError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{str(file)!r} is no policy that Stable-Baselines3 saved: {error!r}") from error
