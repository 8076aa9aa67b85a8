"""What the page can be asked, and its answers: queries, matches with verdicts, scores, and a look into one match.

Nothing here knows Gradio. A `Showcase` is shared by all visitors and holds only what is the same for all of them
(the bundled gallery and its index); what a visitor brings is in their own `Question`.
"""

from __future__ import annotations

import io
import threading
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchify_core.boxes import checked_box, iou
from patchify_core.encoders import Encoder, EncoderSettings
from patchify_core.errors import PatchifyError
from patchify_core.evaluation import cell_boxes, score_matches
from patchify_core.gallery import Gallery, Query, read_coco
from patchify_core.index import PatchIndex
from patchify_core.metrics import QueryScore, grid_ceiling
from patchify_core.pictures import read_picture
from patchify_core.retrieval import Explanation, Match, Patchify

RIGHT_IOU = 0.5
"""A box counts as right from this IoU on: the usual threshold since PASCAL VOC (Everingham et al., IJCV 2010)."""

DISPLAY_SIDE = 1024
"""Longest side, in pixels, of the copy of a visitor's picture that is shown to them."""

ONE_THREAD = EncoderSettings(threads=1)
"""One crop is too little work to share: threads that wait for each other in every layer make it slow as soon as
anything else runs on the machine."""

RIGHT, OFF, WRONG, IGNORED, ITSELF, UNKNOWN = "right", "off", "wrong", "ignored", "itself", "unknown"


@dataclass(frozen=True, eq=False)
class Question:
    """What one visitor is asking.

    Attributes:
        name: what the picture is called on the page.
        width: upright width of the picture in pixels.
        height: upright height in pixels.
        box: (4,) float64 xyxy of the object in pixels; None for the whole picture.
        instance: which bundled object it is, if the visitor says; None means that nothing can be scored.
        descriptor: (D,) float32 of the box.
        path: a bundled picture, or None.
        data: the bytes of a visitor's own picture, or None. They are kept in memory only.
        display: a small upright JPEG of `data`, made once, to be shown to that visitor.
        example: id of the bundled query that this is, or None.
        itself: id of the gallery picture that this is, or None; it is left out of the score.
    """

    name: str
    width: int
    height: int
    box: NDArray[np.float64] | None
    instance: int | None
    descriptor: NDArray[np.float32]
    path: Path | None = None
    data: bytes | None = None
    display: bytes | None = None
    example: int | None = None
    itself: int | None = None

    @property
    def key(self) -> str:
        """Tells this picture, whatever the box, from others that the same visitor may show."""
        return self.path.name if self.path is not None else f"{zlib.crc32(self.data or b''):08x}"

    @property
    def source(self) -> Path | bytes:
        """Where the pixels are."""
        if self.path is not None:
            return self.path
        assert self.data is not None
        return self.data


@dataclass(frozen=True, eq=False)
class Result:
    """One match as the page shows it: its rank, what is right or wrong about it, and where the object really is."""

    rank: int
    match: Match
    verdict: str
    iou: float | None
    annotated: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Answer:
    """Everything the page shows for one question.

    Attributes:
        results: the first matches.
        level: finest grid that was used.
        score: of the whole ranking at `level`; None when the object is unknown.
        baseline: of the whole ranking by whole pictures alone.
        ceiling: the best LocScore that the grid allows for this object.
        pictures: size of the gallery.
        found: positives among the shown results.
    """

    results: tuple[Result, ...]
    level: int
    score: QueryScore | None
    baseline: QueryScore | None
    ceiling: float | None
    pictures: int
    found: int


@dataclass(frozen=True, eq=False)
class Detail:
    """One result looked into."""

    result: Result
    explanation: Explanation
    results_shown: int


