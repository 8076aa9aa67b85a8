"""What several commands share: progress on stderr, building an index from the options, files that will be written."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from patchify_core.build import BuildReport, BuildSettings, build_index
from patchify_core.encoders import Encoder
from patchify_core.errors import PatchifyError
from patchify_core.gallery import Gallery
from patchify_core.index import PatchIndex
from patchify_core.regions import parse_regions

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


def build(gallery: Gallery, out: Path, encoder: Encoder, arguments: argparse.Namespace) -> BuildReport:
    """Builds or updates an index as the options say, with a bar."""
    settings = BuildSettings(
        arguments.factory,
        arguments.codebook,
        arguments.rescore,
        features=arguments.features,
        keep_maps=arguments.keep_maps,
    )
    with progress_bar("indexing", " pictures") as progress:
        return build_index(gallery, out, encoder, parse_regions(arguments.regions), settings, progress)


def build_like(gallery: Gallery, out: Path, like: PatchIndex, encoder: Encoder) -> BuildReport:
    """Builds or updates an index made just like another one, with a bar."""
    with progress_bar("indexing", " pictures") as progress:
        return build_index(gallery, out, encoder, progress=progress, like=like)


def say_skipped(report: BuildReport) -> int:
    """Lists the pictures that were left out; returns the exit code."""
    if not report.skipped:
        return 0
    print(f"{len(report.skipped)} files were skipped:", file=sys.stderr)
    for name, reason in report.skipped[:SKIPPED_SHOWN]:
        print(f"  {name}: {reason}", file=sys.stderr)
    if len(report.skipped) > SKIPPED_SHOWN:
        print(f"  and {len(report.skipped) - SKIPPED_SHOWN} more", file=sys.stderr)
    return 1


def check_writable(path: Path) -> None:
    """Found out before the work, not after it."""
    try:
        existed = path.exists()
        with open(path, "a", encoding="utf-8"):
            pass
        if not existed:
            path.unlink()  # what is refused or interrupted later shall not leave an empty file behind
    except OSError as error:
        raise PatchifyError(f"{path} cannot be written ({error.strerror}): choose another file.") from error
