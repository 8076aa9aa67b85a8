"""What each command does. Tables for people go to stdout, progress and warnings to stderr."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from patchify_core.boxes import parse_box
from patchify_core.build import BuildReport, BuildSettings, build_index
from patchify_core.draw import save, sheet
from patchify_core.encoders import Encoder, load_encoder
from patchify_core.errors import GalleryError, PatchifyError
from patchify_core.evaluation import as_json
from patchify_core.evaluation import evaluate as evaluate_gallery
from patchify_core.gallery import Gallery, read_coco, read_gallery
from patchify_core.regions import parse_regions
from patchify_core.retrieval import Patchify

SKIPPED_SHOWN = 20


@contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and time left on stderr, as a (done, total) callback."""
    from tqdm import tqdm

    with tqdm(desc=label, unit=unit, file=sys.stderr, dynamic_ncols=True, mininterval=0.3) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def index(arguments: argparse.Namespace) -> int:
    """Builds or updates an index folder."""
    regions = parse_regions(arguments.regions)
    gallery = read_gallery(arguments.gallery)
    report = _build(gallery, Path(arguments.out), load_encoder(arguments.encoder), arguments)
    size = sum(path.stat().st_size for path in Path(arguments.out).iterdir())
    if arguments.json:
        numbers = asdict(report) | {"images_per_s": report.images_per_s, "bytes": size, "index": arguments.out}
        numbers["skipped"] = [{"file": name, "reason": reason} for name, reason in report.skipped]
        print(json.dumps(numbers, indent=1))
        return _say_skipped(report)
    speed = f"{report.images_per_s:.2f} pictures/s, {report.seconds:.1f} s" if report.embedded else "nothing to embed"
    print(
        f"{arguments.out}: {report.images} pictures x {regions.patches_per_image} patches, {size / 1e6:.1f} MB; "
        f"{report.embedded} embedded, {report.reused} already known; {speed}"
    )
    return _say_skipped(report)


def search(arguments: argparse.Namespace) -> int:
    """Prints the best matches of one query: a picture or words."""
    if (arguments.picture is None) == (arguments.text is None):
        raise PatchifyError("Give either PICTURE or --text WORDS to search with: exactly one of the two.")
    box = None if arguments.box is None else parse_box(arguments.box)
    engine = Patchify.open(arguments.index)
    picture = None if arguments.picture is None else Path(arguments.picture)
    matches = engine.search(picture, box, arguments.top, arguments.level, text=arguments.text)
    root = engine.index.root or Path()
    # A result must be the picture that was indexed, or its box would lie on another one.
    engine.index.check_pictures(root, content=True, rows=[engine.index.row_of[match.image_id] for match in matches])
    if arguments.draw:
        save(sheet(matches, root), Path(arguments.draw))
    if arguments.json:
        rows = [
            {
                "rank": rank,
                "image_id": match.image_id,
                "file": str(root / match.file_name),
                "score": match.score,
                "box": match.box.tolist(),
                "patch": match.patch,
            }
            for rank, match in enumerate(matches, 1)
        ]
        print(json.dumps(rows, indent=1))
        return 0
    print(f"{'rank':>4}  {'score':>6}  {'box x1,y1,x2,y2':<22}  file")
    for rank, match in enumerate(matches, 1):
        corners = ",".join(f"{value:.0f}" for value in match.box)
        print(f"{rank:>4}  {match.score:6.3f}  {corners:<22}  {root / match.file_name}")
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Scores a dataset at every pyramid level, prints a table and writes JSON."""
    if arguments.cutoff is not None and arguments.cutoff < 1:
        raise PatchifyError(f"--cutoff counts ranks from 1, not {arguments.cutoff}.")
    if arguments.json:
        _check_writable(Path(arguments.json))
    dataset = Path(arguments.dataset)
    if dataset.is_dir() and not (dataset / "annotations.json").exists():
        raise GalleryError(
            f"{dataset} has no annotations.json, so there is nothing to score: see the README for its layout."
        )
    gallery = read_coco(dataset)
    encoder = load_encoder(arguments.encoder)
    with tempfile.TemporaryDirectory(prefix="patchify-") as temporary:
        out = Path(arguments.index) if arguments.index else Path(temporary) / "index"
        built = _build(gallery, out, encoder, arguments)
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


def bench(arguments: argparse.Namespace) -> int:
    """Runs one benchmark."""
    from patchify_core import bench as benchmarks

    if arguments.json:
        _check_writable(Path(arguments.json))
    start = time.perf_counter()
    numbers: dict[str, Any] = benchmarks.run(arguments.what)
    print(f"({time.perf_counter() - start:.0f} s)", file=sys.stderr)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return 0


def serve(arguments: argparse.Namespace) -> int:
    """Starts the demo page."""
    from patchify_core.web.launch import launch

    launch(arguments.host, arguments.port)
    return 0


def _build(gallery: Gallery, out: Path, encoder: Encoder, arguments: argparse.Namespace) -> BuildReport:
    settings = BuildSettings(factory=arguments.factory)
    with progress_bar("indexing", " pictures") as progress:
        return build_index(gallery, out, encoder, parse_regions(arguments.regions), settings, progress)


def _say_skipped(report: BuildReport) -> int:
    if not report.skipped:
        return 0
    print(f"{len(report.skipped)} files were skipped:", file=sys.stderr)
    for name, reason in report.skipped[:SKIPPED_SHOWN]:
        print(f"  {name}: {reason}", file=sys.stderr)
    if len(report.skipped) > SKIPPED_SHOWN:
        print(f"  and {len(report.skipped) - SKIPPED_SHOWN} more", file=sys.stderr)
    return 1


def _check_writable(path: Path) -> None:
    """Found out before the work, not after it."""
    try:
        existed = path.exists()
        with open(path, "a", encoding="utf-8"):
            pass
        if not existed:
            path.unlink()  # what is refused or interrupted later shall not leave an empty file behind
    except OSError as error:
        raise PatchifyError(f"{path} cannot be written ({error.strerror}): choose another file.") from error


def _number(value: float | None) -> str:
    return "no boxes" if value is None else f"{value:.3f}"
