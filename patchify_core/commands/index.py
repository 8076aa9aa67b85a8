"""`index`: builds or updates an index folder."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from patchify_core.commands.shared import build, build_like, say_skipped
from patchify_core.encoders import load_encoder
from patchify_core.errors import PatchifyError
from patchify_core.gallery import read_gallery
from patchify_core.index import PatchIndex
from patchify_core.regions import parse_regions


def run(arguments: argparse.Namespace) -> int:
    """Builds or updates an index folder."""
    if arguments.like is None:
        regions = parse_regions(arguments.regions)
        gallery = read_gallery(arguments.gallery)
        report = build(gallery, Path(arguments.out), load_encoder(arguments.encoder), arguments)
    else:
        _check_alone(arguments)
        like = PatchIndex.load(arguments.like)
        regions, gallery = like.regions, read_gallery(arguments.gallery)
        report = build_like(gallery, Path(arguments.out), like, load_encoder(like.encoder.spec))
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


def _check_alone(arguments: argparse.Namespace) -> None:
    """With --like, what an index is made of is all said by the other index."""
    from patchify_core.__main__ import parser

    usual = parser().parse_args(["index", "GALLERY", "--out", "INDEX"])
    for name in ("encoder", "regions", "features", "keep_maps", "factory", "codebook", "rescore"):
        if getattr(arguments, name, None) != getattr(usual, name, None):
            option = name.replace("_", "-")
            raise PatchifyError(f"--like takes all of it from {arguments.like}: leave --{option} out, or --like.")
