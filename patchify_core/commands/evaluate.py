"""`evaluate`: the scores of a whole dataset."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from patchify_core.commands.shared import build, check_writable, progress_bar
from patchify_core.encoders import load_encoder
from patchify_core.errors import GalleryError, PatchifyError
from patchify_core.evaluation import as_json
from patchify_core.evaluation import evaluate as evaluate_gallery
from patchify_core.gallery import read_coco
from patchify_core.regions import parse_regions
from patchify_core.retrieval import Patchify


def run(arguments: argparse.Namespace) -> int:
    """Scores a dataset at every pyramid level, prints a table and writes JSON."""
    if arguments.cutoff is not None and arguments.cutoff < 1:
        raise PatchifyError(f"--cutoff counts ranks from 1, not {arguments.cutoff}.")
    if arguments.json:
        check_writable(Path(arguments.json))
    dataset = Path(arguments.dataset)
    if dataset.is_dir() and not (dataset / "annotations.json").exists():
        raise GalleryError(
            f"{dataset} has no annotations.json, so there is nothing to score: see the README for its layout."
        )
    gallery = read_coco(dataset)
    encoder = load_encoder(arguments.encoder)
    with tempfile.TemporaryDirectory(prefix="patchify-") as temporary:
        out = Path(arguments.index) if arguments.index else Path(temporary) / "index"
        built = build(gallery, out, encoder, arguments)
        if built.skipped:
            names = ", ".join(name for name, _ in built.skipped[:3])
            raise GalleryError(
                f"{len(built.skipped)} pictures of {dataset} cannot be read ({names}): no score without them."
            )
        engine = Patchify.open(out, encoder)
        with progress_bar("searching", " queries") as progress:
            reports = evaluate_gallery(gallery, engine, cutoff=arguments.cutoff, progress=progress)
        numbers = as_json(reports, engine.index.bytes_per_image, built.images_per_s)
    at = f"@{arguments.cutoff}" if arguments.cutoff else ""
    print(f"{dataset}: {len(gallery.images)} pictures, {numbers['queries']} queries, {arguments.encoder}")
    print(
        f"{'regions':<10} {'patches':>7} {'mAP' + at:>9} {'LocScore' + at:>13} {'mean IoU':>9} {'recall@1':>9}"
        f" {'ms/query':>9}"
    )
    for level in reports:
        report, patches = level.report, parse_regions(f"pyramid:{level.level}").patches_per_image
        print(
            f"pyramid:{level.level:<2} {patches:>7} {report.map:>9.3f} {_number(report.locscore):>13} "
            f"{_number(report.mean_iou):>9} {report.recall[1]:>9.3f} {level.ms_per_query:>9.1f}"
        )
    if numbers["left_out"]:
        print(f"left out, without a positive: queries {', '.join(map(str, numbers['left_out']))}")
    speed = f"{built.images_per_s:.2f} pictures/s indexed" if built.embedded else "indexed before"
    print(f"{speed}, {engine.index.bytes_per_image:.0f} bytes a picture")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return 0


def _number(value: float | None) -> str:
    return "no boxes" if value is None else f"{value:.3f}"
