"""Which configurations each experiment compares."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from patchify_core.errors import PatchifyError

ENCODERS = ("effnet-lite0", "effnet-lite1", "effnet-lite2")

EQUAL_PATCHES = (
    "pyramid:4",
    "pyramid:1+sliding:0.6,0+sliding:0.4,0.6",
    "random:30,0",
    "random:30,1",
    "random:30,2",
    "salient:30",
    "pyramid:3+salient:16",
)
"""Strategies of 30 patches per picture (see `regions`)."""

FACTORIES = (
    "Flat",
    "SQ8",
    "PCAH256,Flat",
    "PCAH256,SQ8",
    "PCAH128,SQ8",
    "PCAH256,PQ64",
    "PCAH128,PQ64",
    "PCAH128,PQ32",
    "PCAH128,PQ16",
)
"""From float32 down to 16 bytes per patch, trained on uniform patches."""

EQUAL_BYTES = ("PCAH128,PQ64x4", "PCAH128,PQ32x4", "PCAH128,PQ16x4")
"""32, 16 and 8 bytes per patch with 16 centroids per part, so that even 16 whole pictures are enough to train on."""

CODEBOOKS = ("global", "uniform", "informative", "distinctive")
NORMAL_SIZE = "PCAH128,PQ16"
"""256 centroids per part, as in large collections; a codebook of whole pictures alone takes 256 pictures."""

SEEDS = (0, 1, 2)

MAP_FACTORY = "PCAH256,SQ8"
"""Codec of pooled descriptors in an index that boxes are refined on."""

QUERIES = ("224", "320", "224+320", "picture", "224+320+picture")
"""How a query of pooled features is described (`Configuration.query`)."""

RERANKERS = (None, "qe", "patch-qe", "sift", "xfeat", "patch-qe+sift", "patch-qe+xfeat", "aliked")


@dataclass(frozen=True)
class Configuration:
    """One way to search.

    Attributes:
        encoder: spec of the encoder.
        regions: spec of the regions that are indexed.
        levels: stages of the regions that are scored; None for all.
        factory: codec of the descriptors.
        codebook: what the codec is trained on.
        rescore: finer codes, or None.
        seed: of what is random in the training.
        rerank: name of a re-ranker, or None.
        features: how descriptors are made (`extract`).
        query: of pooled features, how a query is described: sides of its box alone in pixels, and `picture` for the box
            within its picture, with plus signs between; empty for the default.
        refine: name of a refiner of boxes, or None.
    """

    encoder: str = ENCODERS[0]
    regions: str = "pyramid:4"
    levels: tuple[int, ...] | None = None
    factory: str = "Flat"
    codebook: str = "uniform"
    rescore: str | None = None
    seed: int = 0
    rerank: str | None = None
    features: str = "crop"
    query: str = ""
    refine: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values, without the levels."""
        return {key: value for key, value in asdict(self).items() if key != "levels"}


def plan(name: str, encoder: str = ENCODERS[0], skip: Collection[str] = ()) -> tuple[Configuration, ...]:
    """The configurations of an experiment.

    Args:
        name: one of `PLANS`.
        encoder: used where encoders are not what is compared.
        skip: leave out what has one of these as its encoder, regions, factory, codebook or re-ranker.

    Raises:
        PatchifyError: if there is no such experiment, or nothing of that name to skip (it names the nearest), or if
            nothing is left.
    """
    if name not in PLANS:
        near = difflib.get_close_matches(name, PLANS, n=1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        raise PatchifyError(f"There is no study '{name}'{guess}: choose {', '.join(PLANS)}.")
    return without(PLANS[name](encoder), skip, f"study of {name}")


def without(configurations: Sequence[Configuration], skip: Collection[str], what: str) -> tuple[Configuration, ...]:
    """The configurations that have none of some names; `what` they are, for the sentence. Errors as for `plan`."""
    names = {value for one in configurations for value in one.as_dict().values() if isinstance(value, str)}
    for unknown in sorted({*skip} - names):
        near = difflib.get_close_matches(unknown, sorted(names), n=1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        raise PatchifyError(
            f"The {what} compares nothing called '{unknown}'{guess}: what can be skipped is {', '.join(sorted(names))}."
        )
    left = tuple(one for one in configurations if not {*skip} & {*one.as_dict().values()})
    if not left:
        raise PatchifyError(f"Nothing is left of the {what} without {', '.join(sorted({*skip}))}: skip less.")
    return left


def _encoders(_encoder: str) -> Sequence[Configuration]:
    return [Configuration(encoder=spec) for spec in ENCODERS]


def _regions(encoder: str) -> Sequence[Configuration]:
    return [Configuration(encoder=encoder, regions=spec) for spec in EQUAL_PATCHES]


def _compression(encoder: str) -> Sequence[Configuration]:
    last = (4,)
    sizes = [
        Configuration(encoder, levels=last, factory=factory, seed=seed)
        for factory in FACTORIES
        for seed in (SEEDS if "PQ" in factory else SEEDS[:1])
    ]
    rescored = [Configuration(encoder, levels=last, factory="PCAH128,PQ16", rescore="SQ8", seed=seed) for seed in SEEDS]
    books = [
        Configuration(encoder, levels=last, factory=factory, codebook=codebook, seed=seed)
        for factory in (*EQUAL_BYTES, NORMAL_SIZE)
        for codebook in CODEBOOKS
        for seed in SEEDS
        if (factory, codebook) != (NORMAL_SIZE, "uniform")  # one of `sizes`
    ]
    return [*sizes, *rescored, *books]


def _rerank(encoder: str) -> Sequence[Configuration]:
    # On the global baseline's shortlist too, to see what the patch-wise shortlist is worth.
    return [Configuration(encoder, levels=(1, 4), rerank=name) for name in RERANKERS]


def _features(encoder: str) -> Sequence[Configuration]:
    crops = [Configuration(encoder, levels=(1, 4), factory=factory) for factory in ("Flat", MAP_FACTORY)]
    sizes = [
        Configuration(encoder, levels=(1, 4), factory=factory, features=f"pooled:{side}")
        for side, factory in ((640, "Flat"), (448, MAP_FACTORY), (640, MAP_FACTORY), (896, MAP_FACTORY))
    ]
    queries = [
        Configuration(encoder, levels=(4,), factory=MAP_FACTORY, features="pooled:640", query=query)
        for query in QUERIES
    ]
    return [*crops, *sizes, *queries]


def _boxes(encoder: str) -> Sequence[Configuration]:
    crops = [Configuration(encoder, levels=(1, 4), refine=refine) for refine in (None, "soft")]
    pooled = [
        Configuration(encoder, levels=(1, 4), factory=MAP_FACTORY, features="pooled:640", refine=refine, rerank=rerank)
        for refine, rerank in ((None, None), ("soft", None), ("map", None), ("map", "map"))
    ]
    return [*crops, *pooled]


PLANS = {
    "encoders": _encoders,
    "regions": _regions,
    "compression": _compression,
    "rerank": _rerank,
    "features": _features,
    "boxes": _boxes,
}
