"""Answers by the paper's method for the "See the paper" page, as JSON values.

Every patch is encoded separately, boxes are those of the winning patches, and whole pictures are compared with the
grids of the pyramid. Scores are those of `evaluation.metrics`, as everywhere. The answers of the examples are stored
beside the gallery (`gallery_info.FILE`), so that the page can show them before any network is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.gallery_info import FORMAT, answers_digest, pictures_note
from patchify_core.demo.indexes import public_spec
from patchify_core.demo.queries import UserQuery
from patchify_core.demo.results import MATCHES
from patchify_core.demo.stages import grid_of
from patchify_core.errors import PatchifyError
from patchify_core.evaluation.breakdown import DEFAULTS, band_names, break_down, in_bands, object_shares
from patchify_core.evaluation.metrics import QueryScore, Report, score_positives, summarise
from patchify_core.evaluation.positives import RankedPositives
from patchify_core.evaluation.run import find_in_matches
from patchify_core.features.extract import CROP

SHOWN = 10
"""Results of each row."""

FIRST_WHICH = 12
"""The page opens with the one of this many first examples that patches help most."""


def paper_index(gallery: ExampleGallery) -> str | None:
    """Return the name of an index of a grid pyramid with every patch encoded separately; None without one."""
    for name, offer in gallery.indexes.choices.items():
        if offer.index.features == CROP and all(map(grid_of, offer.index.regions.stages)):
            return name
    return None


class Paper:
    """Answers queries to `gallery` by the paper's method.

    Raises:
        PatchifyError: If the gallery has no index built as in the paper.
    """

    def __init__(self, gallery: ExampleGallery) -> None:
        name = paper_index(gallery)
        if name is None:
            raise PatchifyError(
                f"{gallery.folder} has no index with a pass per patch: build one with index --regions pyramid:4."
            )
        self.gallery, self.name = gallery, name
        self.index = gallery.indexes.choice(name).index
        folder = gallery.indexes.choice(name).folder
        assert folder is not None  # it is not a visitor's own
        self.folder = folder
        self.levels = range(1, len(self.index.regions.stages) + 1)
        self._shares = object_shares(gallery.gallery)

    def document(self, progress: Callable[[int, int], None] = lambda done, total: None) -> dict[str, Any]:
        """Return the answers of all examples, the scores of the whole gallery, and the pictures that they name.

        Args:
            progress: Called with (examples done, examples in all).
        """
        examples, ranked = [], {level: {} for level in self.levels}  # type: ignore[var-annotated]
        for done, example in enumerate(self.gallery.examples, 1):
            query = self.gallery.example(example.id, self.name)
            positions = self._rank_positives(query)
            for level, positives in zip(self.levels, positions, strict=True):
                ranked[level][example.id] = positives
            examples.append(self._entry(query, positions) | {"id": example.id})
            progress(done, len(self.gallery.examples))
        gain = [(one["levels"][-1]["ap"] or 0.0) - (one["levels"][0]["ap"] or 0.0) for one in examples]
        first = max(range(min(FIRST_WHICH, len(examples))), key=gain.__getitem__)
        return {
            "format": FORMAT,
            "made_of": answers_digest(self.gallery.folder, self.folder),
            "index": self.folder.relative_to(self.gallery.folder).as_posix(),
            "encoder": public_spec(self.index.encoder),
            "dim": self.index.dim,
            "gallery": len(self.gallery.gallery.images),
            "note": pictures_note(self.gallery.folder),
            "levels": self._levels(),
            "first": examples[first]["id"],
            "examples": examples,
            "overall": [self._overall(ranked[level]) for level in self.levels],
            "limits": list(DEFAULTS.size),
            "sizes": self._sizes(ranked),
            "pictures": self._pictures(examples),
        }

    def answer(self, query_id: int, box: ArrayLike | None) -> dict[str, Any]:
        """Return the entry of one example with another box, as in `document`, and the pictures that it names.

        Args:
            query_id: Of the example.
            box: xyxy in pixels of its picture; None for all of it.

        Raises:
            BoxError: If the box is empty or outside the picture.
            PatchifyError: If there is no such example.
        """
        query = self.gallery.with_box(self.gallery.example(query_id, self.name), box)
        entry = self._entry(query, self._rank_positives(query)) | {"id": query_id, "known": query.instance is not None}
        return {"entry": entry, "pictures": self._pictures([entry])}

    def _levels(self) -> list[dict[str, Any]]:
        grids = [(grid_of(stage) or 0, stage.patches) for stage in self.index.regions.stages]
        return [
            {"name": "Whole image" if grid == 1 else f"{grid}×{grid}", "grid": grid, "patches": patches}
            for grid, patches in grids
        ]

    def _rank_positives(self, query: UserQuery) -> list[RankedPositives | None]:
        """Find the positives at each level; None if the object is unknown or in no picture."""
        if query.instance is None:
            return [None for _ in self.levels]
        annotated = self.gallery.judge.as_query(query)
        rankings = [self.gallery.ranking(query, level) for level in self.levels]
        return [find_in_matches(ranking, self.gallery.gallery, annotated) for ranking in rankings]

    def _entry(self, query: UserQuery, ranked: list[RankedPositives | None]) -> dict[str, Any]:
        engine, gallery = self.gallery.indexes.engine(self.name), self.gallery
        levels, shown = [], set()
        for level, positives in zip(self.levels, ranked, strict=True):
            ranking = gallery.ranking(query, level)
            results = [gallery.result(query, rank, match) for rank, match in enumerate(ranking[:SHOWN], 1)]
            shown |= {result.match.image_id for result in results}
            patches = self.index.regions.stages[level - 1].patches
            known = query.instance is not None and positives is not None
            levels.append(
                {
                    **_scores(None if positives is None else score_positives(positives)),
                    "ceiling": _short(gallery.judge.ceiling(query, self.index, patches)) if known else None,
                    "found": sum(result.verdict in MATCHES for result in results),
                    "results": [
                        {
                            "picture": result.match.image_id,
                            "score": round(float(result.match.score), 4),
                            "patch": result.match.patch,
                            "verdict": result.verdict,
                            "iou": _short(result.iou),
                        }
                        for result in results
                    ],
                }
            )
        explained = {picture: engine.explain(query.descriptor, picture) for picture in sorted(shown)}
        return {
            "name": query.name,
            "picture": None if query.path is None else self._file(query.path),
            "width": query.width,
            "height": query.height,
            "box": None if query.box is None else [round(float(value), 1) for value in query.box],
            "levels": levels,
            "positives": self._positives(query, ranked),
            "bands": self._bands(query, ranked),
            "patches": {str(i): [round(float(s), 4) for s in one.scores] for i, one in explained.items()},
        }

    def _positives(self, query: UserQuery, ranked: list[RankedPositives | None]) -> list[dict[str, Any]]:
        """Return for every positive the object's share of the picture, and rank and IoU at each level."""
        if query.instance is None or ranked[0] is None:
            return []
        at = [{int(i): k for k, i in enumerate(one.image_ids)} if one else {} for one in ranked]
        rows = []
        for picture in self.gallery.gallery.positives(query.instance, self.gallery.judge.left_out(query)):
            share = self._shares.get((query.instance, picture))
            places = [(one, seen.get(picture)) for one, seen in zip(ranked, at, strict=True)]
            rows.append(
                {
                    "picture": picture,
                    "share": _short(share),
                    "ranks": [None if one is None or k is None else int(one.ranks[k]) for one, k in places],
                    "ious": [None if one is None or k is None else _short(float(one.ious[k])) for one, k in places],
                }
            )
        return sorted(rows, key=lambda row: row["ranks"][-1] or len(self.index.images))

    def _bands(self, query: UserQuery, ranked: list[RankedPositives | None]) -> list[dict[str, Any] | None]:
        """Return the scores over objects of each size, the others left out of the ranking (see `breakdown`)."""
        if query.instance is None or ranked[0] is None:
            return []
        positives = self.gallery.gallery.positives(query.instance, self.gallery.judge.left_out(query))
        rows: list[dict[str, Any] | None] = []
        for pictures in in_bands(positives, query.instance, self._shares, DEFAULTS.size)[:-1]:
            parts = [one.only(pictures, True) if one is not None else None for one in ranked]
            scores = [_scores(None if part is None else score_positives(part)) for part in parts]
            rows.append({"positives": len(pictures), "levels": scores} if pictures else None)
        return rows

    def _overall(self, ranked: dict[int, RankedPositives | None]) -> dict[str, Any]:
        report = summarise({query: None if one is None else score_positives(one) for query, one in ranked.items()})
        return _means(report) | {"queries": report.queries}

    def _sizes(self, ranked: dict[int, dict[int, RankedPositives | None]]) -> list[dict[str, Any]]:
        parts = {level: break_down(ranked[level], self.gallery.gallery)["size"] for level in self.levels}
        by_name = [{part.name: part for part in parts[level]} for level in self.levels]
        return [
            {
                "name": name,
                "positives": by_name[0][name].positives if name in by_name[0] else 0,
                "queries": by_name[0][name].report.queries if name in by_name[0] else 0,
                "levels": [_means(one[name].report) if name in one else None for one in by_name],
            }
            for name in band_names(DEFAULTS.size)
        ]

    def _pictures(self, entries: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
        named = {row["picture"] for entry in entries for level in entry["levels"] for row in level["results"]}
        named |= {row["picture"] for entry in entries for row in entry["positives"]}
        images = [self.gallery.gallery.image(picture) for picture in sorted(named)]
        return {str(i.id): [self._file(i.path), i.width, i.height] for i in images}

    def _file(self, path: Path) -> str:
        """Return a picture's POSIX path below the gallery's folder.

        Raises:
            PatchifyError: If it is in a folder that the page does not serve.
        """
        folder = self.gallery.folder
        name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
        if name.partition("/")[0] not in ("gallery", "queries"):
            raise PatchifyError(
                f"{name} is neither in gallery nor in queries of {folder}, from which alone the page shows pictures."
            )
        return name


def _scores(score: QueryScore | None) -> dict[str, Any]:
    return {name: None if score is None else _short(getattr(score, name)) for name in ("ap", "locscore")}


def _means(report: Report) -> dict[str, Any]:
    return {"map": _short(report.map), "locscore": _short(report.locscore)}


def _short(value: float | None) -> float | None:
    return None if value is None or value != value else round(float(value), 4)
