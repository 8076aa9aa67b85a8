"""`study`: experiments over datasets."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from patchify_core.cli.shared import check_writable, progress_bar
from patchify_core.encoders import load_encoder
from patchify_core.errors import GalleryError, PatchifyError
from patchify_core.evaluation.study.chart import draw_chart
from patchify_core.evaluation.study.plans import plan
from patchify_core.evaluation.study.report import tables
from patchify_core.evaluation.study.run import Step, run_study
from patchify_core.evaluation.study.workbench import Workbench
from patchify_core.gallery import read_dataset


def run(arguments: argparse.Namespace) -> int:
    """Compares configurations and prints the tables as Markdown."""
    from tqdm import tqdm

    configurations = plan(arguments.what, arguments.encoder, arguments.skip)
    if arguments.chart and arguments.what != "compression":
        raise PatchifyError(f"--chart draws the compression study, not {arguments.what}: leave it out.")
    for file in (arguments.json, arguments.chart):
        if file:
            check_writable(Path(file))
    galleries = [read_dataset(folder, arguments.format) for folder in arguments.datasets]
    for gallery in galleries:
        if not gallery.queries:
            raise GalleryError(f"{gallery.root} has no queries, so there is nothing to score: a study needs a dataset.")
    names = [gallery.root.resolve().name for gallery in galleries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise GalleryError(
            f"Two of the datasets are called {twice}: rename one folder, or their rows could not be told apart."
        )
    skipped = "".join(f" --skip {name}" for name in arguments.skip)
    command = f"python -m patchify_core study {arguments.what} {' '.join(names)}{skipped} --work FOLDER --json FILE"
    with progress_bar("study", " configurations") as progress, progress_bar("indexing", " pictures") as indexed:

        def tell(step: Step) -> None:
            progress(step.done, step.total)
            made = step.configuration
            more = [made.factory, made.codebook] + [part for part in (made.rescore, made.rerank) if part]
            # Above the bars, not into them.
            tqdm.write(f"{step.dataset}: {made.encoder}, {made.regions}, {', '.join(more)}", file=sys.stderr)

        numbers = run_study(
            arguments.what,
            configurations,
            galleries,
            Workbench(Path(arguments.work), load_encoder),
            Path(arguments.json) if arguments.json else None,
            tell,
            indexed,
            command,
        )
        progress(len(configurations) * len(galleries), len(configurations) * len(galleries))
    print(tables(numbers))
    if arguments.chart:
        Path(arguments.chart).write_text(draw_chart(numbers), encoding="utf-8")
    return 0
