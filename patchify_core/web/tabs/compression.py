"""The Compression tab: smaller codes, and their effect on a visitor's query and on large galleries."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gradio as gr
from gradio.components import Component

from patchify_core.demo import compression
from patchify_core.demo.compression import PICTURES, CodecTrainer, Stop, Training, sizes
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.indexes import DEFAULT, method_label
from patchify_core.demo.own.gallery import own_token
from patchify_core.demo.queries import UserQuery
from patchify_core.demo.studies import Studies, read_studies
from patchify_core.errors import PatchifyError
from patchify_core.index.codec.factory import CODEBOOKS
from patchify_core.index.patch_index import PatchIndex
from patchify_core.web import views
from patchify_core.web.events import event_value, warn
from patchify_core.web.tabs import QUIET, html
from patchify_core.web.views.compression import Effect
from patchify_core.web.visits import Visits, file_url

SHOWN = 10
"""Results shown before and after."""

FIRST_BYTES = 32
"""Initial bytes per patch, or the next smaller size: trained in a second or two."""

LOOK_S = 0.25
"""Seconds between two checks whether a training has ended."""


@dataclass(frozen=True)
class ChosenCodec:
    """A visitor's choice: a codec and what it is trained on."""

    factory: str
    codebook: str


def build_compression_tab(visits: Visits, state: gr.State, tab: gr.Tab) -> None:
    """Make the components of the tab; nothing is computed until it is first opened.

    Args:
        visits: The visitors' actions.
        state: Holds a visitor's `UserQuery`.
        tab: The tab.
    """
    choice = gr.State(None)
    controls = html("", "pf-squeeze", "compression.js")
    training = html("", "pf-training", "training.js")
    effect = html("", "pf-effect")
    gallery = html("", "pf-scale")
    actions = CompressionActions(visits.showcase, Parts(choice, controls, training, effect, gallery))
    everything = list(actions.parts)
    wait: dict[str, Any] = {"concurrency_id": "codecs", "concurrency_limit": compression.WAITING, **QUIET}
    tab.select(actions.open, [state, choice], everything, **wait)
    controls.chosen(actions.change, [state, choice], everything, **wait)
    training.cancel(actions.cancel, None, None, concurrency_id="cancel", concurrency_limit=2, **QUIET)


class Parts(NamedTuple):
    """The components of the tab, from top to bottom."""

    choice: gr.State
    controls: gr.HTML
    training: gr.HTML
    effect: gr.HTML
    gallery: gr.HTML


Values = dict[Component | str, Any]
"""Component -> new value, for those that change."""


