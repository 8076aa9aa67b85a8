"""The API for programs: the same searches as the command line, with the same answers.

Each public method of `Endpoints` is an endpoint of Gradio's API (`gradio_client`, HTTP) and, if the server runs with
--mcp, a tool. Both show its docstring, so every argument has one line there.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import gradio as gr
from gradio import FileData

from patchify_core.demo import box_methods
from patchify_core.demo.decoding import decode
from patchify_core.demo.indexes import public_spec
from patchify_core.demo.queries import checked_words
from patchify_core.errors import PatchifyError
from patchify_core.evaluation.record import as_json
from patchify_core.evaluation.run import LevelReport, Outcome, chosen_levels, evaluate
from patchify_core.gallery import Query
from patchify_core.patchify import Patchify
from patchify_core.retrieval.listing import explanation_as_json, matches_as_json
from patchify_core.retrieval.rerank import Reranker, load_reranker
from patchify_core.retrieval.searcher import QueryView
from patchify_core.web import inputs
from patchify_core.web.events import refusal
from patchify_core.web.fair_queue import EVALUATION, PROGRAMS, still_wanted
from patchify_core.web.paths import without_folders
from patchify_core.web.visits import Visits

Refine = Literal["soft", "map"] | None
Picture = FileData | str
Rows = list[dict[str, Any]]
"""As `search --json` prints them, with paths relative to the gallery."""

TOO_SLOW = ("aliked",)
"""Re-rankers that take half a minute per search, while other callers would wait."""

QUICK = ("qe", "patch-qe", "map")
"""Re-rankers fast enough to evaluate a whole gallery while the caller waits."""

EVALUATION_LIMIT_S = 600.0
"""Seconds after which an evaluation is stopped; finished queries are kept for the next call."""


def add_api(visits: Visits) -> None:
    """Add the endpoints to the page that is being built. Searches have a queue of their own, as have evaluations.

    Args:
        visits: Of the bundled gallery.
    """
    endpoints = Endpoints(visits)
    queues: dict[Callable[..., Any], str] = {
        endpoints.search_by_picture: PROGRAMS,
        endpoints.search_by_example: PROGRAMS,
        endpoints.search_by_words: PROGRAMS,
        endpoints.explain_match: PROGRAMS,
        endpoints.list_gallery: PROGRAMS,
        endpoints.evaluate_index: EVALUATION,
    }
    for fn, queue in queues.items():
        gr.api(_with_refusals(fn), api_name=fn.__name__, concurrency_id=queue, concurrency_limit=1)


def _with_refusals(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Have the function's refusals reach the caller as they are, without a traceback in the log."""

    @functools.wraps(fn)
    def run(*arguments: Any, **named: Any) -> Any:
        try:
            return fn(*arguments, **named)
        except PatchifyError as error:
            raise refusal(without_folders(str(error))) from None

    run.__signature__ = inspect.signature(fn, eval_str=True)  # type: ignore[attr-defined]  # Gradio reads types, not text
    return run


