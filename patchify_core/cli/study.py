"""`study`: experiments over datasets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from patchify_core.cli.options import GOING_ON, add_device_options, given
from patchify_core.cli.shared import check_writable, progress_bar, read_annotated
from patchify_core.errors import GalleryError, PatchifyError

if TYPE_CHECKING:
    from patchify_core.evaluation.study.run import Step
    from patchify_core.gallery import Gallery

HELP = "compare encoders, regions, compressions, re-rankers, features or boxes over datasets, or count several copies"

SEVERAL = "several"
"""The study that counts found copies (`evaluation.study.copies`) and compares nothing."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "what",
        choices=["encoders", "regions", "compression", "rerank", "features", "boxes", SEVERAL],
        help="what is compared; several: are all copies of an object in one picture found?",
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="folders of datasets")
    parser.add_argument("--format", choices=["auto", "coco", "instre", "ilias"], default="auto", help="their layout")
    parser.add_argument(
        "--work", required=True, metavar="FOLDER", help="keep exact descriptors here: each is embedded once"
    )
    parser.add_argument("--encoder", metavar="SPEC", help="where encoders are not compared")
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write all numbers to FILE as JSON; finished configurations are kept in FILE.partial meanwhile, so that "
        "the same command goes on after an interruption",
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="NAME",
        help="leave out what has this encoder, regions, factory (of --rescore too), codebook or re-ranker, e.g. "
        "aliked, which takes long; repeatable",
    )
    parser.add_argument("--chart", metavar="FILE.svg", help="draw accuracy against bytes per picture (compression)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="several: other pasted pictures (default 0)")
    add_device_options(parser)


def remains(arguments: argparse.Namespace) -> str:
    """What remains after an interruption."""
    if arguments.json:
        return GOING_ON
    return ": descriptors are kept in --work, scores are not (--json FILE keeps them)"


def say_step(step: Step) -> None:
    """Print which configuration comes now, above the bars, not into them."""
    from tqdm import tqdm

    chosen = step.configuration
    levels = f"level {', '.join(map(str, chosen.levels))}" if chosen.levels else ""
    more = filter(None, (levels, chosen.factory, chosen.codebook, chosen.rescore, chosen.rerank))
    tqdm.write(f"{step.dataset}: {chosen.encoder}, {chosen.regions}, {', '.join(more)}", file=sys.stderr)


def run(arguments: argparse.Namespace) -> int:
    """Compare configurations and print the tables as Markdown."""
    from patchify_core.encoders import load_encoder
    from patchify_core.evaluation.study.chart import draw_chart
    from patchify_core.evaluation.study.experiments import plan, tables
    from patchify_core.evaluation.study.run import Workbench, run_study

    several = arguments.what == SEVERAL
    if several and arguments.skip:
        raise PatchifyError("The study of several copies compares nothing: leave --skip out.")
    configurations = () if several else plan(arguments.what, skip=arguments.skip, **given(arguments, "encoder"))
    if arguments.chart and arguments.what != "compression":
        raise PatchifyError(f"--chart draws the compression study, not {arguments.what}: leave it out.")
    for file in (arguments.json, arguments.chart):
        if file:
            check_writable(Path(file))
    galleries = [read_annotated(Path(folder), arguments.format) for folder in arguments.datasets]
    names = [gallery.display_name for gallery in galleries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise GalleryError(
            f"Two of the datasets are called {twice}: rename one folder, or their rows could not be told apart."
        )
    if several:
        return count_copies(arguments, galleries)
    skipped = "".join(f" --skip {name}" for name in arguments.skip)
    command = f"python -m patchify_core study {arguments.what} {' '.join(names)}{skipped} --work FOLDER --json FILE"
    with progress_bar("study", " configurations") as progress, progress_bar("indexing", " pictures") as indexed:

        def show(step: Step) -> None:
            progress(step.done, step.total)
            say_step(step)

        numbers = run_study(
            arguments.what,
            configurations,
            galleries,
            Workbench(Path(arguments.work), load_encoder),
            Path(arguments.json) if arguments.json else None,
            show,
            indexed,
            command,
        )
        progress(len(configurations) * len(galleries), len(configurations) * len(galleries))
    print(tables(numbers))
    if arguments.chart:
        Path(arguments.chart).write_text(draw_chart(numbers), encoding="utf-8")
    return 0


def count_copies(arguments: argparse.Namespace, galleries: Sequence[Gallery]) -> int:
    """Print how often all copies are found and how often a second box is drawn on one, and write it as JSON."""
    from patchify_core.encoders import load_encoder
    from patchify_core.evaluation.record import write_json
    from patchify_core.evaluation.study.copies import as_json, as_table, locate_copies
    from patchify_core.evaluation.study.experiments import MAP_FACTORY, Configuration
    from patchify_core.evaluation.study.run import Workbench

    configuration = Configuration(**given(arguments, "encoder"), features="pooled:640", factory=MAP_FACTORY)
    workbench, found = Workbench(Path(arguments.work), load_encoder), {}
    for gallery in galleries:
        with progress_bar("indexing", " pictures") as indexed:
            engine = workbench.engine(gallery, configuration, indexed)
        with progress_bar(gallery.display_name, " queries") as progress:
            found[gallery.display_name] = locate_copies(gallery, engine, arguments.seed, progress)
        print(as_table(gallery.display_name, found[gallery.display_name]), end="\n\n", flush=True)
    if arguments.json:
        write_json(Path(arguments.json), {name: as_json(looked) for name, looked in found.items()})
    return 0
