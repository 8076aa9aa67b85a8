"""`index`: builds or updates an index folder."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from patchify_core.commands.shared import build, say_skipped
from patchify_core.encoders import load_encoder
from patchify_core.gallery import read_gallery
from patchify_core.regions import parse_regions


def run(arguments: argparse.Namespace) -> int:
    """Builds or updates an index folder."""
    regions = parse_regions(arguments.regions)
    gallery = read_gallery(arguments.gallery)
    report = build(gallery, Path(arguments.out), load_encoder(arguments.encoder), arguments)
    size = sum(path.stat().st_size for path in Path(arguments.out).iterdir())
    if arguments.json:
        numbers = asdict(report) | {"images_per_s": report.images_per_s, "bytes": size, "index": arguments.out}
        numbers["skipped"] = [{"file": name, "reason": reason} for name, reason in report.skipped]
        print(json.dumps(numbers, indent=1))
        return say_skipped(report)
    speed = f"{report.images_per_s:.2f} pictures/s, {report.seconds:.1f} s" if report.embedded else "nothing to embed"
    print(
        f"{arguments.out}: {report.images} pictures x {regions.patches_per_image} patches, {size / 1e6:.1f} MB; "
        f"{report.embedded} embedded, {report.reused} already known; {speed}"
    )
    return say_skipped(report)
