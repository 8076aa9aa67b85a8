"""Where what comes with the package lies: in its checkout, or where a wheel put it."""

from __future__ import annotations

import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that contains the package: the checkout, or `site-packages`."""

_DATA = ROOT if (ROOT / "sample_db").is_dir() else Path(sysconfig.get_path("data")) / "share" / "patchify"
SAMPLE_DB = _DATA / "sample_db"
ASSETS = _DATA / "assets"
