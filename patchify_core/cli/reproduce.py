"""`reproduce paper`: run the paper's experiments on the benchmarks, and compare with its numbers."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchify_core.cli.options import add_device_options, resume_note
from patchify_core.cli.shared import QUICK_S, print_notes, progress_bar
from patchify_core.cli.study import study_bars

if TYPE_CHECKING:
    from patchify_core.evaluation.study.experiments import Configuration
    from patchify_core.evaluation.study.needs import EncoderCost, Needs
    from patchify_core.evaluation.study.run import Workbench
    from patchify_core.gallery import Gallery

HELP = "run the paper's experiments on the benchmarks, and show the paper's numbers beside ours"

SETS = ("instre", "ilias-core", "ilias-mini", "ilias", "roxford5k", "rparis6k")
PARTS = ("levels", "regions", "compression", "rerank")

CELLS, INDEXES, TABLES, ROWS = "cells.jsonl", "indexes", "paper.md", "paper.csv"
"""Files in the folder of `--out`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("what", choices=["paper"], help="what to reproduce")
    parser.add_argument(
        "--data",
        default="benchmarks",
        metavar="FOLDER",
        help="folder that contains instre/, ilias/, ... (default: benchmarks)",
    )
    parser.add_argument(
        "--out",
        default="reproduced",
        metavar="FOLDER",
        help=f"folder of {TABLES}, {ROWS}, the finished cells, from which the same command resumes, and exact "
        "descriptors (default: reproduced)",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[*SETS, *PARTS],
        default=[],
        metavar="NAME",
        help=f"only these sets ({', '.join(SETS)}; default: the first two) or parts of the matrix ({', '.join(PARTS)}; "
        "default: all); repeatable",
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="NAME",
        help="skip an encoder, regions, a codec, a codebook or a re-ranker; repeatable",
    )
    parser.add_argument(
        "--encoder",
        action="append",
        metavar="SPEC",
        help="these encoders instead of DINOv2, CLIP and SigLIP of timm and CLIP of open_clip, ViT-B each; repeatable",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print downloads, time, memory and disk space that it would take, and start nothing",
    )
    add_device_options(parser)


interruption_note = resume_note


def run(arguments: argparse.Namespace) -> int:
    """Print an estimate, run the cells that are not finished, write the tables and print them as Markdown."""
    from patchify_core import files
    from patchify_core.encoders import load_encoder
    from patchify_core.evaluation.record import write_csv
    from patchify_core.evaluation.study import paper
    from patchify_core.evaluation.study.run import Workbench, run_study

    data, out = Path(arguments.data), Path(arguments.out)
    names = [name for name in SETS if name in arguments.only] or list(paper.PAPER)
    parts = [part for part in PARTS if part in arguments.only] or PARTS
    encoders = tuple(dict.fromkeys(arguments.encoder or paper.ENCODERS))
    configurations = paper.paper_cells(encoders, parts, arguments.skip)
    if not arguments.dry_run:
        paper.check_sets(data, names)
    galleries = {name: _read(data, name) for name in names if paper.SETS[name].is_in(data)}
    workbench = Workbench(out / INDEXES, load_encoder)
    needs, costs = _needs(names, galleries, configurations, workbench, out / CELLS)
    estimate = _describe(data, out, names, galleries, needs, costs)
    print(estimate, file=sys.stdout if arguments.dry_run else sys.stderr)
    if arguments.dry_run:
        return 0
    # Download and check all encoders now, rather than fail after hours.
    used = dict.fromkeys(one.encoder for one in configurations)
    weights = {spec: load_encoder(spec).info.weights_sha256 for spec in used}
    out.mkdir(parents=True, exist_ok=True)

    def write(numbers: dict[str, Any]) -> None:
        text = paper.paper_tables(numbers)
        with files.atomic(out / TABLES) as file:
            file.write(f"{text}\n".encode())
        write_csv(out / ROWS, paper.csv_rows(numbers), paper.COLUMNS)

    with study_bars("paper", " cells", needs.cells) as (report, indexed):
        numbers = run_study(
            "paper",
            configurations,
            list(galleries.values()),
            workbench,
            report=report,
            progress=indexed,
            cells=out / CELLS,
            weights=weights,
            finished=write,
        )
    write(numbers)
    print(paper.paper_tables(numbers))
    return 0


