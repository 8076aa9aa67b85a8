"""The visitors' actions on the search tab: each takes the query with its options, and returns what the page shows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from patchify_core.demo import box_methods, decoding, stages
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.own.collection import natural
from patchify_core.demo.own.gallery import OwnGallery, own_index_choice, own_picture_url, pictures_gone
from patchify_core.demo.queries import OWN, UserQuery
from patchify_core.demo.reranking import NAMES
from patchify_core.demo.results import Answer
from patchify_core.demo.settings import PageSettings
from patchify_core.demo.storage import StoredPicture, VisitorStorage
from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.gallery import Gallery
from patchify_core.index.patch_index import PatchIndex
from patchify_core.web import views
from patchify_core.web.events import NO_RERANKING, SearchRequest, event_picture, event_value, warn
from patchify_core.web.paths import address_of
from patchify_core.web.uploads import take_upload

if TYPE_CHECKING:
    from patchify_core.demo.own.registry import Registry
    from patchify_core.regions import Stage

OWN_ID = 1_000_000_000
"""Offset of the ids of a visitor's own pictures, which distinguishes them from those of examples."""

OWN_SHOWN = 60
"""Number of a visitor's own pictures shown as examples."""

UNKNOWN_OBJECT = "I don't know (no score)"

Parts = dict[str, Any]
"""Name of a part of the page, as in `tabs.search` -> its new value; parts that are missing do not change."""


def file_url(path: Path) -> str:
    """Return the address of a picture on this server; that of a visitor's own picture contains their token."""
    return own_picture_url(path) or address_of(path)


