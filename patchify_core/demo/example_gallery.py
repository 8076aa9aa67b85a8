"""A gallery with its indexes and examples: makes visitors' queries, and answers them.

All visitors share one `ExampleGallery`. What belongs to a visitor, results that were computed included, is kept in that
visitor's `UserQuery`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL.Image import Image

from patchify_core.demo.box_methods import OBJECTS, WINNING, best_method, similarity, with_boxes
from patchify_core.demo.decoding import decode, decode_untrusted
from patchify_core.demo.gallery_info import FIRST_EXAMPLES
from patchify_core.demo.indexes import GalleryIndexes, is_paper_method
from patchify_core.demo.queries import UserQuery, checked_words, description
from patchify_core.demo.reranking import Rerankers
from patchify_core.demo.results import MATCHES, Answer, Detail, Judge, Result
from patchify_core.demo.storage import StoredPicture
from patchify_core.encoders import Encoder, EncoderSettings
from patchify_core.errors import PatchifyError
from patchify_core.evaluation.metrics import QueryScore
from patchify_core.gallery import Gallery, Query, read_coco
from patchify_core.imaging.boxes import checked_box, iou
from patchify_core.index.patch_index import PatchIndex
from patchify_core.patchify import Patchify
from patchify_core.retrieval.presence import BACKGROUND, Presence
from patchify_core.retrieval.ranking import Match, Ranking

DISPLAY_SIDE = 1024
"""Longest side, in pixels, of the copy of a visitor's picture that is shown to them."""

PREPARED = 10
"""Results of each example whose boxes are computed in advance: as many as a page shows at first."""

WHOLE_UP_TO, RANKED = 10_000, 1_000
"""Pictures up to which all are ranked, and how many are in larger galleries: scores are then those at 1,000, as in
ILIAS (Kordopatis-Zilos et al., CVPR 2025)."""

PIECE = 4
"""Pictures whose boxes are computed, for the score of an example, before others are let through."""


