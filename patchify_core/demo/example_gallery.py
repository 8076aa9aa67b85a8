"""What the page can be asked, and its answers.

Nothing here knows Gradio. A `ExampleGallery` is shared by all visitors and holds only what is the same for all of them
(the bundled gallery and its indexes); what a visitor brings is in their own `UserQuery`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from patchify_core.demo.box_methods import OBJECTS, WINNING, best_method, similarity, with_boxes
from patchify_core.demo.indexes import is_paper_method
from patchify_core.demo.queries import UserQueries, UserQuery
from patchify_core.demo.reranking import Rerankers
from patchify_core.demo.results import MATCHES, Answer, Detail, Judge, Result
from patchify_core.encoders import Encoder, EncoderSettings
from patchify_core.errors import PatchifyError
from patchify_core.evaluation.metrics import QueryScore
from patchify_core.retrieval.presence import BACKGROUND, Presence
from patchify_core.retrieval.ranking import Match, Ranking

PREPARED = 10
"""Results of each example whose boxes are found before anybody asks: those that a page shows at first."""

WHOLE_UP_TO, RANKED = 10_000, 1_000
"""Pictures up to which all are ranked, and how many are in larger galleries: scores are then those at 1,000, as ILIAS
has them (Kordopatis-Zilos et al., CVPR 2025)."""

PIECE = 4
"""Pictures whose boxes are found, for the score of an example, between two looks at whether somebody is waiting."""


class ExampleGallery(UserQueries):
    """Answers the queries of all visitors; see `UserQueries` for the arguments.

    Attributes:
        prepared: ids of the examples whose answers are ready.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Encoder | None = None,
        settings: EncoderSettings | None = None,
        beside: ExampleGallery | None = None,
    ) -> None:
        super().__init__(folder, encoder, settings, beside)
        self.rerankers: Rerankers = Rerankers() if beside is None else beside.rerankers
        self.judge = Judge(self.gallery)
        self.prepared: set[int] = set()

    def answer(
        self, question: UserQuery, level: int, top: int, reranker: str | None = None, way: str = WINNING
    ) -> Answer:
        """Searches, re-ranks if wanted, finds the boxes wanted, and scores the whole ranking if the object is known.

        Args:
            question: what is asked.
            level: number of the stage to search with.
            top: results that are shown.
            reranker: name of a re-ranker, or None.
            way: how boxes are found (`locating`).

        Raises:
            PatchifyError: one sentence, if the query cannot be re-ranked in this way, or the index has no maps to
                search boxes on.
            IndexFolderError: if a map is damaged or was taken away.
        """
        engine = self.indexes.engine(question.engine)
        stages = engine.index.regions.stages
        ranking = self.ranking(question, level, reranker)
        shown = with_boxes(question, engine, ranking[:top], way, level, OBJECTS)
        results = tuple(self.result(question, rank, match) for rank, match in enumerate(shown, 1))
        score = winning = plain = baseline = ceiling = None
        before = ranking if reranker is None else self.ranking(question, level)
        if question.instance is not None:

            def refine(matches: list[Match]) -> list[Match]:
                return with_boxes(question, engine, matches, way, level)

            score = self.judge.score(question, ranking, refine)
            if way != WINNING:
                winning = self.judge.score(question, ranking)
            if reranker is not None:
                plain = self.judge.score(question, before, refine)
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
            found=sum(result.verdict in MATCHES for result in results),
            ranked=len(ranking) if len(ranking) < len(self.gallery.images) else 0,
            paper=is_paper_method(engine.index),
            unmoved=reranker is not None and np.array_equal(ranking.image_ids, before.image_ids),
            presence=self.presence(question, ranking, top) if reranker is None and level == len(stages) else None,
            calibrated=len(ranking) >= BACKGROUND.stop and self.indexes.calibration(question.engine) is not None,
        )

    def presence(self, question: UserQuery, ranking: Ranking, top: int) -> Presence | None:
        """How likely the first results contain the object, the query's own picture apart; None where that is unknown.

        Args:
            question: what is asked.
            ranking: at the last level, not re-ranked.
            top: results that are shown.
        """
        calibration = None if question.words is not None else self.indexes.calibration(question.engine)
        if calibration is None:
            return None
        others = ranking.image_ids != question.itself
        return calibration.presence(ranking.scores[:top][others[:top]], ranking.scores[others])

    def ranking(self, question: UserQuery, level: int, reranker: str | None = None) -> Ranking:
        """All pictures, best first; of a gallery of more than `WHOLE_UP_TO` the first `RANKED`.

        It is kept with the query, because each part of the page needs it.
        """
        key = level, reranker
        if key not in question.rankings:
            engine = self.indexes.engine(question.engine)
            if reranker is None:
                top = RANKED if len(self.gallery.images) > WHOLE_UP_TO else None
                question.rankings[key] = engine.ranking(question.descriptor, level, top)
            else:
                plain, exclude = self.ranking(question, level), self.judge.left_out(question)
                question.rankings[key] = self.rerankers.rerank(reranker, engine, question, plain, level, exclude)
        return question.rankings[key]

    def detail(
        self,
        question: UserQuery,
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
        engine = self.indexes.engine(question.engine)
        shown = with_boxes(question, engine, self.ranking(question, level, reranker)[:top], way, level, OBJECTS)
        for rank, match in enumerate(shown, 1):
            if match.image_id == image_id:
                explanation = engine.explain(question.descriptor, image_id, level)
                stages = engine.index.regions.stages[:level]
                places = similarity(question, engine, image_id) if with_map else None
                return Detail(self.result(question, rank, match), explanation, stages, len(shown), way, places)
        raise PatchifyError("That picture is no longer among the results: choose one of those shown.")

    def prepare(self, examples: int | None = None, workers: int = 1, stop: Callable[[], bool] = lambda: False) -> None:
        """Answers examples as a page that was just opened asks them; descriptors, rankings and boxes are kept.

        Args:
            examples: how many; all of them by default.
            workers: pictures that are searched at once.
            stop: asked again and again whether to give up; it may take its time, so that others come first.

        Raises:
            IndexFolderError: if a map is damaged or was taken away.
        """
        engine, level = self.engine, self.levels
        way = best_method(engine.index)
        for query in self.examples[:examples]:
            if stop():
                return
            question = self.example(query.id)
            ranking = self.ranking(question, level)
            with_boxes(question, engine, ranking[:PREPARED], way, level, OBJECTS, workers)

            def boxed(matches: list[Match], question: UserQuery = question) -> list[Match]:
                found: list[Match] = []
                for start in range(0, len(matches), PIECE):
                    stop()  # giving up in the middle of a score is not worth a way out of it
                    found += with_boxes(question, engine, matches[start : start + PIECE], way, level, workers=workers)
                return found

            self.judge.score(question, ranking, boxed)
            self.prepared.add(query.id)

    def positives(
        self, question: UserQuery, score: QueryScore, level: int, reranker: str | None = None, way: str = WINNING
    ) -> tuple[Result, ...]:
        """The pictures found that contain the object, each with its rank among the pictures that count.

        Args:
            question: what is asked; its object must be known.
            score: of its ranking (`answer`).
            level: see `answer`.
            reranker: see `answer`.
            way: see `answer`.

        Raises:
            PatchifyError: see `answer`.
            IndexFolderError: see `answer`.
        """
        ranking = self.ranking(question, level, reranker)
        places = self.judge.counted(question, ranking)[score.ranks - 1].tolist()
        matches = with_boxes(question, self.indexes.engine(question.engine), [ranking[at] for at in places], way, level)
        return tuple(
            self.result(question, rank, match) for rank, match in zip(score.ranks.tolist(), matches, strict=True)
        )

    def result(self, question: UserQuery, rank: int, match: Match) -> Result:
        """One match with its verdict; `rank` is the caller's."""
        index = self.indexes.choice(question.engine).index
        return self.judge.result(question, rank, match, index.box_of(index.row_of[match.image_id], match.patch))
