"""Tests of clips and training data."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # layout_writers: importlib mode puts no folder on the path
