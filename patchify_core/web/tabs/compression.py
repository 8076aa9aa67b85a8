"""The Compression tab: fewer bytes per patch, and their effect on a visitor's query and on large galleries."""

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
from patchify_core.web.events import sent, warn
from patchify_core.web.tabs.parts import QUIET, html
from patchify_core.web.views.compression import Effect
from patchify_core.web.visits import Visits, file_url

SHOWN = 10
"""Results before and after."""

FIRST_BYTES = 32
"""Bytes per patch at first, or the next size that there is: trained in a second or two."""

LOOK_S = 0.25
"""Seconds between two looks at whether a training has ended."""


@dataclass(frozen=True)
class ChosenCodec:
    """What a visitor chose: a codec and what it is trained on."""

    factory: str
    codebook: str


def build_compression_tab(visits: Visits, state: gr.State, tab: gr.Tab) -> None:
    """Makes the components of the tab; nothing is computed until it is first opened.

    Args:
        visits: what visitors can do.
        state: holds a visitor's `UserQuery`.
        tab: what is opened.
    """
    choice = gr.State(None)
    controls = html("", "pf-squeeze", "compression.js")
    training = html("", "pf-training", "training.js")
    effect = html("", "pf-effect")
    gallery = html("", "pf-scale")
    squeeze = Squeeze(visits.showcase, Parts(choice, controls, training, effect, gallery))
    everything = list(squeeze.parts)
    wait: dict[str, Any] = {"concurrency_id": "codecs", "concurrency_limit": compression.WAITING, **QUIET}
    tab.select(squeeze.open, [state, choice], everything, **wait)
    controls.chosen(squeeze.change, [state, choice], everything, **wait)
    training.cancel(squeeze.cancel, None, None, concurrency_id="cancel", concurrency_limit=2, **QUIET)


class Parts(NamedTuple):
    """The components of the tab, from the choice of size down."""

    choice: gr.State
    controls: gr.HTML
    training: gr.HTML
    effect: gr.HTML
    gallery: gr.HTML


Values = dict[Component | str, Any]
"""New values of the components that change; `gr.skip()` where none does."""