class Visits:
    """The actions on one bundled gallery and the visitors' own pictures.

    Args:
        showcase: The bundled gallery.
        settings: See `PageSettings`.
        own: visitors' own pictures; None if the page takes none.
    """

    def __init__(
        self, showcase: ExampleGallery, settings: PageSettings | None = None, own: Registry | None = None
    ) -> None:
        self.showcase, self.settings, self.own = showcase, settings or PageSettings(), own
        self.storage = VisitorStorage(self.settings) if own is None else own.storage
        gallery = showcase.gallery
        self.examples = [(query.id, gallery.name(query.instance), query.path) for query in showcase.examples]
        self.objects = _by_name(gallery)
        self._turns = itertools.count(1)

    def at(self, query: UserQuery | None) -> ExampleGallery:
        """Return the gallery that a query searches; None is the query of a page just opened.

        Raises:
            PatchifyError: If it searches a visitor's own pictures, and they no longer exist.
        """
        return self.showcase if query is None else self.at_index(query.index_name)

    def at_index(self, engine: str) -> ExampleGallery:
        """Return the gallery with the index of this name; see `at`."""
        own = self.own.gallery_of(engine) if self.own is not None and isinstance(engine, str) else None
        return own or self.showcase

    def renewed(self, query: UserQuery) -> UserQuery:
        """Bring a query up to date: more of a visitor's own pictures may be indexed than before."""
        if isinstance(query.data, StoredPicture):
            query.data.touch()
        place = self.at(query)
        return place.adopt(query) if isinstance(place, OwnGallery) else query

    # Rendering ------------------------------------------------------------------------------------------

    def first_view(self) -> tuple[UserQuery, Answer]:
        """Search the first example with all patches and the best available boxes."""
        query = self.showcase.first()
        box_method = box_methods.best_method(self.showcase.index)
        return query, self.answer(SearchRequest(query, self.showcase.levels, self.settings.results, None, box_method))

    def answer(self, request: SearchRequest) -> Answer:
        """Search.

        A level or a kind of box that the index does not have, because the visitor came from another one, means its
        best. If a feature map is damaged, a notice says so and boxes are soft.
        """
        place = self.at(request.query)
        level = min(request.level, place.levels_of(request.query.index_name))
        box_method = self.box_method(request)
        try:
            return place.answer(request.query, level, request.top, request.reranker, box_method)
        except IndexFolderError as error:
            if box_method != box_methods.MAP:
                raise
            warn(str(error))
            return place.answer(request.query, level, request.top, request.reranker, box_methods.SOFT)

    def box_method(self, request: SearchRequest) -> str:
        """Return the method of finding boxes: the chosen one, or the best that the index allows."""
        index = self.index_of(request)
        chosen = request.box_method
        return chosen if box_methods.is_possible(chosen, index) else box_methods.best_method(index)

    def shown(self, query: UserQuery, request: SearchRequest) -> Parts:
        """Search a new query with the level and options of the last one."""
        answer = self.answer(replace(request, query=query))
        changed = request.expired or query.index_name != request.query.index_name
        return {
            "question": query,
            "query": views.query(query, file_url),
            "examples": self.thumbnails(query),
            "object": self.object_choice(request.query, query, self.object_name(query)),
            "detail": "",
            "started": True,
            **(self.engine_parts(query.index_name, answer.level, request.query.index_name) if changed else {}),
            **self.results(answer, query),
            **({"box": answer.box_method} if changed or answer.box_method != request.box_method else {}),
        }

    def results(self, answer: Answer, query: UserQuery) -> Parts:
        """Render the scores and the result cards."""
        return {"strip": self.strip(answer, query), "cards": self.cards(answer, query)}

    def engine_parts(self, engine: str, level: int, before: str = "") -> Parts:
        """Return what depends on the index: its choice, the levels, and the text box."""
        own = next((name for name in map(own_index_choice, (engine, before)) if name), None)
        choices: dict[str, Any] = {} if own is None else {"choices": self.engine_choices(own)}
        return {
            "engine": gr.update(value=own_index_choice(engine) or engine, interactive=True, **choices),
            "level": gr.update(choices=self.level_choices(engine), value=level, label=self.level_label(engine)),
            "words": gr.update(visible=self.at_index(engine).indexes.understands_text(engine)),
        }

    def thumbnails(self, query: UserQuery) -> str:
        """Render the examples, or the visitor's own pictures if those are searched."""
        place = self.at(query)
        if not isinstance(place, OwnGallery):
            return views.examples(self.examples, query.example, file_url)
        marked = set(place.gallery.annotations.image_ids.tolist())
        images = sorted(place.gallery.images, key=lambda image: (image.id not in marked, natural(image.file_name)))
        shown = [(OWN_ID + image.id, image.file_name, image.path) for image in images[:OWN_SHOWN]]
        return views.examples(shown, None if query.itself is None else OWN_ID + query.itself, file_url)

    def object_choice(self, before: UserQuery, query: UserQuery, name: str | None) -> Any:
        """Return the choice of object: other galleries have other objects, and a visitor may have named more."""
        known = self.objects_at(query)
        same = query.index_name == before.index_name and not query.is_private
        choices: dict[str, Any] = {} if same else {"choices": [UNKNOWN_OBJECT, *known]}
        return gr.update(value=name or UNKNOWN_OBJECT, **choices)

    def objects_at(self, query: UserQuery) -> dict[str, int]:
        """Return name -> id of the objects in the gallery that a query searches."""
        place = self.at(query)
        return self.objects if place is self.showcase else _by_name(place.gallery)

    def index_of(self, request: SearchRequest) -> PatchIndex:
        """Return the index that is searched."""
        return self.at(request.query).indexes.choice(request.query.index_name).index

    def strip(self, answer: Answer, query: UserQuery) -> str:
        """Render the scores of an answer."""
        name, own = self.object_name(query), isinstance(self.at(query), OwnGallery)
        return views.strip(answer, name, query.words is not None, own, query.is_private)

    def cards(self, answer: Answer, query: UserQuery | None = None) -> str:
        """Render the result cards."""
        return views.cards(answer, partial(self.picture, query=query), file_url)

    def picture(self, image_id: int, query: UserQuery | None = None) -> tuple[int, int, Path]:
        """Return width, height and file of a picture of the searched gallery; the bundled one by default."""
        image = self.at(query).gallery.image(image_id)
        return image.width, image.height, image.path

    def object_name(self, query: UserQuery) -> str | None:
        """Return the name of the query's object, if it is known."""
        return None if query.instance is None else self.at(query).gallery.name(query.instance)

    def level_label(self, engine: str | None = None) -> str:
        """Return the label of the choice of level: an index need not have a pyramid."""
        return "Pyramid: finest grid" if all(map(stages.grid_of, self._stages(engine))) else "Patches"

    def level_choices(self, engine: str | None = None) -> list[tuple[str, int]]:
        """Return (label, number) of the stages of an index."""
        index_stages = self._stages(engine)
        return [(stages.option(index_stages, number), number) for number in range(1, len(index_stages) + 1)]

    def engine_choices(self, own: str | None = None) -> list[tuple[str, str]]:
        """Return (label, name) of the indexes; the page shows the choice only if there are several.

        Args:
            own: Name of the visitor's own index (`own_index_choice`), if there is one.
        """
        choices = [(choice.label, name) for name, choice in self.showcase.indexes.choices.items()]
        place = None if own is None else self.at_index(own)
        return [*choices, (place.label, own)] if own is not None and isinstance(place, OwnGallery) else choices

    def _stages(self, engine: str | None) -> Sequence[Stage]:
        name = engine or self.showcase.indexes.first
        return self.at_index(name).indexes.choice(name).index.regions.stages

    def box_choices(self) -> list[tuple[str, str]]:
        """Return (label, name) of the kinds of box, whether or not the index allows them."""
        return [(label, name) for name, label in box_methods.NAMES.items()]

    def rerank_choices(self) -> list[tuple[str, str]]:
        """Return (label, name) of the re-rankers that are installed."""
        return [("none", NO_RERANKING), *((NAMES[name], name) for name in self.showcase.rerankers.names)]

    # Actions --------------------------------------------------------------------------------------------

    def pick_example(self, request: SearchRequest, event: gr.EventData) -> Parts:
        """Search an example that was clicked."""
        identifier, place = event_picture(event), self.at(request.query)
        if identifier <= OWN_ID:
            return self.shown(place.example(identifier, request.query.index_name), request)
        if isinstance(place, OwnGallery):
            return self.shown(place.picture(identifier - OWN_ID), request)
        warn(str(pictures_gone()))  # thumbnails of deleted pictures: start again with the first example
        return self.shown(self.showcase.first(), replace(request, expired=True))

    def take_upload(self, request: SearchRequest, event: gr.EventData) -> Parts:
        """Search a picture that was uploaded, dropped, pasted or taken."""
        stored = self.storage.store(take_upload(event_value(event, "path")), decoding.request_context.sender())
        return self.shown(self.at(request.query).upload(stored, index_name=request.query.index_name), request)

    def keep_query(self, query: UserQuery) -> Parts:
        """Render the query again after an upload was refused, so that its preview disappears."""
        return {"query": views.query(query, file_url, next(self._turns))}

    def leave(self, request: gr.Request) -> None:
        """Release what belongs to a visit: the page was closed."""
        self.storage.close_visit(str(request.session_hash or ""))

    def search_words(self, request: SearchRequest, words: Any) -> Parts:
        """Search words that were typed."""
        return self.shown(self.at(request.query).in_words(words, request.query.index_name), request)

    def draw_box(self, request: SearchRequest, event: gr.EventData) -> Parts | None:
        """Search another box of the query, or the whole picture; None changes nothing."""
        if event_value(event, "picture") != request.query.key:
            # Drawn on the last picture while this one was being loaded.
            return None
        return self.shown(self.at(request.query).with_box(request.query, event_value(event, "box")), request)

    def search_again(self, request: SearchRequest, event: gr.EventData) -> Parts:
        """Search the box of a result."""
        image_id, query = event_picture(event), request.query
        answer, place = self.answer(request), self.at(query)
        options = (answer.level, request.top, request.reranker, answer.box_method)
        box = place.detail(query, image_id, *options, with_map=False).result.match.box
        return self.shown(place.from_result(image_id, box, query.instance, query.index_name), request)

    def change_options(self, request: SearchRequest) -> Parts:
        """Search with another grid or number of results."""
        answer = self.answer(request)
        boxes = {} if answer.box_method == request.box_method else {"box": answer.box_method}
        return self.results(answer, request.query) | boxes

    def change_box(self, request: SearchRequest) -> Parts:
        """Show another kind of box, or the best that the index allows."""
        try:
            box_methods.checked_method(request.box_method, self.index_of(request))
        except PatchifyError as error:
            warn(str(error))
        return self.change_options(request)

    def change_reranking(self, request: SearchRequest) -> Parts:
        """Search with another re-ranker, or without one if it cannot be used."""
        try:
            return self.change_options(request)
        except PatchifyError as error:
            warn(str(error))
            return self.change_options(replace(request, reranker=None)) | {"rerank": NO_RERANKING}

    def name_object(self, request: SearchRequest, name: str) -> Parts:
        """Score the results for the object that the visitor chose."""
        instance = self.objects_at(request.query).get(name)
        query = self.at(request.query).with_instance(request.query, instance)
        # Include the name: an answer that was under way may have restored the old one.
        known = {"question": query, "object": name, "started": True}
        return known | self.change_options(replace(request, query=query))

    def look_into(self, request: SearchRequest, event: gr.EventData) -> str:
        """Show the details of a result that was clicked."""
        place = self.at(request.query)
        level = min(request.level, place.levels_of(request.query.index_name))
        box_method = self.box_method(request)
        options = (request.query, event_picture(event), level, request.top, request.reranker)
        try:
            detail = place.detail(*options, box_method)
        except IndexFolderError as error:  # the map is damaged: show everything else
            warn(str(error))
            box_method = box_methods.SOFT if box_method == box_methods.MAP else box_method
            detail = place.detail(*options, box_method, with_map=False)
        picture = self.picture(detail.result.match.image_id, request.query)
        return views.detail(detail, picture, request.query, file_url)

    # Another encoder, in three steps: announce it; load it, outside the queue of searches; search with it -----

    def announce_engine(self, engine: str) -> Parts:
        """Show that another encoder is being loaded; until it is in use no other one can be chosen."""
        try:
            indexes = self.at_index(engine).indexes
            loading = views.loading(indexes.choice(engine), indexes.is_loaded(engine))
            return {"engine": gr.update(interactive=False), "status": loading}
        except PatchifyError:  # the next step reports it
            return {"status": ""}

    def load_engine(self, engine: str) -> None:
        """Load the encoder of an index; if that fails, the last step finds it missing and restores the choice."""
        try:
            self.at_index(engine).indexes.engine(engine)
        except PatchifyError as error:
            warn(str(error))

    def use_engine(self, request: SearchRequest, engine: str) -> Parts:
        """Search the visitor's query in the chosen index."""
        place, there = self.at(request.query), self.at_index(engine)
        if not there.indexes.is_loaded(engine):  # a notice said why
            return self.keep_engine(request.query)
        if isinstance(there, OwnGallery):
            query = there.adopt(request.query)
        elif isinstance(place, OwnGallery):
            query = self._as_upload(request.query, engine)
        else:
            query = there.with_index(request.query, engine)
        return self._moved(query, request) | {"status": ""}

    def keep_engine(self, query: UserQuery) -> Parts:
        """Restore the choice to the index of the query."""
        return {
            "engine": gr.update(value=own_index_choice(query.index_name) or query.index_name, interactive=True),
            "status": "",
        }

    # A visitor's own pictures ---------------------------------------------------------------------------

    def know_own(self, event: gr.EventData) -> Any:
        """Offer the visitor's own pictures, some of which are indexed now."""
        own = f"{OWN}:{event_value(event, 'token')}"
        try:
            return gr.update(choices=self.engine_choices(own), visible=True)
        except PatchifyError:  # deleted meanwhile
            return gr.skip()

    def search_own(self, request: SearchRequest, event: gr.EventData) -> Parts:
        """Search the visitor's own pictures, with one of them as the query if the event names one."""
        name = event_value(event, "name")
        own = f"{OWN}:{event_value(event, 'token')}"
        place = self.at_index(own)
        if not isinstance(place, OwnGallery) or self.own is None:
            raise PatchifyError("The page sent no token of your pictures: reload it.")
        if isinstance(name, str):
            query = place.picture(self.own.visitor(event_value(event, "token")).collection.named(name).id)
            if event_value(event, "box") is not None:  # drawn, and maybe not saved
                query = place.with_box(query, event_value(event, "box"))
        else:
            query = place.adopt(request.query)
        return self._moved(query, request)

    def _moved(self, query: UserQuery, request: SearchRequest) -> Parts:
        """Search in another index: what was the best level or box stays the best."""
        before, after = len(self._stages(request.query.index_name)), len(self._stages(query.index_name))
        level = after if request.level >= before else min(request.level, after)
        old, new = self.index_of(request), self.index_of(replace(request, query=query))
        box_method = box_methods.fitting_method(request.box_method, old, new)
        return self.shown(query, replace(request, level=level, box_method=box_method, expired=True))

    def _as_upload(self, query: UserQuery, engine: str) -> UserQuery:
        """Move a query from a visitor's own pictures to a bundled index, where it is an upload."""
        if query.words is not None:
            return self.showcase.in_words(query.words, engine)
        if query.path is None or own_picture_url(query.path) is None:
            plain = replace(query, instance=None, itself=None, index_name=engine)
            return self.showcase.with_box(plain, query.box)
        stored = self.storage.store(query.path.read_bytes(), decoding.request_context.sender())
        upload = self.showcase.upload(stored, query.name, engine)
        return upload if query.box is None else self.showcase.with_box(upload, query.box)


def _by_name(gallery: Gallery) -> dict[str, int]:
    return {name: instance for instance, name in sorted(gallery.instances.items(), key=lambda item: item[1])}
