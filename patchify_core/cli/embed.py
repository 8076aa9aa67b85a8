"""`embed`: embed pictures into a folder of shards, in this process or with Ray on many workers."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from patchify_core.cli import options
from patchify_core.cli.shared import (
    folder_bytes,
    format_speed,
    print_report,
    print_skipped,
    progress_bar,
    read_pictures,
)
from patchify_core.errors import PatchifyError

if TYPE_CHECKING:
    from patchify_core.encoders import Encoder, EncoderSettings
    from patchify_core.gallery import Gallery
    from patchify_core.index.shards import EmbedReport, RaySettings

HELP = "embed pictures into shards for index --from-shards; with --ray on many workers"

LOCAL = ""
"""`--ray` without an address: a local Ray on this machine."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_gallery_options(
        parser,
        help="folder of pictures, or a dataset with annotations.json",
        out=("SHARDS", "folder of shards to create or resume"),
        like="use the encoder, regions, features and learned projection of this index: smaller shards",
    )
    parser.add_argument(
        "--half", action="store_true", default=None, help="store descriptors in half precision: half the space"
    )


def run(arguments: argparse.Namespace) -> int:
    """Embed a gallery into shards, or resume an interrupted run."""
    report, gallery = embed(arguments, Path(arguments.out))
    size = folder_bytes(arguments.out)
    text, rate = f"{arguments.out}: {describe(report)}, {size / 1e6:.1f} MB", report.images_per_s
    print_report(
        arguments, report, text, images_per_s=rate, bytes=size, shards_folder=arguments.out, notes=gallery.notes
    )
    return print_skipped(report)


interruption_note = options.resume_note


def describe(report: EmbedReport) -> str:
    """Describe what was embedded."""
    lost = f"; {report.lost} workers lost, whose shards others embedded" if report.lost else ""
    return (
        f"{report.images} pictures in {report.shards} shards; {report.embedded} embedded, {report.reused} shards "
        f"existed already{lost}; {format_speed(report)}"
    )


def embed(arguments: argparse.Namespace, out: Path) -> tuple[EmbedReport, Gallery]:
    """Embed a gallery as the options say, with a progress bar; return the report and the gallery."""
    from patchify_core.encoders import EncoderSettings
    from patchify_core.index.patch_index import PatchIndex
    from patchify_core.index.shards import EmbedSettings, embed_gallery
    from patchify_core.regions import parse_regions

    options.fill(arguments, options.defaults())
    ray = ray_settings(arguments)
    like = None if arguments.like is None else PatchIndex.load(arguments.like)
    more = options.specified(arguments, "shard_images", "keep_maps")
    more |= {"kind": "float16"} if options.specified(arguments, "half") else {}
    settings = EmbedSettings(arguments.features if like is None else like.features, **more)
    regions = parse_regions(arguments.regions) if like is None else like.regions
    gallery = read_pictures(arguments)
    encoding = EncoderSettings()
    encoder = _loaded(arguments.encoder if like is None else like.encoder.spec, encoding, ray)
    if like is not None:
        like.check_encoder(encoder.info)
    projection = None if like is None else like.projection
    with progress_bar("embedding", " pictures") as progress:
        report = embed_gallery(
            gallery, out, encoder, regions, settings, progress, projection=projection, ray=ray, encoding=encoding
        )
    return report, gallery


def _loaded(spec: str, encoding: EncoderSettings, ray: RaySettings | None) -> Encoder:
    """Load the encoder; on the CPU if Ray workers embed, because this process then only needs its description."""
    from patchify_core.encoders import load_encoder

    return load_encoder(spec, encoding if ray is None else replace(encoding, device="cpu"))


def ray_settings(arguments: argparse.Namespace) -> RaySettings | None:
    """Return the settings of Ray; None without --ray.

    Raises:
        PatchifyError: If options of Ray are used without --ray.
    """
    from patchify_core.encoders import load_encoder
    from patchify_core.index.shards import RaySettings

    more = options.specified(arguments, "workers", "cpus", "gpus")
    if arguments.ray is None:
        for name in more:
            raise PatchifyError(f"{options.flag(name)} is an option of Ray: add --ray, or leave it out.")
        return None
    address = arguments.ray if arguments.ray != LOCAL else os.environ.get("RAY_ADDRESS") or None
    return RaySettings(address, load=load_encoder, **more)