class ExampleGallery:
    """A dataset, its indexes and its encoders. Methods without an index name use the one that a visit begins with.

    Args:
        folder: sample_db, or another dataset with `annotations.json` and an `index` folder beside it.
        encoder: Used for the indexes that it made; by default each index loads its own, with `settings`.
        settings: How an encoder is run; on one thread by default.
        beside: Another gallery, with which loaded encoders and re-rankers are shared.

    Attributes:
        examples: The bundled queries, in the order in which the page shows them.
        prepared: Ids of the examples whose answers are ready.

    Raises:
        PatchifyError: If gallery, default index and encoder do not fit together.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Encoder | None = None,
        settings: EncoderSettings | None = None,
        beside: ExampleGallery | None = None,
    ) -> None:
        self.folder = folder
        self.gallery: Gallery = read_coco(folder)
        self.indexes: GalleryIndexes = GalleryIndexes(
            folder, encoder, settings, None if beside is None else beside.indexes
        )
        order = {name: number for number, name in enumerate(FIRST_EXAMPLES)}
        self.examples: tuple[Query, ...] = tuple(
            sorted(self.gallery.queries, key=lambda q: order.get(self.gallery.name(q.instance), len(order)))
        )
        self.rerankers: Rerankers = Rerankers() if beside is None else beside.rerankers
        self.judge = Judge(self.gallery)
        self.prepared: set[int] = set()
        self._described: dict[tuple[str, int], UserQuery] = {}

    @property
    def index(self) -> PatchIndex:
        """The index that a visit begins with."""
        return self.indexes.choice(self.indexes.first).index

    @property
    def engine(self) -> Patchify:
        """The same index with its encoder, which is loaded when it is first needed."""
        return self.indexes.engine(self.indexes.first)

    @property
    def levels(self) -> int:
        """Number of its levels."""
        return self.levels_of(self.indexes.first)

    def levels_of(self, index_name: str) -> int:
        """Return the number of levels of an index."""
        return len(self.indexes.choice(index_name).index.regions.stages)

    def first(self) -> UserQuery:
        """Return the query of a page that was just opened."""
        return self.example(self.examples[0].id)

    def example(self, query_id: int, index_name: str | None = None) -> UserQuery:
        """Return a bundled query with its annotated box. All visitors share it, with the results computed for it.

        Raises:
            PatchifyError: If there is no such example.
        """
        index_name = index_name or self.indexes.first
        key = index_name, query_id
        if key not in self._described:
            example = next((query for query in self.gallery.queries if query.id == query_id), None)
            if example is None:
                raise PatchifyError("There is no such example: choose one of those shown.")
            query = UserQuery(
                name=self.gallery.name(example.instance),
                width=example.width,
                height=example.height,
                box=example.box,
                instance=example.instance,
                path=example.path,
                example=example.id,
                index_name=index_name,
                **description(self.indexes.engine(index_name).view(example.path, example.box)),
            )
            self._described.setdefault(key, query)  # boxes are kept with whichever query was first
        return self._described[key]

    def forget_examples(self) -> None:
        """Drop the examples' descriptors and the results computed with them."""
        self._described.clear()

    def upload(
        self, data: bytes | StoredPicture, name: str = "your picture", index_name: str | None = None
    ) -> UserQuery:
        """Make a query of a visitor's whole picture; its object is unknown until they say.

        Args:
            data: The file.
            name: Of the picture.
            index_name: Which index is searched.

        Raises:
            PictureError: One sentence, if it is not a picture that can be searched.
        """
        index_name = index_name or self.indexes.first
        patchify = self.indexes.engine(index_name)
        stored = data if isinstance(data, StoredPicture) else StoredPicture(data)

        def describe(picture: Image) -> tuple[dict[str, Any], tuple[int, int], bytes]:
            described, size, stream = description(patchify.view(picture)), picture.size, io.BytesIO()
            picture.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE))
            picture.save(stream, "JPEG", quality=85)
            return described, size, stream.getvalue()

        described, (width, height), stored.display = decode(stored.read(), describe)
        return UserQuery(name, width, height, None, None, data=stored, index_name=index_name, **described)

    def in_words(self, words: object, index_name: str | None = None) -> UserQuery:
        """Make a query of words; its object is unknown until the visitor chooses it.

        Raises:
            PatchifyError: One sentence, if there are no words or too many.
            EncoderError: If the encoder knows pictures only.
        """
        index_name, words = index_name or self.indexes.first, checked_words(words)
        descriptor = self.indexes.engine(index_name).describe_text(words)
        return UserQuery(words, 0, 0, None, None, descriptor, words=words, index_name=index_name)

    def from_result(
        self, image_id: int, box: NDArray[np.float64], instance: int | None, index_name: str | None = None
    ) -> UserQuery:
        """Make a query of a gallery picture.

        Args:
            image_id: Gallery image id.
            box: (4,) xyxy of the object in pixels.
            instance: The object of the query before; kept if the picture is annotated with it.
            index_name: Which index is searched.
        """
        index_name = index_name or self.indexes.first
        image = self.gallery.image(image_id)
        contains = instance is not None and image_id in self.gallery.positives(instance)
        return UserQuery(
            name=f"gallery picture {image_id}",
            width=image.width,
            height=image.height,
            box=box,
            instance=instance if contains else None,
            path=image.path,
            itself=image_id,
            index_name=index_name,
            **description(self.indexes.engine(index_name).view(image.path, box)),
        )

    def with_box(self, query: UserQuery, box: ArrayLike | None) -> UserQuery:
        """Return the query with another box (xyxy in pixels, checked here); the whole picture if None.

        A box that does not overlap the one before is around another object, so the object becomes unknown.

        Raises:
            BoxError: One sentence, if the box is empty or outside.
            PatchifyError: If the query is words.
        """
        source = query.source
        region = None if box is None else checked_box(box, query.width, query.height)
        engine = self.indexes.engine(query.index_name)
        described = decode_untrusted(source, lambda picture: description(engine.view(picture, region)))
        elsewhere = region is not None and query.box is not None and not iou(region, query.box).any()
        instance = None if elsewhere else query.instance
        return replace(query, box=region, example=None, instance=instance, **described)

    def with_instance(self, query: UserQuery, instance: int | None) -> UserQuery:
        """Return the query with another object; what it finds stays the same."""
        named = replace(query, instance=instance)
        named.rankings.update(query.rankings)
        named.located.update(query.located)
        return named

    def with_index(self, query: UserQuery, index_name: str) -> UserQuery:
        """Return the query for another index, described by its encoder.

        Raises:
            EncoderError: If the query is words and that encoder knows pictures only, or it cannot be loaded.
        """
        if query.example is not None:
            return self.with_instance(self.example(query.example, index_name), query.instance)
        return replace(query, index_name=index_name, **self._describe(query, index_name))

    def _describe(self, query: UserQuery, index_name: str) -> dict[str, Any]:
        engine = self.indexes.engine(index_name)
        if query.words is not None:
            return description(engine.view(text=query.words))
        return decode_untrusted(query.source, lambda picture: description(engine.view(picture, query.box)))

    # `level`, `top`, `reranker` and `box_method` of the following methods are as in `answer`.

    def answer(
        self, query: UserQuery, level: int, top: int, reranker: str | None = None, box_method: str = WINNING
    ) -> Answer:
        """Search, re-rank and refine boxes as requested, and score the whole ranking if the object is known.

        Args:
            query: What to search for.
            level: Number of the stage to search with, from 1.
            top: Results to show.
            reranker: Name of a re-ranker, or None.
            box_method: How boxes are found (`box_methods`).

        Raises:
            PatchifyError: One sentence, if the query cannot be re-ranked in this way, or the index has no feature maps
                to search for boxes on.
            IndexFolderError: If a map is damaged or missing.
        """
        engine = self.indexes.engine(query.index_name)
        stages = engine.index.regions.stages
        ranking = self.ranking(query, level, reranker)
        before = ranking if reranker is None else self.ranking(query, level)
        shown = with_boxes(query, engine, ranking[:top], box_method, level, OBJECTS)
        results = tuple(self.result(query, rank, match) for rank, match in enumerate(shown, 1))
        score = winning = plain = baseline = ceiling = None
        if query.instance is not None:

            def refine(matches: list[Match]) -> list[Match]:
                return with_boxes(query, engine, matches, box_method, level)

            score = self.judge.score(query, ranking, refine)
            if box_method != WINNING:
                winning = self.judge.score(query, ranking)
            if reranker is not None:
                plain = self.judge.score(query, before, refine)
            if stages[0].patches == 1:
                baseline = self.judge.score(query, self.ranking(query, 1))
            ceiling = self.judge.ceiling(query, engine.index, stages[level - 1].patches)
        return Answer(
            results=results,
            stages=stages,
            level=level,
            reranker=reranker,
            box_method=box_method,
            score=score,
            winning=winning,
            plain=plain,
            baseline=baseline,
            ceiling=ceiling,
            pictures=len(self.gallery.images),
            found=sum(result.verdict in MATCHES for result in results),
            ranked=len(ranking) if len(ranking) < len(self.gallery.images) else 0,
            paper=is_paper_method(engine.index),
            unmoved=reranker is not None and np.array_equal(ranking.image_ids, before.image_ids),
            presence=self.presence(query, ranking, top) if reranker is None and level == len(stages) else None,
            calibrated=len(ranking) >= BACKGROUND.stop and self.indexes.calibration(query.index_name) is not None,
        )

    def presence(self, query: UserQuery, ranking: Ranking, top: int) -> Presence | None:
        """Estimate how likely the first `top` results contain the object, the query's own picture excluded.

        `ranking` is at the last level and not re-ranked. None where this was not learned.
        """
        calibration = None if query.words is not None else self.indexes.calibration(query.index_name)
        if calibration is None:
            return None
        others = ranking.image_ids != query.itself
        return calibration.presence(ranking.scores[:top][others[:top]], ranking.scores[others])

    def ranking(self, query: UserQuery, level: int, reranker: str | None = None) -> Ranking:
        """Rank all pictures, best first, or the first `RANKED` of more than `WHOLE_UP_TO`; kept with the query."""
        key = level, reranker
        if key not in query.rankings:
            engine = self.indexes.engine(query.index_name)
            if reranker is None:
                top = RANKED if len(self.gallery.images) > WHOLE_UP_TO else None
                query.rankings[key] = engine.ranking(query.descriptor, level, top)
            else:
                plain, exclude = self.ranking(query, level), self.judge.left_out(query)
                query.rankings[key] = self.rerankers.rerank(reranker, engine, query, plain, level, exclude)
        return query.rankings[key]

    def detail(
        self,
        query: UserQuery,
        image_id: int,
        level: int,
        top: int,
        reranker: str | None = None,
        box_method: str = WINNING,
        with_map: bool = True,
    ) -> Detail:
        """Explain one of the shown results: the similarity of every patch and, if `with_map`, of every place.

        Raises:
            PatchifyError: If that picture is not among the results any more.
            IndexFolderError: If its map is damaged or missing.
        """
        engine = self.indexes.engine(query.index_name)
        shown = with_boxes(query, engine, self.ranking(query, level, reranker)[:top], box_method, level, OBJECTS)
        for rank, match in enumerate(shown, 1):
            if match.image_id == image_id:
                explanation = engine.explain(query.descriptor, image_id, level)
                stages = engine.index.regions.stages[:level]
                places = similarity(query, engine, image_id) if with_map else None
                return Detail(self.result(query, rank, match), explanation, stages, len(shown), box_method, places)
        raise PatchifyError("That picture is no longer among the results: choose one of those shown.")

    def prepare(self, examples: int | None = None, workers: int = 1, stop: Callable[[], bool] = lambda: False) -> None:
        """Compute the descriptors, rankings and boxes of examples before anybody chooses them.

        Args:
            examples: How many; all of them by default.
            workers: Pictures that are searched at once.
            stop: Called again and again: whether to give up. It may wait, so that others come first.

        Raises:
            IndexFolderError: If a map is damaged or missing.
        """
        engine, level = self.engine, self.levels
        box_method = best_method(engine.index)
        for example in self.examples[:examples]:
            if stop():
                return
            query = self.example(example.id)
            ranking = self.ranking(query, level)
            with_boxes(query, engine, ranking[:PREPARED], box_method, level, OBJECTS, workers)

            def refine(matches: list[Match], query: UserQuery = query) -> list[Match]:
                refined: list[Match] = []
                for start in range(0, len(matches), PIECE):
                    stop()  # only to let others through: a score is always finished
                    piece = matches[start : start + PIECE]
                    refined += with_boxes(query, engine, piece, box_method, level, workers=workers)
                return refined

            self.judge.score(query, ranking, refine)
            self.prepared.add(example.id)

    def positives(
        self, query: UserQuery, score: QueryScore, level: int, reranker: str | None = None, box_method: str = WINNING
    ) -> tuple[Result, ...]:
        """Return the ranked pictures that contain the query's known object, each with its rank among those that count.

        `score` is that of the ranking (`answer`), which also says what may be raised.
        """
        ranking, engine = self.ranking(query, level, reranker), self.indexes.engine(query.index_name)
        places = self.judge.counted(query, ranking)[score.ranks - 1].tolist()
        matches = with_boxes(query, engine, [ranking[at] for at in places], box_method, level)
        return tuple(self.result(query, rank, match) for rank, match in zip(score.ranks.tolist(), matches, strict=True))

    def result(self, query: UserQuery, rank: int, match: Match) -> Result:
        """Judge one match; `rank` is the caller's."""
        index = self.indexes.choice(query.index_name).index
        return self.judge.result(query, rank, match, index.box_of(index.row_of[match.image_id], match.patch))