class Endpoints:
    """The endpoints of one page.

    Args:
        visits: Of the bundled gallery.
    """

    def __init__(self, visits: Visits) -> None:
        self._showcase, self._upload_mb = visits.showcase, visits.settings.upload_mb
        self._rerankers: dict[str, Reranker] = {}
        self._reports: dict[tuple[str, int, str | None, str | None], LevelReport] = {}
        self._finished: dict[tuple[str, tuple[int, ...], str | None, str | None], dict[int, Mapping[int, Outcome]]] = {}

    def search_by_picture(
        self,
        picture: Picture,
        box: list[float] | None = None,
        top: int = 10,
        level: int | None = None,
        index: str | None = None,
        refine: Refine = None,
        rerank: str | None = None,
    ) -> Rows:
        """Find the gallery pictures that contain the object of a query picture, and where in them it is.

        Args:
            picture: The query picture, uploaded (gradio_client: handle_file) or as a data:image/...;base64,... address.
            box: The object in it as x1, y1, x2, y2 in pixels of the upright picture; leave out for the whole picture.
            top: How many pictures to return.
            level: The finest grid to use, 1 = whole pictures (the global baseline); leave out for all of the index's.
            index: Which index to search, a name from list_gallery; leave out for the page's default.
            refine: Better boxes than the winning patches: soft, or map where the index has feature maps.
            rerank: Re-rank the best matches: qe, patch-qe, map, sift, xfeat, or two with a plus between them.

        Returns:
            A list, best first: rank, image_id, file, score (cosine), box (x1, y1, x2, y2 in pixels), winning patch,
            and where it is known the probability that the picture contains the object
        """
        data = inputs.picture_bytes(picture, self._upload_mb)
        engine, answer = self._searcher(top, level, index, refine, rerank)
        region = inputs.box_of(box)
        return decode(data, lambda picture: answer(engine.view(picture, region)))

    def search_by_example(
        self,
        example: int,
        box: list[float] | None = None,
        top: int = 10,
        level: int | None = None,
        index: str | None = None,
        refine: Refine = None,
        rerank: str | None = None,
    ) -> Rows:
        """Find the gallery pictures that contain the object of a bundled query picture, and where in them it is.

        Args:
            example: The number of a bundled query picture, from list_gallery.
            box: Another object in it as x1, y1, x2, y2 in pixels; leave out for the annotated one.
            top: How many pictures to return.
            level: The finest grid to use, 1 = whole pictures (the global baseline); leave out for all of the index's.
            index: Which index to search, a name from list_gallery; leave out for the page's default.
            refine: Better boxes than the winning patches: soft, or map where the index has feature maps.
            rerank: Re-rank the best matches: qe, patch-qe, map, sift, xfeat, or two with a plus between them.

        Returns:
            A list, best first: rank, image_id, file, score (cosine), box (x1, y1, x2, y2 in pixels), winning patch,
            and where it is known the probability that the picture contains the object
        """
        query = self._example(example)
        engine, answer = self._searcher(top, level, index, refine, rerank)
        return answer(engine.view(query.path, query.box if box is None else inputs.box_of(box)))

    def search_by_words(
        self,
        words: str,
        top: int = 10,
        level: int | None = None,
        index: str | None = None,
        refine: Refine = None,
        rerank: str | None = None,
    ) -> Rows:
        """Find the gallery pictures that words describe, and where in them; needs an index made with open_clip.

        Args:
            words: What to look for, for example: a red kettle.
            top: How many pictures to return.
            level: The finest grid to use, 1 = whole pictures (the global baseline); leave out for all of the index's.
            index: Which index to search, a name from list_gallery whose entry says words: true.
            refine: Better boxes than the winning patches: soft, or map where the index has feature maps.
            rerank: Re-rank the best matches: qe, patch-qe or map.

        Returns:
            A list, best first: rank, image_id, file, score (cosine), box (x1, y1, x2, y2 in pixels), winning patch
        """
        text = checked_words(words)
        engine, answer = self._searcher(top, level, index, refine, rerank)
        return answer(engine.view(text=text))

    def explain_match(
        self,
        image_id: int,
        example: int | None = None,
        picture: Picture | None = None,
        words: str | None = None,
        box: list[float] | None = None,
        level: int | None = None,
        index: str | None = None,
    ) -> dict[str, Any]:
        """Explain the score of one gallery picture: how similar each of its patches is to the query.

        Args:
            image_id: The gallery picture, as a search names it.
            example: The query: the number of a bundled query picture from list_gallery. Give this, picture or words.
            picture: The query: a picture, uploaded or as a data:image/...;base64,... address.
            words: The query: the words of the search, with an index made with open_clip.
            box: The object in the query picture as x1, y1, x2, y2 in pixels; leave out as in a search.
            level: The finest grid to use; leave out for all of the index's.
            index: Which index to search, a name from list_gallery; leave out for the page's default.

        Returns:
            The winning patch with its score and box, and under patches the score (cosine) and box of every patch
        """
        data = None if picture is None else inputs.picture_bytes(picture, self._upload_mb)
        if [example, data, words].count(None) != 2:
            raise PatchifyError("Give one of example, picture and words, and only one: that is the query.")
        engine = self._engine(index)
        number = inputs.integer("image_id", image_id)
        if number not in engine.index.row_of:
            raise PatchifyError(f"The gallery has no picture {number}: take an image_id that a search returned.")
        finest = None if level is None else inputs.integer("level", level)
        engine.index.checked_level(finest)
        if words is not None:
            if box is not None:
                raise PatchifyError("A box belongs to a query picture: leave it out when you search with words.")
            query = engine.describe_text(checked_words(words))
        elif data is not None:
            query = decode(data, lambda picture: engine.describe_query(picture, inputs.box_of(box)))
        else:
            bundled = self._example(example)
            query = engine.describe_query(bundled.path, bundled.box if box is None else inputs.box_of(box))
        name = engine.index.images[engine.index.row_of[number]].file_name
        return explanation_as_json(engine, engine.explain(query, number, finest)) | {"file": name}

    def list_gallery(self) -> dict[str, Any]:
        """List what can be searched: the indexes, the bundled query pictures with their objects, and the limits.

        Returns:
            indexes (name, encoder, regions, levels, words ...), examples (id, name, box ...), pictures and limits
        """
        indexes, gallery = self._showcase.indexes, self._showcase.gallery
        return {
            "pictures": len(gallery.images),
            "indexes": [
                {
                    "name": name,
                    "label": choice.label,
                    "encoder": public_spec(choice.index.encoder),
                    "features": choice.index.features,
                    "regions": choice.index.regions.spec,
                    "levels": len(choice.index.regions.stages),
                    "patches": choice.index.patches_per_image,
                    "dimensions": choice.index.dim,
                    "words": choice.index.encoder.spec.startswith("open_clip:"),
                    "refine": [way for way in ("soft", "map") if box_methods.is_possible(way, choice.index)],
                }
                for name, choice in indexes.choices.items()
            ],
            "rerankers": [name for name in inputs.rerankers() if name not in TOO_SLOW],
            "examples": [
                {
                    "id": query.id,
                    "name": gallery.name(query.instance),
                    "file": query.file_name,
                    "width": query.width,
                    "height": query.height,
                    "box": None if query.box is None else query.box.tolist(),
                }
                for query in self._showcase.examples
            ],
            "objects": sorted(gallery.instances.values()),
            "limits": {"top": inputs.MOST, "upload_mb": self._upload_mb},
        }

    def evaluate_index(
        self,
        index: str | None = None,
        levels: list[int] | None = None,
        refine: Refine = None,
        rerank: str | None = None,
        details: bool = False,
    ) -> dict[str, Any]:
        """Score an index over all bundled queries: mAP, LocScore, mean IoU and recall. Takes seconds to a minute.

        Args:
            index: Which index to score, a name from list_gallery; leave out for the page's default.
            levels: Which levels to score, such as [1, 4]: whole pictures against the 4x4 pyramid; leave out for all.
            refine: Score these boxes instead of the winning patches: soft, or map where the index has feature maps.
            rerank: Re-rank the best matches first: qe, patch-qe or map.
            details: Whether to add the scores by object, by its size and by how much of it is visible.

        Returns:
            The numbers of the finest level (map, locscore, mean_iou, recall@1 ...), and under levels those of each
        """
        name = self._index_name(index)
        engine = self._engine(name)
        chosen = chosen_levels(inputs.levels_of(levels), engine)
        refiner = inputs.refiner_of(refine)
        reranker = self._reranker(rerank, QUICK)
        key = reranker.name if reranker else None
        start, progress = time.monotonic(), gr.Progress()
        missing = [level for level in chosen if (name, level, refiner, key) not in self._reports]
        finished = self._finished.setdefault((name, tuple(missing), refiner, key), {})

        def report_progress(done: int, of: int) -> None:
            if not still_wanted():
                raise PatchifyError("The caller has left, so the evaluation was stopped.")
            if time.monotonic() - start > EVALUATION_LIMIT_S:
                raise PatchifyError(
                    f"The evaluation was stopped after {EVALUATION_LIMIT_S:.0f} s and {done} of {of} queries: call "
                    "it again to continue, or with fewer levels."
                )
            progress((done, of), unit="queries")

        if missing:
            gallery = self._showcase.gallery
            done = evaluate(
                gallery,
                engine,
                missing,
                None,
                report_progress,
                reranker=reranker,
                refiner=engine.refiner(refiner) if refiner else None,
                finished=dict(finished),
                record=finished.__setitem__,
            )
            self._reports |= {(name, report.level, refiner, key): report for report in done}
            finished.clear()
        numbers = as_json(
            [self._reports[name, level, refiner, key] for level in chosen], engine.index.bytes_per_image, None
        )
        if inputs.boolean("details", details):
            return numbers
        return numbers | {"levels": [_without(level, "breakdown") for level in numbers["levels"]]}

    def _searcher(
        self, top: Any, level: Any, index: Any, refine: Any, rerank: Any
    ) -> tuple[Patchify, Callable[[QueryView], Rows]]:
        """Return the engine and a function that searches it with these options.

        Raises:
            PatchifyError: One sentence, if an option is invalid.
        """
        finest = None if level is None else inputs.integer("level", level)
        options: dict[str, Any] = {
            "top": inputs.integer("top", top, 1, inputs.MOST),
            "level": finest,
            "refine": inputs.refiner_of(refine),
            "rerank": self._reranker(rerank),
        }
        engine = self._engine(index)
        engine.index.checked_level(finest)
        calibration = (
            None if finest or options["rerank"] else self._showcase.indexes.calibration(self._index_name(index))
        )

        def answer(query: QueryView) -> Rows:
            matches = engine.search_view(query, **options)
            known = None
            if calibration is not None and query.picture is not None:
                known = calibration.presence_of(engine, query.descriptor, matches)
            rows = matches_as_json(engine, matches, known)
            return [row | {"file": match.file_name} for row, match in zip(rows, matches, strict=True)]

        return engine, answer

    def _index_name(self, index: Any) -> str:
        name = self._showcase.indexes.first if index is None else index
        if not isinstance(name, str) or name not in self._showcase.indexes.choices:
            names = ", ".join(self._showcase.indexes.choices)
            raise PatchifyError(f"There is no index {inputs.short(name)}: choose one of {names}.")
        return name

    def _engine(self, index: Any) -> Patchify:
        return self._showcase.indexes.engine(self._index_name(index))

    def _example(self, example: Any) -> Query:
        number = inputs.integer("example", example)
        query = next((query for query in self._showcase.examples if query.id == number), None)
        if query is None:
            raise PatchifyError(f"There is no example {number}: take an id that list_gallery names.")
        return query

    def _reranker(self, name: Any, allowed: Sequence[str] | None = None) -> Reranker | None:
        """Return a re-ranker by its name, loaded once for all callers."""
        if name is None:
            return None
        if not isinstance(name, str) or len(name) > 60:
            raise PatchifyError(f"There is no re-ranker {inputs.short(name)}: take one that list_gallery names.")
        parts = [part.strip() for part in name.split("+")]
        if slow := [part for part in parts if part in TOO_SLOW]:
            raise PatchifyError(f"{slow[0]} takes half a minute a search: use the command line for it.")
        if allowed is not None and (others := [part for part in parts if part not in allowed]):
            raise PatchifyError(
                f"{inputs.short(others[0])} cannot be evaluated here: take {', '.join(allowed)} or none."
            )
        if len(set(parts)) < len(parts):
            raise PatchifyError(f"{inputs.short(name)} names a re-ranker twice: name each once.")
        key = "+".join(parts)
        if key not in self._rerankers:
            self._rerankers[key] = load_reranker(key)
        return self._rerankers[key]


def _without(numbers: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if name != key}
