"""Where the checkout keeps what comes with it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_DB = ROOT / "sample_db"
ASSETS = ROOT / "assets"
