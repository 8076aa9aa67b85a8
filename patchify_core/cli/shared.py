"""Work that several commands share: progress bars, reading galleries, building indexes, reports."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchify_core.cli.options import flag
from patchify_core.errors import GalleryError, PatchifyError
from patchify_core.imaging.filenames import printable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from patchify_core.encoders import Encoder
    from patchify_core.gallery import Gallery
    from patchify_core.index.build import BuildReport
    from patchify_core.index.milvus.build import Target
    from patchify_core.index.shards import EmbedReport

SKIPPED_SHOWN = 20

QUICK_S = 1.0
"""Delay before a progress bar appears for work that is usually quick."""


@contextmanager
def progress_bar(label: str, unit: str, delay: float = 0) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with rate and remaining time on stderr after `delay` seconds; yield a (done, total) callback.

    Log messages of the package appear above the bar.
    """
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    with (
        logging_redirect_tqdm([logging.getLogger("patchify_core")]),
        tqdm(desc=label, unit=unit, file=sys.stderr, dynamic_ncols=True, mininterval=0.3, delay=delay) as bar,
    ):

        def show(done: int, total: int) -> None:
            if done < bar.n:
                bar.reset()  # the next stage of the work
            bar.total = total
            bar.update(done - bar.n)

        yield show


def read_pictures(arguments: argparse.Namespace) -> Gallery:
    """Read the GALLERY of a command, check it against its annotations, and print notes on stderr."""
    from patchify_core.gallery import read_dataset, read_gallery

    if arguments.subset and not arguments.format:
        raise PatchifyError("--subset is a part of INSTRE or ILIAS: add --format, or leave it out.")
    if arguments.exclude and arguments.format:
        raise PatchifyError("A benchmark lists its pictures itself: leave --exclude or --format out.")
    with progress_bar("reading", " pictures", QUICK_S) as progress:
        if arguments.format:
            gallery = read_dataset(arguments.gallery, arguments.format, arguments.subset or "all", progress)
        else:
            gallery = read_gallery(arguments.gallery, arguments.exclude or (), check=True, progress=progress)
    print_notes(gallery)
    return gallery


def read_annotated(
    dataset: Path, layout: str = "auto", subset: str = "all", *, query: str = "box", queries_from: str = "dataset"
) -> Gallery:
    """Read a dataset for scoring, and print notes on stderr.

    Args:
        dataset: Its folder, or a COCO file.
        layout: See `read_dataset`.
        subset: See `read_dataset`.
        query: Type of query: the `box` of its object, its `whole` picture, or its `text`.
        queries_from: `boxes` makes every annotated box a query.

    Raises:
        GalleryError: If there is nothing to score.
    """
    from patchify_core.gallery import any_annotation_files, check_pictures, detect_layout, note_copies, read_dataset

    layout = detect_layout(dataset) if layout == "auto" else layout
    if layout == "folder" and dataset.is_dir():
        files = [str(path) for path in any_annotation_files(dataset)[:3]]
        raise GalleryError(
            f"{dataset} has no known layout, but it contains COCO files: name one of them ({', '.join(files)})."
            if files
            else f"{dataset} has no annotations.json, gnd_instre.mat or ilias_core, so there is nothing to score: "
            "export its annotations as COCO (patchify_core/gallery/BENCHMARKS.md)."
        )
    with progress_bar("reading", " pictures", QUICK_S) as progress:
        chosen = layout if layout in ("instre", "ilias", "revisited") else "coco"
        gallery = read_dataset(dataset, chosen, subset, progress, query == "text")
        if chosen == "coco":
            gallery = check_pictures(gallery, progress, all_needed=True, folder=dataset)
    if queries_from == "boxes":
        gallery = gallery.with_box_queries()
    if layout == "coco":
        gallery = note_copies(gallery)
    if query == "whole":
        gallery = gallery.with_whole_queries()
    print_notes(gallery)
    if not gallery.queries:
        raise GalleryError(
            f"No annotation of {dataset} can be a query: it takes a box of a pixel or more, not ignored (ignore, "
            "iscrowd)."
            if queries_from == "boxes"
            else f'{dataset} marks no image as a query: give some "split": "query", as in sample_db/annotations.json, '
            "or add --queries-from boxes, which makes every annotated box a query and excludes its own picture."
        )
    if not any(gallery.positives(one.instance, one.exclude) for one in gallery.queries):
        raise GalleryError(
            f"No query of {dataset} has a positive, another gallery picture annotated with the same category and not "
            "ignored (ignore, iscrowd), so there is nothing to score: check its annotations."
        )
    return gallery


