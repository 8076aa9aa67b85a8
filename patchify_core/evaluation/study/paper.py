"""`reproduce paper`: the paper's experiments as cells, and tables with the paper's numbers beside ours.

A cell is one `Configuration` on one set. The available sources of the paper name the families of its encoders, but
neither their sizes nor its codecs: the sizes, `PRODUCT_CODES` and `RERANKERS` are our choice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from patchify_core.errors import GalleryError
from patchify_core.evaluation.published import ILIAS_RANKS
from patchify_core.evaluation.study.experiments import (
    CODEBOOKS,
    Configuration,
    Mean,
    Row,
    means,
    refusal_note,
    table,
    without,
)
from patchify_core.gallery import detect_layout
from patchify_core.regions import parse_regions

ENCODERS = (
    "timm:vit_base_patch14_dinov2.lvd142m",
    "timm:vit_base_patch16_clip_224.openai",
    "timm:vit_base_patch16_siglip_224.webli",
    "open_clip:ViT-B-16/laion2b_s34b_b88k",
)
REGIONS = ("pyramid:4", "pyramid:1+sliding:0.6,0+sliding:0.4,0.6", "random:30,0", "salient:30", "pyramid:3+salient:16")
"""Region strategies with 30 patches per picture."""

PRODUCT_CODES = ("PQ64", "PQ32", "PQ16")
RERANKERS = ("qe", "patch-qe", "sift", "xfeat")
PARTS = ("levels", "regions", "compression", "rerank")


@dataclass(frozen=True)
class PaperSet:
    """A benchmark as the paper or its publishers use it.

    Attributes:
        folder: Its folder within the folder of all benchmarks.
        format: Its layout, see `read_dataset`.
        subset: Its subset, see `read_dataset`.
        pictures: Number of gallery pictures.
        queries: Number of queries.
        source: Where to download it.
    """

    folder: str
    format: str
    subset: str
    pictures: int
    queries: int
    source: str

    def is_in(self, data: Path) -> bool:
        """Return whether it is in a folder of benchmarks."""
        return (data / self.folder).is_dir() and detect_layout(data / self.folder) == self.format


_INSTRE = "http://123.57.42.89/instre/home.html"
_ILIAS = "https://github.com/ilias-vrg/ilias"
_REVISITED = "https://github.com/filipradenovic/revisitop"
SETS = {
    "instre": PaperSet("instre", "instre", "all", 27_293, 1250, _INSTRE),
    "ilias-core": PaperSet("ilias", "ilias", "core", 4715, 1232, _ILIAS),
    "ilias-mini": PaperSet("ilias", "ilias", "mini", 5_004_715, 1232, _ILIAS),
    "ilias": PaperSet("ilias", "ilias", "all", 100_004_715, 1232, _ILIAS),
    "roxford5k": PaperSet("roxford5k", "revisited", "all", 4993, 70, _REVISITED),
    "rparis6k": PaperSet("rparis6k", "revisited", "all", 6322, 70, _REVISITED),
}
PAPER = ("instre", "ilias-core")
"""The sets for which numbers of the paper are known; the others run only if they are named."""

SECOND_HAND = {
    ("instre", "DINOv2"): (57.70, 72.54),
    ("instre", "CLIP"): (73.84, 87.57),
    ("ilias-core", "DINOv2"): (40.56, 57.52),
    ("ilias-core", "CLIP"): (31.60, 53.35),
}
"""The paper's mAP in percent, of whole pictures and of patches, from a public note that cites the paper."""

COLUMNS = (
    *("dataset", "encoder", "indexed", "regions", "level", "patches", "factory", "codebook", "bytes_per_patch"),
    *("rerank", "map", "benchmark_map", "paper_map_second_hand", "locscore", "mean_iou", "recall@1", "recall@5"),
    *("recall@10", "ms_per_query", "ms_per_rerank"),
)


def paper_cells(
    encoders: Sequence[str] = ENCODERS, parts: Collection[str] = PARTS, skip: Collection[str] = ()
) -> tuple[Configuration, ...]:
    """Return the cells of one set, grouped by their descriptors.

    Args:
        encoders: Specs.
        parts: Some of `PARTS`.
        skip: See `plans.plan`.

    Raises:
        PatchifyError: If nothing has a name in `skip`, or nothing is left.
    """
    cells = [cell for encoder in encoders for cell in _of_encoder(encoder, parts)]
    return without(tuple(dict.fromkeys(cells)), skip, "paper's matrix")


def _of_encoder(encoder: str, parts: Collection[str]) -> list[Configuration]:
    last = (4,)
    cells = [Configuration(encoder, levels=(level,)) for level in (1, 2, 3, 4)] if "levels" in parts else []
    if "compression" in parts:
        cells += [Configuration(encoder, levels=last)]
        cells += [
            Configuration(encoder, levels=last, factory=factory, codebook=codebook)
            for factory in PRODUCT_CODES
            for codebook in CODEBOOKS
        ]
    if "rerank" in parts:
        cells += [Configuration(encoder, levels=(at,), rerank=name) for at in (1, 4) for name in (None, *RERANKERS)]
    if "regions" in parts:
        cells += [Configuration(encoder, spec, (len(parse_regions(spec).stages),)) for spec in REGIONS]
    return cells