def _read(data: Path, name: str) -> Gallery:
    """Read one of the sets, and name it."""
    from patchify_core.evaluation.study.paper import SETS
    from patchify_core.gallery import read_dataset

    chosen = SETS[name]
    with progress_bar(f"reading {name}", " pictures", QUICK_S) as progress:
        gallery = read_dataset(data / chosen.folder, chosen.format, chosen.subset, progress)
    print_notes(gallery)
    return replace(gallery, title=name)


def _needs(
    names: Sequence[str],
    galleries: dict[str, Gallery],
    configurations: Sequence[Configuration],
    workbench: Workbench,
    cells: Path,
) -> tuple[Needs, dict[str, EncoderCost]]:
    """Estimate the unfinished cells; measure only their encoders, and write nothing."""
    from patchify_core.encoders import load_encoder
    from patchify_core.evaluation.record import gallery_digest
    from patchify_core.evaluation.study.needs import measure_encoder, needs_of
    from patchify_core.evaluation.study.paper import SETS
    from patchify_core.evaluation.study.run import cell_key, finished_cells
    from patchify_core.files import read_json, sha256_of_json

    lines = cells.read_bytes().split(b"\n") if cells.is_file() else []
    known = {
        sha256_of_json({name: value for name, value in entry["key"].items() if name != "weights"})
        for entry in finished_cells(map(read_json, lines)).values()
    }
    digests = {name: gallery_digest(gallery) for name, gallery in galleries.items()}

    def is_finished(name: str, one: Configuration) -> bool:
        return name in digests and sha256_of_json(cell_key(name, digests[name], one)) in known

    sizes = {name: (SETS[name].pictures, SETS[name].queries) for name in names}
    sizes |= {name: (len(gallery.images), len(gallery.queries)) for name, gallery in galleries.items()}
    left = [one.encoder for one in configurations if not all(is_finished(name, one) for name in names)]
    costs = {spec: measure_encoder(spec, load_encoder) for spec in dict.fromkeys(left)}
    return needs_of(sizes, configurations, costs, workbench, is_finished), costs


def _describe(
    data: Path,
    out: Path,
    names: Sequence[str],
    galleries: dict[str, Gallery],
    needs: Needs,
    costs: dict[str, EncoderCost],
) -> str:
    """Describe the estimate in words."""
    from patchify_core.evaluation.study.paper import SETS

    lines = [f"{needs.cells} cells, {needs.finished} of them finished"]
    for name in names:
        gallery = galleries.get(name)
        if gallery is None:
            chosen = SETS[name]
            there = f"not in {data / chosen.folder}: get it from {chosen.source}"
            lines.append(f"{name}: {chosen.pictures:,} pictures, {chosen.queries:,} queries as published; {there}")
        else:
            lines.append(f"{name}: {len(gallery.images):,} pictures, {len(gallery.queries):,} queries")
    for spec, cost in costs.items():
        weights = "at hand" if cost.here else f"to download, about {_size(cost.weights_bytes)}"
        lines.append(
            f"{spec}: weights {weights}; {cost.patches_per_s:.3g} patches/s on {cost.device}, "
            f"{_size(cost.memory_bytes)} of its memory"
        )
    total = needs.embed_s + needs.search_s + needs.rerank_s
    lines.append(
        f"time: about {_span(total)} ({needs.patches:,} patches to describe {_span(needs.embed_s)}, searches "
        f"{_span(needs.search_s)}, re-ranking {_span(needs.rerank_s)})"
    )
    disk = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(disk).free
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    lines.append(f"disk: {_size(needs.disk_bytes)} in {out}, of {_size(free)} free{_short(needs.disk_bytes, free)}")
    of_ram = f", of {_size(ram)}{_short(needs.memory_bytes, ram)}" if ram else ""
    lines.append(f"memory: {_size(needs.memory_bytes)}{of_ram}; on the GPU: {_size(needs.gpu_bytes)}")
    lines.append("Encoders and searches were measured just now on random pictures; reading pictures comes on top.")
    return "\n".join(lines)


def _short(needed: int, there: int) -> str:
    return " - NOT ENOUGH" if needed > there else ""


def _size(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _span(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.2g} s"