class Showcase:
    """The bundled gallery, its index and the encoder, shared by all visitors.

    Args:
        folder: sample_db, or another dataset with `annotations.json` and an `index` folder beside it.
        encoder: by default the one that the index names, with `settings`.
        settings: how that encoder is run; on one thread by default.

    Raises:
        PatchifyError: if gallery, index and encoder do not fit together.
    """

    def __init__(self, folder: Path, encoder: Encoder | None = None, settings: EncoderSettings | None = None) -> None:
        """Checks every picture's digest against the index, so that no box can be drawn on another picture."""
        self.folder = folder
        self.gallery: Gallery = read_coco(folder)
        index = PatchIndex.load(folder / "index")
        index.check_pictures(folder, content=True)
        self._encoder, self._settings = encoder, settings or ONE_THREAD
        self.index = index
        self._described: dict[int, Question] = {}
        self._loading = threading.Lock()

    @cached_property
    def engine(self) -> Patchify:
        """Index and encoder. The encoder is loaded when it is first needed."""
        from patchify_core.encoders import load_encoder

        with self._loading:  # two first visitors must not both load it: cached_property has no lock of its own
            if self._encoder is None:
                self._encoder = load_encoder(self.index.encoder.spec, self._settings)
            return Patchify(self.index, self._encoder)

    @property
    def levels(self) -> int:
        """Levels of the index's pyramid."""
        return self.index.regions.levels

    # Questions ------------------------------------------------------------------------------------------

    def example(self, query_id: int) -> Question:
        """A bundled query with its annotated box. Descriptors of examples are kept: they are everybody's.

        Raises:
            PatchifyError: if there is no such example.
        """
        if query_id not in self._described:
            query = next((q for q in self.gallery.queries if q.id == query_id), None)
            if query is None:
                raise PatchifyError("There is no such example: choose one of those shown.")
            self._described[query_id] = Question(
                name=self.gallery.name(query.instance),
                width=query.width,
                height=query.height,
                box=query.box,
                instance=query.instance,
                descriptor=self.engine.describe_query(query.path, query.box),
                path=query.path,
                example=query.id,
            )
        return self._described[query_id]

    def forget_examples(self) -> None:
        """Drops the kept descriptors of examples."""
        self._described.clear()

    def upload(self, data: bytes, name: str = "your picture") -> Question:
        """A visitor's picture, all of it; the object is unknown until they say.

        Raises:
            PictureError: one sentence, if it is not a picture that can be searched.
        """
        picture = read_picture(data)
        descriptor = self.engine.describe_query(picture)
        width, height = picture.size
        picture.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=85)
        return Question(name, width, height, None, None, descriptor, data=data, display=stream.getvalue())

    def from_result(self, image_id: int, box: NDArray[np.float64], instance: int | None) -> Question:
        """A gallery picture as the next query.

        Args:
            image_id: gallery image id.
            box: the part of it to search with.
            instance: the object asked for so far; kept if the picture is known to show it.
        """
        image = self.gallery.image(image_id)
        shows = instance is not None and image_id in self.gallery.positives(instance)
        descriptor = self.engine.describe_query(image.path, box)
        name, known = f"gallery picture {image_id}", instance if shows else None
        return Question(name, image.width, image.height, box, known, descriptor, path=image.path, itself=image_id)

    def with_box(self, question: Question, box: ArrayLike | None) -> Question:
        """The same picture with another box (xyxy in pixels, checked here); the whole picture if None.

        A box that has nothing in common with the one before it is round another object, so what that was is forgotten.

        Raises:
            BoxError: one sentence, if the box is empty or outside.
        """
        region = None if box is None else checked_box(box, question.width, question.height)
        descriptor = self.engine.describe_query(question.source, region)
        elsewhere = region is not None and question.box is not None and not iou(region, question.box).any()
        instance = None if elsewhere else question.instance
        return replace(question, box=region, descriptor=descriptor, example=None, instance=instance)

    def with_instance(self, question: Question, instance: int | None) -> Question:
        """The same query, said to be this object."""
        return replace(question, instance=instance)

    # Answers --------------------------------------------------------------------------------------------

    def answer(self, question: Question, level: int, top: int) -> Answer:
        """Searches, and scores the whole ranking if the object is known."""
        ranking = self.engine.search_descriptor(question.descriptor, top=None, level=level)
        shown = ranking[:top]
        results = tuple(self._result(question, rank, match) for rank, match in enumerate(shown, 1))
        score = baseline = ceiling = None
        if question.instance is not None:
            asked = self._as_query(question)
            score = score_matches(ranking, self.gallery, asked)
            whole = ranking if level == 1 else self.engine.search_descriptor(question.descriptor, top=None, level=1)
            baseline = score_matches(whole, self.gallery, asked)
            boxes = {i: b for i, b in self.gallery.positives(asked.instance, asked.exclude).items() if b is not None}
            ceiling = grid_ceiling(cell_boxes(self.engine, list(boxes), level), boxes) if boxes else None
        found = sum(result.verdict in (RIGHT, OFF) for result in results)
        return Answer(results, level, score, baseline, ceiling, len(self.gallery.images), found)

    def detail(self, question: Question, image_id: int, level: int, top: int) -> Detail:
        """The similarity of every cell of one shown result.

        Raises:
            PatchifyError: if that picture is not among the results any more.
        """
        shown = self.engine.search_descriptor(question.descriptor, top, level)
        for rank, match in enumerate(shown, 1):
            if match.image_id == image_id:
                explanation = self.engine.explain(question.descriptor, image_id, level)
                return Detail(self._result(question, rank, match), explanation, len(shown))
        raise PatchifyError("That picture is not among the results any more: choose one of those shown.")

    def _result(self, question: Question, rank: int, match: Match) -> Result:
        if match.image_id == question.itself:
            return Result(rank, match, ITSELF, None, np.zeros((0, 4)))
        if question.instance is None:
            return Result(rank, match, UNKNOWN, None, np.zeros((0, 4)))
        if match.image_id in self.gallery.ignored(question.instance):
            return Result(rank, match, IGNORED, None, np.zeros((0, 4)))
        if match.image_id not in self.gallery.positives(question.instance):
            return Result(rank, match, WRONG, None, np.zeros((0, 4)))
        annotated = self.gallery.boxes_of(match.image_id, question.instance)
        overlap = float(iou(match.box, annotated).max()) if len(annotated) else None
        verdict = RIGHT if overlap is not None and overlap >= RIGHT_IOU else OFF
        return Result(rank, match, verdict, overlap, annotated)

    def _as_query(self, question: Question) -> Query:
        """The question in the dataset's own terms; a gallery picture is left out of its own score."""
        assert question.instance is not None
        exclude: frozenset[int] = frozenset() if question.itself is None else frozenset({question.itself})
        if question.example is not None:
            exclude |= next(q.exclude for q in self.gallery.queries if q.id == question.example)
        return Query(
            id=question.example or 0,
            file_name=question.name,
            path=question.path or Path(),
            width=question.width,
            height=question.height,
            box=question.box,
            instance=question.instance,
            exclude=exclude,
        )
