"""`embed`: pictures to a folder of shards, here or with Ray on many workers."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

from patchify_core.cli.shared import progress_bar, read_pictures, say_skipped
from patchify_core.encoders import Encoder, EncoderSettings, load_encoder
from patchify_core.errors import PatchifyError
from patchify_core.gallery import Gallery
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.shards import EmbedReport, EmbedSettings, RaySettings, embed_gallery
from patchify_core.regions import parse_regions

HERE = ""
"""`--ray` without an address: a Ray of our own on this machine."""


def run(arguments: argparse.Namespace) -> int:
    """Embeds a gallery into shards, or goes on where that was cut."""
    report, gallery = embed(arguments, Path(arguments.out))
    size = sum(path.stat().st_size for path in Path(arguments.out).iterdir())
    if arguments.json:
        numbers = asdict(report) | {"images_per_s": report.images_per_s, "bytes": size, "shards_folder": arguments.out}
        numbers["skipped"] = [{"file": name, "reason": reason} for name, reason in report.skipped]
        numbers["notes"] = gallery.notes
        print(json.dumps(numbers, indent=1))
    else:
        print(f"{arguments.out}: {told(report)}, {size / 1e6:.1f} MB")
    return say_skipped(report)


def told(report: EmbedReport) -> str:
    """What was embedded, in words."""
    speed = f"{report.images_per_s:.2f} pictures/s, {report.seconds:.1f} s" if report.embedded else "nothing to embed"
    lost = f"; {report.lost} lost workers, whose shards others did" if report.lost else ""
    return (
        f"{report.images} pictures in {report.shards} shards; {report.embedded} embedded, {report.reused} shards stood "
        f"there already{lost}; {speed}"
    )


def embed(arguments: argparse.Namespace, out: Path) -> tuple[EmbedReport, Gallery]:
    """Embeds as the options say, with a bar; returns what was done, and of what."""
    ray = ray_settings(arguments)
    like = None if getattr(arguments, "like", None) is None else PatchIndex.load(arguments.like)
    features = arguments.features if like is None else like.features
    kind = "float16" if getattr(arguments, "half", False) else "float32"
    settings = EmbedSettings(features, arguments.shard_images, kind, arguments.keep_maps)
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
    return load_encoder(spec, encoding if ray is None else replace(encoding, device="cpu"))


def ray_settings(arguments: argparse.Namespace) -> RaySettings | None:
    """What the options say about Ray; None where --ray is not among them.

    Raises:
        PatchifyError: if options that only Ray has are given without it.
    """
    if arguments.ray is None:
        for name in ("workers", "cpus", "gpus"):
            if getattr(arguments, name) is not None:
                raise PatchifyError(f"--{name} says how Ray embeds: add --ray, or leave it out.")
        return None
    cpus = 1 if arguments.cpus is None else arguments.cpus
    address = arguments.ray if arguments.ray != HERE else os.environ.get("RAY_ADDRESS") or None
    return RaySettings(address, arguments.workers, cpus, arguments.gpus or 0.0, load_encoder)
