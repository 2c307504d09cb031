"""The hardness runs as tests: their short form."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # its modules: importlib mode puts no folder on the path
