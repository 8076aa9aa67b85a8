"""`calibrate`: learn how likely results are to contain the query's object, for the recipe of an index."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchify_core.cli.options import add_device_options
from patchify_core.cli.shared import progress_bar, read_annotated
from patchify_core.errors import IndexFolderError, PatchifyError

if TYPE_CHECKING:
    from patchify_core.gallery import Gallery
    from patchify_core.patchify import Patchify
    from patchify_core.retrieval.presence import Calibration

HELP = "learn from annotated datasets how likely a result contains the query's object, and when no result does"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "datasets",
        nargs="+",
        metavar="DATASET",
        help="folders of datasets with queries; pictures that are not in the index are indexed like it",
    )
    parser.add_argument(
        "--index",
        required=True,
        metavar="INDEX",
        help="index folder; the calibration is written beside it, as INDEX.calibration.json",
    )
    parser.add_argument("--queries-from", choices=["dataset", "boxes"], default="dataset", help="as in evaluate")
    parser.add_argument(
        "--work",
        metavar="FOLDER",
        help="store the indexes of other datasets here, so that each picture is embedded only once",
    )
    parser.add_argument("--json", action="store_true", help="print the calibration as JSON instead of tables")
    add_device_options(parser)


def interruption_note(arguments: argparse.Namespace) -> str:
    """Say what an interruption leaves behind."""
    kept = "embedded pictures are kept" if arguments.work else "nothing is kept (--work FOLDER keeps the indexes)"
    return f": {kept}, and the calibration of {arguments.index} is unchanged; run the same command again"


def run(arguments: argparse.Namespace) -> int:
    """Search with every query, learn a calibration, print its quality and write it beside the index."""
    from patchify_core.evaluation import presence
    from patchify_core.patchify import Patchify
    from patchify_core.retrieval.presence import RecipeName, calibration_path, write_calibration

    galleries = [read_annotated(Path(one), queries_from=arguments.queries_from) for one in arguments.datasets]
    engine = Patchify.open(arguments.index)
    parts, datasets = [], list(map(presence.about, galleries))
    with tempfile.TemporaryDirectory(prefix="patchify-") as temporary:
        work = Path(arguments.work or temporary)
        for number, (gallery, one) in enumerate(zip(galleries, datasets, strict=True)):
            searched = _engine_of(gallery, engine, work / f"{one['name']}-{one['digest'][:12]}")
            with progress_bar("searching", " queries") as progress:
                parts.append(presence.examples_of(gallery, searched, number, progress))
    learned = presence.learn(presence.joined(parts), RecipeName.of(engine.index), datasets)
    path = calibration_path(Path(arguments.index))
    write_calibration(learned, path)
    if arguments.json:
        print(json.dumps(learned.model_dump(mode="json"), indent=1))
        return 0
    print_rates(learned.learned.model_dump())
    print(f"absent below {learned.absent_below:.3f}, likely from {learned.likely_from:.3f}: written to {path}")
    return 0


def _engine_of(gallery: Gallery, engine: Patchify, folder: Path) -> Patchify:
    """Return `engine` if it is of the dataset's pictures, or else build an index with its recipe in `folder`."""
    from patchify_core.index.build import build_index
    from patchify_core.index.patch_index import PatchIndex
    from patchify_core.patchify import Patchify

    if {(one.id, one.file_name) for one in engine.index.images} == {(one.id, one.file_name) for one in gallery.images}:
        with suppress(IndexFolderError):  # other pictures of the same names
            engine.index.check_pictures(gallery.root)
            return engine
    if not isinstance(engine.index, PatchIndex):
        raise PatchifyError(
            f"The index does not contain exactly the pictures of {gallery.root}, and an index in Milvus cannot be a "
            "template for another: name a dataset of its pictures."
        )
    with progress_bar(f"indexing {gallery.root.name}", " pictures") as progress:
        build_index(gallery, folder, engine.encoder, progress=progress, like=engine.index)
    return Patchify.open(folder, engine.encoder)


def calibration_of(engine: Patchify, folder: Path) -> Calibration:
    """Return the calibration for the recipe of an index; refuse if there is none."""
    from patchify_core.retrieval.presence import find_calibration

    calibration = find_calibration(engine.index, folder)
    if calibration is None:
        raise PatchifyError(
            "There is no calibration for indexes with this recipe, so absent objects cannot be told: run the calibrate "
            "command on an index that is kept (--index), or leave --absent out."
        )
    return calibration


def print_rates(numbers: Mapping[str, Any]) -> None:
    """Print the rates that `evaluation.presence.learn` or `measure` returned."""
    for name, rates in (
        ("on objects that it was not learned from", numbers.get("held_out")),
        ("measured", numbers.get("measured")),
        *((f"{name}, learned from the other datasets", rates) for name, rates in numbers.get("transfer", {}).items()),
    ):
        if rates:
            absent, wrong = rates["absent_hits"], rates["absent_false_alarms"]
            print(f"{name}: predicted absent among {absent['queries']} queries (95 % intervals over objects)")
            print(f"  object removed   {_share(absent)}\n  object there     {_share(wrong)}   (false alarms)")
    print("false alarms  hits")
    for share, hits in numbers["curve"]:
        print(f"{share:>12.0%}  {hits:.3f}")
    for which, rows in numbers["reliability"].items():
        print(f"{which} results: probability, share that is right, number")
        for chance, right, count in rows:
            print(f"{chance:>12.3f}  {right:.3f}  {count:>6}")


def _share(rate: Mapping[str, float]) -> str:
    return f"{rate['share']:.3f} ({rate['low']:.3f} to {rate['high']:.3f})"