class CompressionActions:
    """The visitors' actions on the tab.

    Args:
        showcase: The bundled gallery.
        parts: The components.
    """

    def __init__(self, showcase: ExampleGallery, parts: Parts) -> None:
        self._showcase, self.parts, self._codecs = showcase, parts, CodecTrainer()
        self._lock = threading.Lock()
        self._turns: dict[str, int] = {}
        self._turn = 0

    def open(self, query: UserQuery | None, choice: ChosenCodec | None, request: gr.Request) -> Iterator[Values]:
        """Show the visitor's query, which may be a new one, at their chosen size: the tab was opened."""
        yield from self._show(self._query(query), choice, request.session_hash, None, anew=True)

    def change(
        self, query: UserQuery | None, choice: ChosenCodec | None, event: gr.EventData, request: gr.Request
    ) -> Iterator[Values]:
        """Show another size or codebook."""
        query = self._query(query)
        factory, codebook = event_value(event, "factory"), event_value(event, "codebook")
        known = [stop.factory for stop in compression.stops(self._index(query))]
        if factory not in known or codebook not in CODEBOOKS:
            warn("The page sent an unknown size or codebook: reload it.")
            yield gr.skip()
            return
        yield from self._show(query, ChosenCodec(factory, codebook), request.session_hash, choice)

    def cancel(self, request: gr.Request) -> None:
        """Cancel the visitor's training; the generator that waits for it notices and updates the page."""
        session = request.session_hash or ""
        with self._lock:
            if session in self._turns:
                self._turns[session] = -abs(self._turns[session])

    def _cancelled(self, query: UserQuery, before: ChosenCodec | None, turn: int) -> Values:
        """Reset the choice to what is shown."""
        if before is None:
            return self._status("The training was cancelled: choose a size.")
        choice = self._fitting(query, before)
        return {
            **self._status(f"The training was cancelled. Still shown: {self._size_text(query, choice)}."),
            self.parts.controls: self._controls(query, choice, -turn),
            self.parts.gallery: self._gallery(query, choice),
        }

    def _status(self, text: str, cancellable: bool = False) -> Values:
        return {self.parts.training: views.training(text, cancellable)}

    def _show(
        self,
        query: UserQuery,
        wanted: ChosenCodec | None,
        session: str | None,
        before: ChosenCodec | None,
        anew: bool = False,
    ) -> Iterator[Values]:
        """Yield what is known at once, then the progress of the training, then the results."""
        turn = self._begin(session)
        choice = self._fitting(query, wanted)
        index = self._index(query)
        known: Values = {self.parts.gallery: self._gallery(query, choice)}
        yield known | ({self.parts.controls: self._controls(query, choice, turn)} if anew else {})
        try:
            training = self._codecs.request(query.index_name, index, choice.factory, choice.codebook)
        except PatchifyError as error:
            # The size stays chosen, so that its bytes can be read; only its results are missing.
            yield self._status(str(error)) | ({self.parts.effect: ""} if anew else {})
            return
        try:
            progress = ""
            while not training.done.wait(LOOK_S) and self._is_last(session, turn):
                if progress != (progress := self._progress(training, index)):
                    yield self._status(progress, True)
        finally:
            self._codecs.release(training)
        if not self._is_last(session, turn):
            if self._turns.get(session or "") == -turn:
                yield self._cancelled(query, before, turn)
            return
        if training.index is None:
            yield self._status(str(training.error))
            return
        yield {
            **self._status(f"Ready: {self._size_text(query, choice)}."),
            self.parts.choice: choice,
            self.parts.effect: self._effect(query, choice, training.index),
        }

    def _query(self, query: UserQuery | None) -> UserQuery:
        """Return the visitor's query, described for the default index unless the visitor chose another one.

        The initial index may be compressed already, but the cost of codes shows only against whole descriptors.
        """
        indexes, query = self._showcase.indexes, query or self._showcase.first()
        if own_token(query.index_name) is not None:  # codecs are trained on the bundled descriptors
            query = self._showcase.first()
        if query.index_name == DEFAULT or query.index_name != indexes.first or query.words is not None:
            return query
        return self._showcase.with_index(query, DEFAULT)

    def _index(self, query: UserQuery) -> PatchIndex:
        return self._showcase.indexes.choice(query.index_name).index

    def _fitting(self, query: UserQuery, choice: ChosenCodec | None) -> ChosenCodec:
        """Return the choice, or the initial one if the index has no such size."""
        stops = compression.stops(self._index(query))
        if choice is not None and choice.factory in [stop.factory for stop in stops]:
            return choice
        first = next((stop for stop in stops if stop.bytes_per_patch <= FIRST_BYTES), stops[-1])
        return ChosenCodec(first.factory, CODEBOOKS[0])

    def _stop(self, query: UserQuery, choice: ChosenCodec) -> Stop:
        return next(stop for stop in compression.stops(self._index(query)) if stop.factory == choice.factory)

    def _size_text(self, query: UserQuery, choice: ChosenCodec) -> str:
        size = f"{self._stop(query, choice).bytes_per_patch:,} bytes per patch"
        return f"{size}, {choice.codebook} codebook" if compression.has_codebook(choice.factory) else size

    def _controls(self, query: UserQuery, choice: ChosenCodec, turn: int) -> str:
        index = self._index(query)
        stops = compression.stops(index)
        return views.controls(stops, choice.factory, CODEBOOKS, choice.codebook, index.dim, _codec_text(index), turn)

    def _progress(self, training: Training, index: PatchIndex) -> str:
        _, factory, codebook = training.key
        patches = len(index.images) * index.patches_per_image
        if not training.begun:
            return "Waiting for another training to end …"
        count = compression.centroids(factory, index.dim)
        if count:
            return f"Training a codebook of {count} words on {patches:,} patches ({codebook}) …"
        return f"Learning {factory} from {patches:,} patches …"

    def _effect(self, query: UserQuery, choice: ChosenCodec, coded: PatchIndex) -> str:
        level = len(coded.regions.stages)
        before = self._showcase.answer(query, level, SHOWN)
        coded_query = replace(query)
        coded_query.rankings[(level, None)] = compression.ranking(query, coded)
        after = self._showcase.answer(coded_query, level, SHOWN)
        ranks = [
            {image: rank for rank, image in enumerate(one.rankings[(level, None)].image_ids.tolist(), 1)}
            for one in (query, coded_query)
        ]
        stored, size = _codec_text(self._index(query)), self._size_text(query, choice)
        shown = Effect(query.name, size, stored, before, after, *ranks)
        return views.effect(shown, self._picture, file_url)

    def _gallery(self, query: UserQuery, choice: ChosenCodec) -> str:
        index, studies = self._index(query), read_studies()
        stop, patches = self._stop(query, choice), index.patches_per_image
        exact = sizes(compression.EXACT, index.dim, patches, PICTURES)
        small = sizes(choice.factory, index.dim, patches, PICTURES)
        pairs = list(zip(exact, small, strict=True))
        return views.gallery(studies, self._dataset(studies), stop, choice.codebook, patches, pairs, file_url)

    def _dataset(self, studies: Studies) -> str:
        """Return the dataset whose codebooks are drawn: the bundled gallery if it is in the file."""
        own = self._showcase.folder.resolve().name
        study = studies.found.get("compression")
        names = list(study.datasets) if study else []
        return own if own in names or not names else names[0]

    def _picture(self, image_id: int) -> tuple[int, int, Any]:
        image = self._showcase.gallery.image(image_id)
        return image.width, image.height, image.path

    # A visitor's newer choice ends their older one -------------------------------------------------------

    def _begin(self, session: str | None) -> int:
        with self._lock:
            self._turn += 1
            self._turns.pop(session or "", None)
            self._turns[session or ""] = self._turn
            while len(self._turns) > 1000:  # of visitors who left
                self._turns.pop(next(iter(self._turns)))
            return self._turn

    def _is_last(self, session: str | None, turn: int) -> bool:
        with self._lock:
            return self._turns.get(session or "") == turn


def _codec_text(index: PatchIndex) -> str:
    return f"{index.factory}, {index.bytes_per_patch:,} bytes per patch ({method_label(index)})"
