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
        self, query: UserQuery, level: int, top: int, reranker: str | None = None, box_method: str = WINNING
    ) -> Answer:
        """Searches, re-ranks if wanted, finds the boxes wanted, and scores the whole ranking if the object is known.

        Args:
            query: what is asked.
            level: number of the stage to search with.
            top: results that are shown.
            reranker: name of a re-ranker, or None.
            box_method: how boxes are found (`box_methods`).

        Raises:
            PatchifyError: one sentence, if the query cannot be re-ranked in this way, or the index has no maps to
                search boxes on.
            IndexFolderError: if a map is damaged or was taken away.
        """
        engine = self.indexes.engine(query.index_name)
        stages = engine.index.regions.stages
        ranking = self.ranking(query, level, reranker)
        shown = with_boxes(query, engine, ranking[:top], box_method, level, OBJECTS)
        results = tuple(self.result(query, rank, match) for rank, match in enumerate(shown, 1))
        score = winning = plain = baseline = ceiling = None
        before = ranking if reranker is None else self.ranking(query, level)
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
            results,
            stages,
            level,
            reranker,
            box_method,
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
            presence=self.presence(query, ranking, top) if reranker is None and level == len(stages) else None,
            calibrated=len(ranking) >= BACKGROUND.stop and self.indexes.calibration(query.index_name) is not None,
        )

    def presence(self, query: UserQuery, ranking: Ranking, top: int) -> Presence | None:
        """How likely the first results contain the object, the query's own picture apart; None where that is unknown.

        Args:
            query: what is asked.
            ranking: at the last level, not re-ranked.
            top: results that are shown.
        """
        calibration = None if query.words is not None else self.indexes.calibration(query.index_name)
        if calibration is None:
            return None
        others = ranking.image_ids != query.itself
        return calibration.presence(ranking.scores[:top][others[:top]], ranking.scores[others])

    def ranking(self, query: UserQuery, level: int, reranker: str | None = None) -> Ranking:
        """All pictures, best first; of a gallery of more than `WHOLE_UP_TO` the first `RANKED`.

        It is kept with the query, because each part of the page needs it.
        """
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
        """The similarity of every patch of one shown result, and of every place where the index has maps.

        Args:
            query: what is asked.
            image_id: the picture.
            level: see `answer`.
            top: see `answer`.
            reranker: see `answer`.
            box_method: see `answer`.
            with_map: whether the similarity of every place is wanted.

        Raises:
            PatchifyError: if that picture is not among the results any more.
            IndexFolderError: if its map is damaged or was taken away.
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
        """Answers examples as a page that was just opened asks them; descriptors, rankings and boxes are kept.

        Args:
            examples: how many; all of them by default.
            workers: pictures that are searched at once.
            stop: asked again and again whether to give up; it may take its time, so that others come first.

        Raises:
            IndexFolderError: if a map is damaged or was taken away.
        """
        engine, level = self.engine, self.levels
        box_method = best_method(engine.index)
        for example in self.examples[:examples]:
            if stop():
                return
            query = self.example(example.id)
            ranking = self.ranking(query, level)
            with_boxes(query, engine, ranking[:PREPARED], box_method, level, OBJECTS, workers)

            def boxed(matches: list[Match], query: UserQuery = query) -> list[Match]:
                found: list[Match] = []
                for start in range(0, len(matches), PIECE):
                    stop()  # giving up in the middle of a score is not worth a way out of it
                    found += with_boxes(
                        query, engine, matches[start : start + PIECE], box_method, level, workers=workers
                    )
                return found

            self.judge.score(query, ranking, boxed)
            self.prepared.add(example.id)

    def positives(
        self, query: UserQuery, score: QueryScore, level: int, reranker: str | None = None, box_method: str = WINNING
    ) -> tuple[Result, ...]:
        """The pictures found that contain the object, each with its rank among the pictures that count.

        Args:
            query: what is asked; its object must be known.
            score: of its ranking (`answer`).
            level: see `answer`.
            reranker: see `answer`.
            box_method: see `answer`.

        Raises:
            PatchifyError: see `answer`.
            IndexFolderError: see `answer`.
        """
        ranking = self.ranking(query, level, reranker)
        places = self.judge.counted(query, ranking)[score.ranks - 1].tolist()
        matches = with_boxes(
            query, self.indexes.engine(query.index_name), [ranking[at] for at in places], box_method, level
        )
        return tuple(self.result(query, rank, match) for rank, match in zip(score.ranks.tolist(), matches, strict=True))

    def result(self, query: UserQuery, rank: int, match: Match) -> Result:
        """One match with its verdict; `rank` is the caller's."""
        index = self.indexes.choice(query.index_name).index
        return self.judge.result(query, rank, match, index.box_of(index.row_of[match.image_id], match.patch))
