"""`study`: run experiments over datasets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from patchify_core.cli.options import add_device_options, resume_note, specified
from patchify_core.cli.shared import check_writable, progress_bar, read_annotated
from patchify_core.errors import GalleryError, PatchifyError

if TYPE_CHECKING:
    from patchify_core.evaluation.study.run import Step
    from patchify_core.gallery import Gallery

HELP = "compare encoders, regions, compressions, re-rankers, features or boxes over datasets, or count several copies"

SEVERAL = "several"
"""The study of several copies (`evaluation.study.copies`), which compares no configurations."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "what",
        choices=["encoders", "regions", "compression", "rerank", "features", "boxes", SEVERAL],
        help="what to compare; several: are all copies of an object in one picture found?",
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="folders of datasets")
    parser.add_argument("--format", choices=["auto", "coco", "instre", "ilias"], default="auto", help="their layout")
    parser.add_argument(
        "--work",
        required=True,
        metavar="FOLDER",
        help="store exact descriptors here, so that each picture is embedded only once",
    )
    parser.add_argument("--encoder", metavar="SPEC", help="encoder, if encoders are not compared")
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write all numbers to FILE as JSON; finished configurations are stored in FILE.partial meanwhile, so that "
        "the same command resumes after an interruption",
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="NAME",
        help="skip configurations with this encoder, regions, factory (also of --rescore), codebook or re-ranker, e.g. "
        "aliked, which is slow; repeatable",
    )
    parser.add_argument("--chart", metavar="FILE.svg", help="draw accuracy against bytes per picture (compression)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="several: seed of the pasted scenes (default 0)"
    )
    add_device_options(parser)


def interruption_note(arguments: argparse.Namespace) -> str:
    """Say what an interruption leaves behind."""
    if arguments.json:
        return resume_note(arguments)
    return ": descriptors are kept in --work, scores are not (--json FILE keeps them)"


@contextmanager
def study_bars(
    label: str, unit: str, total: int
) -> Iterator[tuple[Callable[[Step], None], Callable[[int, int], None]]]:
    """Show the progress of `run_study`; yield its callbacks `report` and `progress`.

    Args:
        label: Label of the bar of configurations.
        unit: Its unit.
        total: Number of configurations of all datasets.
    """
    from tqdm import tqdm

    with progress_bar(label, unit) as progress, progress_bar("indexing", " pictures") as indexed:

        def report(step: Step) -> None:
            progress(step.done, step.total)
            chosen = step.configuration
            levels = f"level {', '.join(map(str, chosen.levels))}" if chosen.levels else ""
            more = filter(None, (levels, chosen.factory, chosen.codebook, chosen.rescore, chosen.rerank))
            tqdm.write(f"{step.dataset}: {chosen.encoder}, {chosen.regions}, {', '.join(more)}", file=sys.stderr)

        yield report, indexed
        progress(total, total)


def run(arguments: argparse.Namespace) -> int:
    """Compare configurations and print the tables as Markdown."""
    from patchify_core.encoders import load_encoder
    from patchify_core.evaluation.study.chart import draw_chart
    from patchify_core.evaluation.study.experiments import plan, tables
    from patchify_core.evaluation.study.run import Workbench, run_study

    several = arguments.what == SEVERAL
    if several and arguments.skip:
        raise PatchifyError("The study of several copies compares nothing: leave --skip out.")
    configurations = () if several else plan(arguments.what, skip=arguments.skip, **specified(arguments, "encoder"))
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
    with study_bars("study", " configurations", len(configurations) * len(galleries)) as (report, indexed):
        numbers = run_study(
            arguments.what,
            configurations,
            galleries,
            Workbench(Path(arguments.work), load_encoder),
            Path(arguments.json) if arguments.json else None,
            report,
            indexed,
            command,
        )
    print(tables(numbers))
    if arguments.chart:
        Path(arguments.chart).write_text(draw_chart(numbers), encoding="utf-8")
    return 0


def count_copies(arguments: argparse.Namespace, galleries: Sequence[Gallery]) -> int:
    """Print how often all copies are found and a second box is drawn on one copy, and write it as JSON."""
    from patchify_core.encoders import load_encoder
    from patchify_core.evaluation.record import write_json
    from patchify_core.evaluation.study.copies import as_json, as_table, locate_copies
    from patchify_core.evaluation.study.experiments import MAP_FACTORY, Configuration
    from patchify_core.evaluation.study.run import Workbench

    configuration = Configuration(**specified(arguments, "encoder"), features="pooled:640", factory=MAP_FACTORY)
    workbench, results = Workbench(Path(arguments.work), load_encoder), {}
    for gallery in galleries:
        with progress_bar("indexing", " pictures") as indexed:
            engine = workbench.engine(gallery, configuration, indexed)
        with progress_bar(gallery.display_name, " queries") as progress:
            results[gallery.display_name] = locate_copies(gallery, engine, arguments.seed, progress)
        print(as_table(gallery.display_name, results[gallery.display_name]), end="\n\n", flush=True)
    if arguments.json:
        write_json(Path(arguments.json), {name: as_json(some) for name, some in results.items()})
    return 0
