"""What the page can be asked, and its answers.

Nothing here knows Gradio. A `Showcase` is shared by all visitors and holds only what is the same for all of them
(the bundled gallery and its indexes); what a visitor brings is in their own `Question`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchify_core.boxes import checked_box, iou
from patchify_core.encoders import Encoder, EncoderSettings
from patchify_core.errors import PatchifyError
from patchify_core.gallery import Gallery, Query, read_coco
from patchify_core.index import PatchIndex
from patchify_core.pictures import read_picture
from patchify_core.retrieval import Match, Patchify
from patchify_core.web.answers import OFF, RIGHT, Answer, Detail, Result
from patchify_core.web.judging import Judge
from patchify_core.web.locating import OBJECTS, WINNING, best_way, similarity, with_boxes
from patchify_core.web.questions import Question, checked_words
from patchify_core.web.reranking import Rerankers
from patchify_core.web.shelf import Shelf

DISPLAY_SIDE = 1024
"""Longest side, in pixels, of the copy of a visitor's picture that is shown to them."""

PREPARED = 10
"""Results of each example whose boxes are found before anybody asks: those that a page shows at first."""

FIRST_EXAMPLES = (
    "birthday cake",
    "potted fern",
    "traffic cone",
    "moka pot",
    "soccer ball",
    "gift box",
    "flowered teapot",
    "flowered creamer",
    "blue vase",
    "toy train",
    "headphones",
    "toy biplane",
)
"""Shown first: easy ones, look-alikes (the tea set, the blue pots) and two of the hardest."""


