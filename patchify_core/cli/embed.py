"""`embed`: pictures to a folder of shards, here or with Ray on many workers."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from patchify_core.cli import options
from patchify_core.cli.shared import (
    folder_bytes,
    progress_bar,
    read_pictures,
    report_done,
    say_skipped,
    speed_in_words,
)
from patchify_core.errors import PatchifyError

if TYPE_CHECKING:
    from patchify_core.encoders import Encoder, EncoderSettings
    from patchify_core.gallery import Gallery
    from patchify_core.index.shards import EmbedReport, RaySettings

HELP = "embed pictures into shards, which index --from-shards takes; with --ray on many workers"

HERE = ""
"""`--ray` without an address: a Ray of our own on this machine."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_gallery_options(
        parser,
        help="folder of pictures, or a dataset with annotations.json",
        out=("SHARDS", "folder of shards to make or go on with"),
        like="encoder, regions, features and learned projection of this index: smaller shards",
    )
    parser.add_argument(
        "--half", action="store_true", default=None, help="keep descriptors in half precision: half the space"
    )


def run(arguments: argparse.Namespace) -> int:
    """Embed a gallery into shards, or go on where that was cut."""
    report, gallery = embed(arguments, Path(arguments.out))
    size = folder_bytes(arguments.out)
    text, rate = f"{arguments.out}: {in_words(report)}, {size / 1e6:.1f} MB", report.images_per_s
    report_done(
        arguments, report, text, images_per_s=rate, bytes=size, shards_folder=arguments.out, notes=gallery.notes
    )
    return say_skipped(report)


def remains(arguments: argparse.Namespace) -> str:
    """What remains after an interruption."""
    return options.GOING_ON


def in_words(report: EmbedReport) -> str:
    """What was embedded, in words."""
    lost = f"; {report.lost} lost workers, whose shards others did" if report.lost else ""
    return (
        f"{report.images} pictures in {report.shards} shards; {report.embedded} embedded, {report.reused} shards stood "
        f"there already{lost}; {speed_in_words(report)}"
    )


def embed(arguments: argparse.Namespace, out: Path) -> tuple[EmbedReport, Gallery]:
    """Embed as the options say, with a bar; return what was done, and of what."""
    from patchify_core.encoders import EncoderSettings
    from patchify_core.index.patch_index import PatchIndex
    from patchify_core.index.shards import EmbedSettings, embed_gallery
    from patchify_core.regions import parse_regions

    options.fill(arguments, options.usual())
    ray = ray_settings(arguments)
    like = None if arguments.like is None else PatchIndex.load(arguments.like)
    more = options.given(arguments, "shard_images", "keep_maps")
    more |= {"kind": "float16"} if options.given(arguments, "half") else {}
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
    """The encoder; where workers embed, this process needs it only to know what it is, and not on a GPU."""
    from patchify_core.encoders import load_encoder

    return load_encoder(spec, encoding if ray is None else replace(encoding, device="cpu"))


def ray_settings(arguments: argparse.Namespace) -> RaySettings | None:
    """What the options say about Ray; None where --ray is not among them.

    Raises:
        PatchifyError: if options that only Ray has are options.given without it.
    """
    from patchify_core.encoders import load_encoder
    from patchify_core.index.shards import RaySettings

    more = options.given(arguments, "workers", "cpus", "gpus")
    if arguments.ray is None:
        for name in more:
            raise PatchifyError(f"{options.flag(name)} says how Ray embeds: add --ray, or leave it out.")
        return None
    address = arguments.ray if arguments.ray != HERE else os.environ.get("RAY_ADDRESS") or None
    return RaySettings(address, load=load_encoder, **more)
