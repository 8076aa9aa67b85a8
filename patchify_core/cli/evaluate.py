"""`evaluate`: score a whole dataset."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchify_core.cli import options
from patchify_core.cli.calibrate import calibration_of, print_rates
from patchify_core.cli.shared import build, check_writable, progress_bar, read_annotated
from patchify_core.errors import GalleryError, PatchifyError

if TYPE_CHECKING:
    from patchify_core.encoders import Encoder
    from patchify_core.evaluation.record import RunJournal
    from patchify_core.evaluation.run import LevelReport
    from patchify_core.gallery import Gallery
    from patchify_core.index.build import BuildReport
    from patchify_core.patchify import Patchify
    from patchify_core.retrieval.rerank import Reranker

HELP = "score a dataset: mAP, LocScore, recall@k for every level"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("dataset", metavar="DATASET", help="folder of a dataset")
    parser.add_argument(
        "--format",
        choices=["auto", "coco", "instre", "ilias", "revisited"],
        default="auto",
        help="layout of the dataset (default: detected from annotations.json, gnd_instre.mat, ilias_core, or "
        "gnd_roxford5k.pkl and gnd_rparis6k.pkl of the revisited Oxford and Paris)",
    )
    parser.add_argument(
        "--subset",
        default="all",
        metavar="NAME",
        help="queries of INSTRE: all (default), s1, s2, m; distractors of ILIAS: all (default), mini, core",
    )
    parser.add_argument(
        "--queries-from",
        choices=["dataset", "boxes"],
        default="dataset",
        help="boxes: use every annotated box as a query, excluding its own picture (default: the images whose split is "
        "query)",
    )
    parser.add_argument(
        "--query",
        choices=["box", "whole", "text"],
        default="box",
        help="type of query: the box of its object (default, as in the paper), its whole picture (as in ILIAS' "
        "published numbers), or the description of its object (ILIAS; with an open_clip encoder)",
    )
    parser.add_argument(
        "--resize",
        choices=["squash", "aspect"],
        help="how a box is resized for the encoder: squashed to a square (default), or with its aspect ratio preserved "
        "(as in ILIAS' published numbers; the same as --encoder aspect:NAME)",
    )
    parser.add_argument(
        "--index",
        metavar="INDEX",
        help="store the index here and reuse it with its recipe (default: a temporary one)",
    )
    parser.add_argument("--levels", metavar="N,N", help="score only these levels, e.g. 1,4 (default: all)")
    parser.add_argument("--cutoff", type=int, metavar="K", help="count only the first K ranks (AP@K, LocScore@K)")
    parser.add_argument(
        "--rerank",
        metavar="NAME",
        help="re-rank before scoring: qe, patch-qe, map, sift, xfeat, aliked, ames, elvis, or A+B",
    )
    options.add_rerank_options(parser)
    options.add_refine_options(parser)
    parser.add_argument("--shortlist", type=int, metavar="K", help="number of matches to re-rank (not for qe or map)")
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write the numbers to FILE as JSON; finished queries are stored in FILE.partial meanwhile, so that the "
        "same command resumes after an interruption",
    )
    parser.add_argument("--csv", metavar="FILE", help="write a row per query and level to FILE")
    parser.add_argument(
        "--similarities",
        metavar="FILE",
        help="write the rankings of the finest level to FILE (.json) in the format of ILIAS' own evaluate.py",
    )
    parser.add_argument(
        "--absent",
        action="store_true",
        help="also measure how well the index' calibration (calibrate) detects that an object is not in the gallery: "
        "every query is searched again with its positives removed",
    )
    options.add_descriptor_options(parser)
    options.add_codec_options(parser)
    options.add_device_options(parser)
    options.add_store_options(parser)


def interruption_note(arguments: argparse.Namespace) -> str:
    """Say what an interruption leaves behind."""
    if arguments.index and arguments.json:
        return options.resume_note(arguments)
    if arguments.index:
        return ": the index is kept, the finished queries are lost (--json keeps them); run the same command again"
    if arguments.json:
        return ": finished queries are kept, the index is lost (--index keeps it); run the same command again to go on"
    return ": nothing is kept (--index INDEX keeps the index, --json FILE the finished queries)"


def run(arguments: argparse.Namespace) -> int:
    """Score a dataset at every stage of its regions, print a table and write JSON and CSV."""
    from patchify_core.encoders import TextEncoder, load_encoder
    from patchify_core.evaluation import record
    from patchify_core.evaluation.presence import examples_of, measure
    from patchify_core.evaluation.published import IliasExport
    from patchify_core.evaluation.run import chosen_levels, evaluate
    from patchify_core.index.folder import check_same_collection
    from patchify_core.retrieval.rerank import LearnedRerank

    folder = Path(arguments.index) if arguments.index else None
    big = options.fill_from_index(arguments, folder)
    arguments.encoder = _resized(arguments.encoder, arguments.resize)
    levels = _checked(arguments)
    gallery = read_annotated(
        Path(arguments.dataset),
        arguments.format,
        arguments.subset,
        query=arguments.query,
        queries_from=arguments.queries_from,
    )
    if arguments.similarities and (gallery.benchmark is None or gallery.benchmark.name != "ilias"):
        raise GalleryError(f"--similarities is for ILIAS, and {gallery.root} is not read as ILIAS: leave it out.")
    if folder is not None:  # else a build would drop the pictures of another collection
        check_same_collection(folder, gallery, arguments.dataset)
    reranker = _reranker(arguments)
    encoder = load_encoder(arguments.encoder)
    for one in getattr(reranker, "parts", [reranker]):
        if isinstance(one, LearnedRerank):
            one.encoder_for(encoder)  # refuses before the index is built
    if arguments.query == "text" and not isinstance(encoder, TextEncoder):
        raise PatchifyError(f"{arguments.encoder} knows no words: use an open_clip encoder, or leave --query text out.")
    with tempfile.TemporaryDirectory(prefix="patchify-") as temporary:
        out = folder or Path(temporary) / "index"
        engine, built = _indexed(gallery, out, encoder, arguments, big)
        calibration = calibration_of(engine, out) if arguments.absent else None
        refiner = engine.refiner(arguments.refine) if arguments.refine else None
        levels = chosen_levels(levels, engine)
        settings = _settings(arguments, gallery, engine, out, levels, reranker)
        export = IliasExport(gallery, levels[-1]) if arguments.similarities else None
        with _journal(arguments.json, settings, levels, len(gallery.queries)) as journal:
            with progress_bar("searching", " queries") as progress:
                reports = evaluate(
                    gallery,
                    engine,
                    levels,
                    arguments.cutoff,
                    progress,
                    reranker=reranker,
                    refiner=refiner,
                    # Rankings are not in the journal, so to export them every query is searched again.
                    finished=journal.finished if journal and not export else None,
                    record=journal.add if journal else None,
                    ranked=export.add if export else None,
                )
            bytes_per_image = engine.index.bytes_per_image
            numbers = record.run_as_json(gallery, reports, settings, bytes_per_image, built.images_per_s)
            _print(arguments, gallery, reports, numbers["left_out"])
            speed = f"{built.images_per_s:.2f} pictures/s indexed" if built.embedded else "indexed before"
            print(f"{speed}, {bytes_per_image:.0f} bytes per picture")
            if calibration is not None:
                with progress_bar("without its object", " queries") as progress:
                    numbers["absent"] = measure(examples_of(gallery, engine, progress=progress), calibration)
                print_rates(numbers["absent"])
            if arguments.csv:
                record.write_csv(Path(arguments.csv), record.query_rows(gallery, reports, arguments.cutoff))
            if arguments.json:
                record.write_json(Path(arguments.json), numbers)
            if export:
                record.write_json(Path(arguments.similarities), export.similarities, indent=None)
            if journal:
                journal.remove()
    return 0


def _resized(encoder: str, resize: str | None) -> str:
    """Apply --resize to the name of the encoder."""
    if resize == "squash" and encoder.startswith("aspect:"):
        raise PatchifyError(f"{encoder} keeps the aspect ratio: leave --resize squash out, or choose another index.")
    return f"aspect:{encoder}" if resize == "aspect" and not encoder.startswith("aspect:") else encoder


def _indexed(
    gallery: Gallery, out: Path, encoder: Encoder, arguments: argparse.Namespace, big: bool
) -> tuple[Patchify, BuildReport]:
    """Open the index at `out`, which is built or updated first unless it is a big one.

    Raises:
        GalleryError: If a picture cannot be read.
        IndexFolderError: If a picture of a big index is missing or has changed in size.
    """
    from patchify_core.index.build import BuildReport
    from patchify_core.patchify import Patchify

    if big:
        engine = Patchify.open(out, encoder)
        engine.index.check_pictures(gallery.root)
        return engine, BuildReport(len(gallery.images), 0, len(gallery.images), (), 0.0)
    report = build(gallery, out, encoder, arguments)
    if report.skipped:
        names = "; ".join(f"{name}: {why.rstrip('.')}" for name, why in report.skipped[:3])
        number = "1 picture" if len(report.skipped) == 1 else f"{len(report.skipped)} pictures"
        raise GalleryError(f"{number} of {arguments.dataset} cannot be read ({names}): no score without them.")
    return Patchify.open(out, encoder), report


def _settings(
    arguments: argparse.Namespace,
    gallery: Gallery,
    engine: Patchify,
    folder: Path,
    levels: Sequence[int],
    reranker: Reranker | None,
) -> dict[str, Any]:
    """Return all that the numbers depend on, as JSON values: a journal of other settings is not resumed."""
    from patchify_core.evaluation.record import gallery_digest, index_digest
    from patchify_core.retrieval.rerank import LearnedRerank

    recipes = [one.recipe for one in getattr(reranker, "parts", [reranker]) if isinstance(one, LearnedRerank)]
    return {
        "dataset": gallery_digest(gallery),
        "index": index_digest(folder),
        "encoder": engine.encoder.info.spec,
        **{key: value for key, value in engine.index.meta().items() if key not in ("encoder", "images")},
        "levels": levels,
        "cutoff": arguments.cutoff,
        "rerank": reranker.name if reranker else None,
        "shortlist": reranker.shortlist if reranker else None,
        **({"rerank_recipe": recipes} if recipes else {}),
        "refine": arguments.refine,
        "query": arguments.query,
        "resize": "aspect" if arguments.encoder.startswith("aspect:") else "squash",
    }


def _checked(arguments: argparse.Namespace) -> list[int] | None:
    """Check the options before the work starts; return the levels of --levels."""
    from patchify_core.features.extract import CROP, checked_features

    if arguments.cutoff is not None and arguments.cutoff < 1:
        raise PatchifyError(f"--cutoff must be at least 1, not {arguments.cutoff}.")
    if arguments.shortlist is not None and arguments.shortlist < 1:
        raise PatchifyError(f"--shortlist must be at least 1, not {arguments.shortlist}.")
    if arguments.shortlist is not None and not arguments.rerank:
        raise PatchifyError("--shortlist is the number of matches to re-rank: name a re-ranker with --rerank.")
    on_maps = [f"--{how} map" for how in ("refine", "rerank") if "map" in (getattr(arguments, how) or "").split("+")]
    if on_maps and checked_features(arguments.features) == CROP:
        raise PatchifyError(
            f"{on_maps[0]} searches feature maps, and crops have none: add --features pooled --keep-maps, or use "
            "another method."
        )
    if arguments.similarities and not arguments.similarities.endswith(".json"):
        raise PatchifyError(f"ILIAS' evaluate.py reads only .json files: add .json to {arguments.similarities}.")
    named = {"JSON": arguments.json, "CSV": arguments.csv, "similarities": arguments.similarities}
    for (one, file), (other, same) in combinations(named.items(), 2):
        if file and same and os.path.realpath(file) == os.path.realpath(same):
            raise PatchifyError(f"{file} is named for {one} and for {other}: choose two files.")
    for name in named.values():
        if name:
            check_writable(Path(name))
    if arguments.levels is None:
        return None
    try:
        return [int(level) for level in arguments.levels.split(",")]
    except ValueError:
        raise PatchifyError(
            f"--levels takes numbers separated by commas, for example 1,4, not {arguments.levels!r}."
        ) from None


def _reranker(arguments: argparse.Namespace) -> Reranker | None:
    from patchify_core.retrieval.rerank import LEARNED, VERIFICATIONS, LearnedSettings, RerankSettings, load_reranker

    name, shortlist = arguments.rerank, arguments.shortlist
    settings = RerankSettings(learned=LearnedSettings(**options.learned_options(arguments)))
    if name is None:
        return None
    if shortlist is not None:
        if not any(part.strip() in (*VERIFICATIONS, *LEARNED) for part in name.split("+")):
            load_reranker(name)  # refuses an unknown name first
            raise PatchifyError(
                f"{name} re-ranks the whole ranking and has no shortlist: leave --shortlist out, or add "
                f"{' or '.join((*VERIFICATIONS, *LEARNED))} with a plus."
            )
        settings = replace(
            settings,
            verification=replace(settings.verification, shortlist=shortlist),
            learned=replace(settings.learned, shortlist=shortlist),
        )
    return load_reranker(name, settings)


@contextmanager
def _journal(
    file: str | None, settings: dict[str, Any], levels: Sequence[int], queries: int
) -> Iterator[RunJournal | None]:
    """Open the journal beside the JSON file, if there is one, and print what is resumed."""
    from patchify_core.evaluation.record import RunJournal, journal_beside

    path = journal_beside(Path(file)) if file else None
    if path is None:
        yield None
        return
    with RunJournal(path, settings, levels) as journal:
        if journal.changed:
            what = ", ".join(journal.changed)
            print(f"{journal.path} is of an evaluation with another {what}: starting anew.", file=sys.stderr)
        elif journal.finished:
            print(f"going on after {len(journal.finished)} of {queries} queries ({journal.path}).", file=sys.stderr)
        yield journal


def _print(
    arguments: argparse.Namespace, gallery: Gallery, reports: Sequence[LevelReport], left_out: list[int]
) -> None:
    from patchify_core.evaluation.run import AT_1K

    at = f"@{arguments.cutoff}" if arguments.cutoff else ""
    large = len(gallery.images) > AT_1K and arguments.cutoff != AT_1K  # else @1k is the same number again
    width = max(10, *(len(report.spec) for report in reports))
    scored = reports[0].report.queries
    how = f", re-ranked by {arguments.rerank}" if arguments.rerank else ""
    how += f", boxes refined by {arguments.refine}" if arguments.refine else ""
    print(f"{arguments.dataset}: {len(gallery.images)} pictures, {scored} queries, {arguments.encoder}{how}")
    seen = "the larger side resized, aspect kept" if arguments.encoder.startswith("aspect:") else "squashed to a square"
    if arguments.features != "crop":
        seen = "seen on one map per picture"
    kinds = {"box": "the box of their object", "whole": "whole pictures", "text": "descriptions"}
    print(f"queries: {kinds[arguments.query]}; boxes: {seen}")
    print(
        f"{'regions':<{width}} {'patches':>7} {'mAP' + at:>9} {'LocScore' + at:>13} {'mean IoU':>9} {'recall@1':>9}"
        f" {'ms/query':>9}"
        + (f" {'mAP@1k':>9} {'LocScore@1k':>13}" if large else "")
        + (f" {'ms/re-rank':>10}" if arguments.rerank else "")
    )
    for level in reports:
        report = level.report
        line = (
            f"{level.spec:<{width}} {level.patches:>7} {report.map:>9.3f} {_number(report.locscore):>13} "
            f"{_number(report.mean_iou):>9} {report.recall[1]:>9.3f} {level.ms_per_query:>9.1f}"
        )
        if large:
            line += f" {level.at_1k.map:>9.3f} {_number(level.at_1k.locscore):>13}"
        if level.ms_per_rerank is not None:
            line += f" {level.ms_per_rerank:>10.1f}"
        print(line)
    finest = reports[-1]
    for kind in ("size", "visibility"):
        parts = [part for part in finest.breakdown[kind] if part.name != "unknown" or len(finest.breakdown[kind]) > 1]
        if parts:
            print(f"{finest.spec} by {kind}:")
        for part in parts:
            print(
                f"  {part.name:>10} {part.positives:>7} positives, mAP{at} {part.report.map:.3f}, "
                f"LocScore{at} {_number(part.report.locscore)}"
            )
    if finest.published:
        print(f"{finest.spec} as the benchmark's own evaluation scores it:")
    for score in finest.published:
        of = "" if score.part == "all" else f", {score.part}"
        print(f"  {score.value:.4f}  {score.measure}{of} ({score.queries} queries)")
    if left_out:
        print(f"left out, without a positive: queries {', '.join(map(str, left_out))}")


def _number(value: float | None) -> str:
    return "no boxes" if value is None else f"{value:.3f}"