class Showcase:
    """The bundled gallery, its indexes and their encoders, shared by all visitors.

    Args:
        folder: sample_db, or another dataset with `annotations.json` and an `index` folder beside it.
        encoder: used for the indexes that it made; by default each index's own is loaded, with `settings`.
        settings: how an encoder is run; on one thread by default.

    Raises:
        PatchifyError: if gallery, default index and encoder do not fit together.
    """

    def __init__(self, folder: Path, encoder: Encoder | None = None, settings: EncoderSettings | None = None) -> None:
        """Reads the gallery and its indexes; no encoder is loaded yet."""
        self.folder = folder
        self.gallery: Gallery = read_coco(folder)
        self.shelf = Shelf(folder, encoder, settings)
        self.rerankers, self.judge = Rerankers(), Judge(self.gallery)
        order = {name: number for number, name in enumerate(FIRST_EXAMPLES)}
        self.examples: tuple[Query, ...] = tuple(
            sorted(self.gallery.queries, key=lambda q: order.get(self.gallery.name(q.instance), len(order)))
        )
        self._described: dict[tuple[str, int], Question] = {}

    @property
    def index(self) -> PatchIndex:
        """The index that a visit begins with."""
        return self.shelf.offer(self.shelf.first).index

    @property
    def engine(self) -> Patchify:
        """That index and its encoder, which is loaded when it is first needed."""
        return self.shelf.engine(self.shelf.first)

    @property
    def levels(self) -> int:
        """How many levels that index has."""
        return self.levels_of(self.shelf.first)

    def levels_of(self, engine: str) -> int:
        """How many levels an index has."""
        return len(self.shelf.offer(engine).index.regions.stages)

    # Questions ------------------------------------------------------------------------------------------

    def first(self) -> Question:
        """What a page that was just opened has asked."""
        return self.example(self.examples[0].id)

    def example(self, query_id: int, engine: str | None = None) -> Question:
        """A bundled query with its annotated box. Descriptors of examples are kept: they are everybody's.

        Raises:
            PatchifyError: if there is no such example.
        """
        key = engine, query_id
        if key not in self._described:
            query = next((q for q in self.gallery.queries if q.id == query_id), None)
            if query is None:
                raise PatchifyError("There is no such example: choose one of those shown.")
            self._described[key] = Question(
                name=self.gallery.name(query.instance),
                width=query.width,
                height=query.height,
                box=query.box,
                instance=query.instance,
                descriptor=self.shelf.engine(engine).describe_query(query.path, query.box),
                path=query.path,
                example=query.id,
                engine=engine,
            )
        return self._described[key]

    def forget_examples(self) -> None:
        """Drops the kept descriptors of examples."""
        self._described.clear()

    def upload(self, data: bytes, name: str = "your picture", engine: str | None = None) -> Question:
        """A visitor's picture, all of it; the object is unknown until they say.

        Raises:
            PictureError: one sentence, if it is not a picture that can be searched.
        """
        picture = read_picture(data)
        descriptor = self.shelf.engine(engine).describe_query(picture)
        width, height = picture.size
        picture.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=85)
        shown = stream.getvalue()
        return Question(name, width, height, None, None, descriptor, data=data, display=shown, engine=engine)

    def in_words(self, words: object, engine: str | None = None) -> Question:
        """What a visitor looks for, said in words; the object is unknown until they say.

        Raises:
            PatchifyError: one sentence, if there are no words or too many.
            EncoderError: if the encoder knows pictures only.
        """
        words = checked_words(words)
        descriptor = self.shelf.engine(engine).describe_text(words)
        return Question(words, 0, 0, None, None, descriptor, words=words, engine=engine)

    def from_result(
        self, image_id: int, box: NDArray[np.float64], instance: int | None, engine: str | None = None
    ) -> Question:
        """A gallery picture as the next query.

        Args:
            image_id: gallery image id.
            box: the part of it to search with.
            instance: the object asked for so far; kept if the picture is known to show it.
            engine: which index is asked.
        """
        image = self.gallery.image(image_id)
        shows = instance is not None and image_id in self.gallery.positives(instance)
        descriptor = self.shelf.engine(engine).describe_query(image.path, box)
        return Question(
            name=f"gallery picture {image_id}",
            width=image.width,
            height=image.height,
            box=box,
            instance=instance if shows else None,
            descriptor=descriptor,
            path=image.path,
            itself=image_id,
            engine=engine,
        )

    def with_box(self, question: Question, box: ArrayLike | None) -> Question:
        """The same picture with another box (xyxy in pixels, checked here); the whole picture if None.

        A box that has nothing in common with the one before it is round another object, so what that was is forgotten.

        Raises:
            BoxError: one sentence, if the box is empty or outside.
            PatchifyError: if it was asked in words.
        """
        source = question.source
        region = None if box is None else checked_box(box, question.width, question.height)
        descriptor = self.shelf.engine(question.engine).describe_query(source, region)
        elsewhere = region is not None and question.box is not None and not iou(region, question.box).any()
        instance = None if elsewhere else question.instance
        return replace(question, box=region, descriptor=descriptor, example=None, instance=instance)

    def with_instance(self, question: Question, instance: int | None) -> Question:
        """The same query, said to be this object."""
        named = replace(question, instance=instance)
        named.rankings.update(question.rankings)  # what it is called does not change what is found
        return named

    def with_engine(self, question: Question, engine: str) -> Question:
        """The same query, asked of another index and so described by its encoder.

        Raises:
            EncoderError: if it was asked in words and that encoder knows pictures only, or it cannot be had.
        """
        patchify = self.shelf.engine(engine)
        if question.words is not None:
            descriptor = patchify.describe_text(question.words)
        elif question.example is not None:
            return replace(self.example(question.example, engine), instance=question.instance)
        else:
            descriptor = patchify.describe_query(question.source, question.box)
        return replace(question, descriptor=descriptor, engine=engine)

    # Answers --------------------------------------------------------------------------------------------

    def answer(self, question: Question, level: int, top: int, reranker: str | None = None, way: str = WINNING) -> Answer:
        """Searches, re-ranks if wanted, finds the boxes wanted, and scores the whole ranking if the object is known.

        Args:
            question: what is asked.
            level: number of the stage to search with.
            top: results that are shown.
            reranker: name of a re-ranker, or None.
            way: how boxes are found (`locating`).

        Raises:
            PatchifyError: one sentence, if the question cannot be re-ranked in this way, or the index has no maps to
                search boxes on.
            IndexFolderError: if a map is damaged or was taken away.
        """
        engine = self.shelf.engine(question.engine)
        stages = engine.index.regions.stages
        ranking = self.ranking(question, level, reranker)
        shown = with_boxes(question, engine, ranking[:top], way, level, OBJECTS)
        results = tuple(self._result(question, rank, match) for rank, match in enumerate(shown, 1))
        score = winning = plain = baseline = ceiling = None
        if question.instance is not None:

            def refine(matches: list[Match]) -> list[Match]:
                return with_boxes(question, engine, matches, way, level)

            score = self.judge.score(question, ranking, refine)
            if way != WINNING:
                winning = self.judge.score(question, ranking)
            if reranker is not None:
                plain = self.judge.score(question, self.ranking(question, level), refine)
            if stages[0].patches == 1:
                baseline = self.judge.score(question, self.ranking(question, 1))
            ceiling = self.judge.ceiling(question, engine.index, stages[level - 1].patches)
        return Answer(
            results,
            stages,
            level,
            reranker,
            way,
            score,
            winning,
            plain,
            baseline,
            ceiling,
            pictures=len(self.gallery.images),
            found=sum(result.verdict in (RIGHT, OFF) for result in results),
        )

    def ranking(self, question: Question, level: int, reranker: str | None = None) -> Sequence[Match]:
        """All pictures, best first. It is kept with the question, because each part of the page needs it."""
        key = level, reranker
        if key not in question.rankings:
            engine = self.shelf.engine(question.engine)
            matches = engine.search_descriptor(question.descriptor, top=None, level=level)
            if reranker is not None:
                exclude = self.judge.left_out(question)
                matches = self.rerankers.rerank(reranker, engine, question, matches, level, exclude)
            question.rankings[key] = tuple(matches)
        return question.rankings[key]

    def detail(
        self,
        question: Question,
        image_id: int,
        level: int,
        top: int,
        reranker: str | None = None,
        way: str = WINNING,
        with_map: bool = True,
    ) -> Detail:
        """The similarity of every patch of one shown result, and of every place where the index has maps.

        Args:
            question: what is asked.
            image_id: the picture.
            level: see `answer`.
            top: see `answer`.
            reranker: see `answer`.
            way: see `answer`.
            with_map: whether the similarity of every place is wanted.

        Raises:
            PatchifyError: if that picture is not among the results any more.
            IndexFolderError: if its map is damaged or was taken away.
        """
        engine = self.shelf.engine(question.engine)
        shown = self.ranking(question, level, reranker)[:top]
        for rank, match in enumerate(shown, 1):
            if match.image_id == image_id:
                explanation = engine.explain(question.descriptor, image_id, level)
                stages = engine.index.regions.stages[:level]
                (boxed,) = with_boxes(question, engine, [match], way, level, OBJECTS)
                places = similarity(question, engine, image_id) if with_map else None
                return Detail(self._result(question, rank, boxed), explanation, stages, len(shown), way, places)
        raise PatchifyError("That picture is not among the results any more: choose one of those shown.")

    def prepare(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Answers every example as a page that was just opened asks it, so that visitors need not wait.

        Descriptors, rankings and boxes are kept; it is one thread's work, picture by picture.

        Args:
            stop: asked between examples whether to give up.
        """
        engine = self.engine
        way = best_way(engine.index)
        for query in self.examples:
            if stop():
                return
            question = self.example(query.id)
            ranking = self.ranking(question, self.levels)
            with_boxes(question, engine, ranking[:PREPARED], way, self.levels, OBJECTS, workers=1)

    def _result(self, question: Question, rank: int, match: Match) -> Result:
        index = self.shelf.offer(question.engine).index
        return self.judge.result(question, rank, match, index.box_of(index.row_of[match.image_id], match.patch))