class Squeeze:
    """What visitors do on the tab.

    Args:
        showcase: the bundled gallery.
        parts: the components.
    """

    def __init__(self, showcase: ExampleGallery, parts: Parts) -> None:
        self._showcase, self.parts, self._codecs = showcase, parts, CodecTrainer()
        self._lock = threading.Lock()
        self._turns: dict[str, int] = {}
        self._turn = 0

    def open(self, query: UserQuery | None, choice: ChosenCodec | None, request: gr.Request) -> Iterator[Values]:
        """The tab was opened: the visitor's query, which may be a new one, at the size that they chose."""
        yield from self._show(self._asked(query), choice, request.session_hash, None, anew=True)

    def change(
        self, query: UserQuery | None, choice: ChosenCodec | None, event: gr.EventData, request: gr.Request
    ) -> Iterator[Values]:
        """Another size or codebook was chosen."""
        asked = self._asked(query)
        factory, codebook = sent(event, "factory"), sent(event, "codebook")
        known = [stop.factory for stop in compression.stops(self._index(asked))]
        if factory not in known or codebook not in CODEBOOKS:
            warn("The page sent no size or no codebook that there is: reload it.")
            yield gr.skip()
            return
        yield from self._show(asked, ChosenCodec(factory, codebook), request.session_hash, choice)

    def cancel(self, request: gr.Request) -> None:
        """The visitor does not want to wait. Who waits for them says so, as nobody else writes to their page."""
        session = request.session_hash or ""
        with self._lock:
            if session in self._turns:
                self._turns[session] = -abs(self._turns[session])

    def _cancelled(self, query: UserQuery, before: ChosenCodec | None, turn: int) -> Values:
        """What changes after that: the choice goes back to what is shown."""
        if before is None:
            return self._say("The training was cancelled: choose a size.")
        kept = self._fitting(query, before)
        return {
            **self._say(f"The training was cancelled. Below is still {self._size_words(query, kept)}."),
            self.parts.controls: self._controls(query, kept, -turn),
            self.parts.gallery: self._gallery(query, kept),
        }

    def _say(self, text: str, cancellable: bool = False) -> Values:
        return {self.parts.training: views.training(text, cancellable)}

    def _show(
        self,
        query: UserQuery,
        wanted: ChosenCodec | None,
        session: str | None,
        before: ChosenCodec | None,
        anew: bool = False,
    ) -> Iterator[Values]:
        """First what is known at once, then how the training goes, then the results."""
        turn = self._begin(session)
        choice = self._fitting(query, wanted)
        index = self._index(query)
        known: Values = {self.parts.gallery: self._gallery(query, choice)}
        yield known | ({self.parts.controls: self._controls(query, choice, turn)} if anew else {})
        try:
            training = self._codecs.request(query.index_name, index, choice.factory, choice.codebook)
        except PatchifyError as error:
            # The size stays chosen, so that its bytes can be read off; what cannot be had is its results.
            yield self._say(str(error)) | ({self.parts.effect: ""} if anew else {})
            return
        try:
            told = ""
            while not training.done.wait(LOOK_S) and self._is_last(session, turn):
                if told != (told := self._progress(training, index)):
                    yield self._say(told, True)
        finally:
            self._codecs.release(training)
        if not self._is_last(session, turn):
            if self._turns.get(session or "") == -turn:
                yield self._cancelled(query, before, turn)
            return
        if training.index is None:
            yield self._say(str(training.error))
            return
        yield {
            **self._say(f"Ready: {self._size_words(query, choice)}."),
            self.parts.choice: choice,
            self.parts.effect: self._effect(query, choice, training.index),
        }

    # Parts ----------------------------------------------------------------------------------------------

    def _asked(self, query: UserQuery | None) -> UserQuery:
        """The visitor's query, described for the gallery's own index unless another one was chosen.

        The one that a visit begins with may be coded already, and what codes cost is seen from whole descriptors.
        """
        shelf, asked = self._showcase.indexes, query or self._showcase.first()
        if own_token(asked.index_name) is not None:  # codecs are trained on the bundled descriptors
            asked = self._showcase.first()
        if asked.index_name == DEFAULT or asked.index_name != shelf.first or asked.words is not None:
            return asked
        return self._showcase.with_index(asked, DEFAULT)

    def _index(self, query: UserQuery) -> PatchIndex:
        return self._showcase.indexes.choice(query.index_name).index

    def _fitting(self, query: UserQuery, choice: ChosenCodec | None) -> ChosenCodec:
        """The choice, or where another encoder's index does not have it the one to begin with."""
        found = compression.stops(self._index(query))
        if choice is not None and choice.factory in [stop.factory for stop in found]:
            return choice
        first = next((stop for stop in found if stop.bytes_per_patch <= FIRST_BYTES), found[-1])
        return ChosenCodec(first.factory, CODEBOOKS[0])

    def _stop(self, query: UserQuery, choice: ChosenCodec) -> Stop:
        return next(stop for stop in compression.stops(self._index(query)) if stop.factory == choice.factory)

    def _size_words(self, query: UserQuery, choice: ChosenCodec) -> str:
        size = f"{self._stop(query, choice).bytes_per_patch:,} bytes per patch"
        return f"{size}, {choice.codebook} codebook" if compression.has_codebook(choice.factory) else size

    def _controls(self, query: UserQuery, choice: ChosenCodec, turn: int) -> str:
        index = self._index(query)
        found = compression.stops(index)
        return views.controls(found, choice.factory, CODEBOOKS, choice.codebook, index.dim, _kept_as(index), turn)

    def _progress(self, training: Training, index: PatchIndex) -> str:
        _, factory, codebook = training.key
        patches = len(index.images) * index.patches_per_image
        if not training.begun:
            return "Waiting until another codebook is trained …"
        count = compression.centroids(factory, index.dim)
        if count:
            return f"Training a codebook of {count} words on {patches:,} patches ({codebook}) …"
        return f"Learning {factory} from {patches:,} patches …"

    def _effect(self, query: UserQuery, choice: ChosenCodec, coded: PatchIndex) -> str:
        level = len(coded.regions.stages)
        before = self._showcase.answer(query, level, SHOWN)
        asked = replace(query)
        asked.rankings[(level, None)] = compression.ranking(query, coded)
        after = self._showcase.answer(asked, level, SHOWN)
        ranks = [
            {image: rank for rank, image in enumerate(one.rankings[(level, None)].image_ids.tolist(), 1)}
            for one in (query, asked)
        ]
        size = self._size_words(query, choice)
        return views.effect(
            Effect(query.name, size, _kept_as(self._index(query)), before, after, *ranks), self._picture, file_url
        )

    def _gallery(self, query: UserQuery, choice: ChosenCodec) -> str:
        index, studies = self._index(query), read_studies()
        stop, patches = self._stop(query, choice), index.patches_per_image
        exact = sizes(compression.EXACT, index.dim, patches, PICTURES)
        small = sizes(choice.factory, index.dim, patches, PICTURES)
        pairs = list(zip(exact, small, strict=True))
        return views.gallery(studies, self._dataset(studies), stop, choice.codebook, patches, pairs, file_url)

    def _dataset(self, studies: Studies) -> str:
        """Whose codebooks are drawn: the bundled gallery's if it is in the file."""
        own = self._showcase.folder.resolve().name
        study = studies.found.get("compression")
        names = list(study.datasets) if study else []
        return own if own in names or not names else names[0]

    def _picture(self, image_id: int) -> tuple[int, int, Any]:
        image = self._showcase.gallery.image(image_id)
        return image.width, image.height, image.path

    # Whose turn it is: a visitor's newer choice ends their older one -------------------------------------

    def _begin(self, session: str | None) -> int:
        with self._lock:
            self._turn += 1
            self._turns.pop(session or "", None)
            self._turns[session or ""] = self._turn
            while len(self._turns) > 1000:  # those who left; whoever is forgotten is taken for outdated
                self._turns.pop(next(iter(self._turns)))
            return self._turn

    def _is_last(self, session: str | None, turn: int) -> bool:
        with self._lock:
            return self._turns.get(session or "") == turn


def _kept_as(index: PatchIndex) -> str:
    return f"{index.factory}, {index.bytes_per_patch:,} bytes per patch ({method_label(index)})"