def print_notes(gallery: Gallery) -> None:
    """Print notes on corrected or ignored annotations; they do not change the exit code."""
    for note in gallery.notes:
        print(f"note: {printable(note)}", file=sys.stderr)


def build(gallery: Gallery, out: Path, encoder: Encoder, arguments: argparse.Namespace) -> BuildReport:
    """Build or update an index as the options say, with a progress bar."""
    from patchify_core.index.build import BuildSettings, build_index
    from patchify_core.regions import parse_regions

    settings = BuildSettings(
        **{name: getattr(arguments, name) for name in ("factory", "codebook", "rescore", "features", "keep_maps")}
    )
    regions, target = parse_regions(arguments.regions), milvus_target(arguments)
    with progress_bar("indexing", " pictures") as progress:
        return build_index(gallery, out, encoder, regions, settings, progress, target=target)


def milvus_target(arguments: argparse.Namespace) -> Target | None:
    """Return the Milvus collection that the options name; None with `--store faiss`.

    Raises:
        PatchifyError: If the options contradict each other.
    """
    if arguments.store != "milvus":
        for name in ("uri", "collection", "milvus_index", "ca", "server_name"):
            if getattr(arguments, name) is not None:
                raise PatchifyError(f"{flag(name)} is an option of Milvus: add --store milvus, or leave it out.")
        return None
    from patchify_core.index.milvus.build import Target
    from patchify_core.index.milvus.connect import Address

    address = Address.of(arguments.uri, arguments.token, arguments.ca, arguments.server_name)
    return Target(address, arguments.collection, arguments.milvus_index)


def print_report(arguments: argparse.Namespace, report: DataclassInstance, text: str, **more: Any) -> int:
    """Print the text, or with --json the report's fields and `more` as JSON; return the exit code."""
    if arguments.json:
        numbers = asdict(report) | more
        if "skipped" in numbers:
            numbers["skipped"] = [{"file": name, "reason": reason} for name, reason in numbers["skipped"]]
        text = json.dumps(numbers, indent=1)
    print(text)
    return 0


def format_speed(report: BuildReport | EmbedReport) -> str:
    """Describe how fast pictures were embedded."""
    if not report.embedded:
        return "nothing to embed"
    return f"{report.images_per_s:.2f} pictures/s, {report.seconds:.1f} s"


def folder_bytes(folder: str) -> int:
    """Return the bytes of the files in a folder."""
    return sum(path.stat().st_size for path in Path(folder).iterdir())


def print_skipped(report: BuildReport | EmbedReport) -> int:
    """Print the skipped pictures on stderr; return the exit code."""
    if not report.skipped:
        return 0
    were = "file was" if len(report.skipped) == 1 else "files were"
    print(f"{len(report.skipped)} {were} skipped:", file=sys.stderr)
    for name, reason in report.skipped[:SKIPPED_SHOWN]:
        print(f"  {printable(name)}: {printable(reason)}", file=sys.stderr)
    if len(report.skipped) > SKIPPED_SHOWN:
        print(f"  and {len(report.skipped) - SKIPPED_SHOWN} more", file=sys.stderr)
    return 1


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before the work starts."""
    try:
        existed = path.exists()
        with open(path, "a", encoding="utf-8"):
            pass
        if not existed:
            path.unlink()  # leave no empty file behind if the command fails later
    except OSError as error:
        raise PatchifyError(f"{path} cannot be written ({error.strerror}): choose another file.") from error