def check_sets(data: Path, names: Sequence[str]) -> None:
    """Check that all sets are in a folder of benchmarks.

    Raises:
        GalleryError: If one is missing; the sentence says where to get it.
    """
    absent = [name for name in names if not SETS[name].is_in(data)]
    if absent:
        folders = " and ".join(dict.fromkeys(repr(str(data / SETS[name].folder)) for name in absent))
        sources = " and ".join(dict.fromkeys(SETS[name].source for name in absent))
        raise GalleryError(
            f"There is no {' and no '.join(absent)} in {folders}: get it from {sources} "
            "(patchify_core/gallery/BENCHMARKS.md says how to lay it out), or name another folder with --data."
        )


# Tables ----------------------------------------------------------------------------------------------------


def benchmark_map(row: Row) -> float:
    """Return the mAP as defined by the benchmark's own evaluation: for ILIAS over the first 1000 ranks."""
    of_ilias = [score["value"] for score in row.get("published", ()) if score["measure"] == f"mAP@{ILIAS_RANKS}"]
    return float(of_ilias[0] if of_ilias else row["map"])


def second_hand(row: Row) -> float | None:
    """Return the paper's mAP in percent for an encoder of the same family, on whole pictures or patches, if known."""
    name = row["encoder"].partition("@")[0].lower()
    family = "DINOv2" if "dinov2" in name else "CLIP" if "clip" in name and "openai" in name else ""
    known = SECOND_HAND.get((row["dataset"], family))
    plain = row["indexed"] == "pyramid:4" and row["factory"] == "Flat" and row["rerank"] is None
    return known[row["level"] == 4] if known and plain and row["level"] in (1, 4) else None


def csv_rows(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row with `COLUMNS` for each cell; scores in 0..1, the paper's in percent."""
    return [
        {name: row.get(name) for name in COLUMNS}
        | {"benchmark_map": benchmark_map(row), "paper_map_second_hand": second_hand(row)}
        for row in numbers["rows"]
    ]


def paper_tables(numbers: dict[str, Any]) -> str:
    """Format the tables of all finished cells as Markdown; scores in percent."""
    rows, sets = numbers["rows"], list(numbers["datasets"])
    exact = [row for row in rows if row["factory"] == "Flat"]
    grid = [row for row in rows if row["indexed"] == "pyramid:4" and row["level"] in (1, 4)]
    levels = [row for row in exact if row["indexed"] == "pyramid:4" and row["rerank"] is None]
    whole = [row for row in exact if row["regions"] == row["indexed"] and row["rerank"] is None]
    coded = [row for row in grid if row["level"] == 4 and row["rerank"] is None]
    ranked = [row for row in grid if row["factory"] == "Flat"]
    codes = ("encoder", "factory", "codebook", "bytes_per_patch")
    # Leave out tables whose rows are all in another table.
    whole = whole if any(row["indexed"] != "pyramid:4" for row in whole) else []
    coded = coded if any(row["factory"] != "Flat" for row in coded) else []
    ranked = ranked if any(row["rerank"] for row in ranked) else []
    blocks = [
        _block("Whole pictures (L0) and patches (L1 to L3)", levels, ("encoder", "level"), sets, paper=True),
        _block("Regions, 30 patches per picture", whole, ("encoder", "regions"), sets),
        _block("Product quantization, L3", coded, codes, sets),
        _block("Re-ranking", ranked, ("encoder", "level", "rerank"), sets),
    ]
    reasons: dict[str, list[Row]] = {}
    for refusal in numbers["refused"]:
        reasons.setdefault(refusal["why"], []).append(refusal)
    notes = [
        f"{refusal_note(same[0])} ({len(same)} cells)" if same[1:] else refusal_note(same[0])
        for same in reasons.values()
    ]
    return "\n\n".join([*filter(None, blocks), *notes])


def _block(title: str, rows: Sequence[Row], keys: tuple[str, ...], sets: Sequence[str], paper: bool = False) -> str:
    if not rows:
        return ""
    head = [key.replace("_", " ") for key in keys]
    for name in sets:
        head += [f"{name}: mAP", *([f"{name}: the paper's mAP, second hand"] if paper else []), f"{name}: LocScore"]
    body = []
    for key, by_dataset in means(rows, keys).items():
        cells = [_named(*pair) for pair in zip(keys, key, strict=True)]
        for name in sets:
            cells += _scores(by_dataset.get(name), paper)
        body.append(cells)
    return f"**{title}**\n\n{table(head, body)}"


def _named(key: str, value: Any) -> str:
    return f"L{value - 1}" if key == "level" else "none" if value is None else str(value)


def _scores(mean: Mean | None, paper: bool) -> list[str]:
    if mean is None:
        return ["—"] * (3 if paper else 2)
    known, located = second_hand(mean.rows[0]), mean.of("locscore")
    values = [fmean(map(benchmark_map, mean.rows)), *([known and known / 100] if paper else []), located]
    return ["—" if value is None else f"{100 * value:.2f}" for value in values]
