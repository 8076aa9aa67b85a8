"""Links that reopen what is shown, and the results as files; see `links`, `slides` and `exporting`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import gradio as gr

from patchify_core.demo import box_methods, exporting, links
from patchify_core.demo.indexes import public_spec
from patchify_core.demo.links import Link, LinkError
from patchify_core.demo.own.gallery import own_token
from patchify_core.demo.queries import OWN, UserQuery
from patchify_core.demo.results import Result
from patchify_core.errors import PatchifyError
from patchify_core.imaging.boxes import checked_box
from patchify_core.web import views
from patchify_core.web.events import NO_RERANKING, NOTICE, SearchRequest, sent
from patchify_core.web.slides import slide
from patchify_core.web.tabs.parts import html
from patchify_core.web.visits import Parts, Visits

LINKS, FILES = ("link", "embed"), ("svg", "png", "csv", "json")
"""What the menu makes; a PNG is drawn by the browser, from the SVG."""


def share_menu() -> gr.HTML:
    """The menu; what is made for it comes as its value, which is not shown."""
    return html("", "pf-share", "share.js", html_template=views.share())


class Sharing:
    """What visitors share, and what becomes of an address that they come with.

    Args:
        visits: what visitors can do.
        tabs: names of the tabs of the page, as addresses have them.
    """

    def __init__(self, visits: Visits, tabs: frozenset[str]) -> None:
        self.visits, self.tabs = visits, tabs
        gallery = visits.showcase.gallery
        self._queries = {query.path: query.id for query in gallery.queries}

    def make(self, asked: SearchRequest, event: gr.EventData) -> str:
        """Something of the menu was chosen.

        Returns:
            JSON for the menu's script: `number` as it was sent, `kind`, and `text` or, if there can be none, `why`.
        """
        kind, number = sent(event, "kind"), sent(event, "number")
        if kind not in (*LINKS, *FILES):
            raise PatchifyError("The page cannot make that kind of file: choose one of those shown.")
        made: dict[str, Any] = {"number": number if isinstance(number, int) else 0, "kind": kind}
        try:
            if kind in LINKS:
                look = sent(event, "look")
                made["text"] = self.link(asked, look if isinstance(look, int) else None).query()
            else:
                made |= {"text": self.file(asked, kind), "name": exporting.file_name(self._title(asked.query))}
        except LinkError as error:
            made["why"] = str(error)
        return json.dumps(made, ensure_ascii=False)

    def link(self, asked: SearchRequest, look: int | None = None) -> Link:
        """The address of what is shown.

        Raises:
            LinkError: if it is the visitor's own and nobody else's.
        """
        query = asked.query
        if query.is_private:
            raise LinkError(links.PRIVATE)
        level = min(asked.level, self.visits.showcase.levels_of(query.index_name))
        return links.link_to(
            query,
            self._queries,
            self.visits.showcase.gallery.instances,
            index=query.index_name,
            level=level,
            boxes=self.visits.box_method(asked),
            rerank=asked.reranker,
            top=asked.top,
            look=look,
        )

    def file(self, asked: SearchRequest, kind: str) -> str:
        """The results as SVG, CSV or JSON."""
        query, answer = asked.query, self.visits.answer(asked)
        if kind == "csv":
            return exporting.as_csv(answer)
        place = self.visits.at(query)
        name = None if query.instance is None else place.gallery.name(query.instance)
        if kind == "json":
            index = place.indexes.choice(query.index_name).index
            about = {
                "name": query.index_name if own_token(query.index_name) is None else OWN,  # the token stays here
                "encoder": public_spec(index.encoder),
                "features": index.features,
                "regions": index.regions.spec,
                "dim": index.dim,
            }
            found: tuple[Result, ...] = ()
            missed: list[tuple[int, str]] = []
            if answer.score is not None and query.instance is not None:
                found = place.positives(query, answer.score, answer.level, answer.reranker, answer.box_method)
                there = {result.match.image_id for result in found}
                ids = place.gallery.positives(query.instance, place.judge.left_out(query))
                missed = [
                    (image_id, place.gallery.image(image_id).file_name) for image_id in ids if image_id not in there
                ]
            return exporting.as_json(query, answer, name, about, found, missed)
        gallery = place.gallery

        def picture(image_id: int) -> tuple[int, int, Any]:
            image = gallery.image(image_id)
            return image.width, image.height, image.path

        return slide(query, answer, name, picture)

    def _title(self, query: UserQuery) -> str:
        place = self.visits.at(query)
        return query.name if query.instance is None else place.gallery.name(query.instance)

    # A visitor comes with an address -------------------------------------------------------------------------

    def load(self, event: gr.EventData) -> str:
        """Takes the address, and loads the encoder that it asks for, if it is not loaded yet.

        Returns:
            The address for the next step, which waits its turn with all that asks.
        """
        text = sent(event, "query")
        text = text if isinstance(text, str) and len(text) <= links.MAX_LENGTH else " " * (links.MAX_LENGTH + 1)
        found, _ = links.parse_link(text)
        if found.index in self.visits.showcase.indexes.choices:
            try:
                self.visits.showcase.indexes.engine(found.index)
            except PatchifyError:  # `open` says so
                pass
        return text

    def open(self, asked: SearchRequest, text: Any) -> Parts:
        """Shows what an address says, as far as it can be had; one notice says what of it could not.

        `share` is what the menu's script is told.
        """
        found, wrong = links.parse_link(text)
        said = list(wrong)
        engine = self._engine(found, said)
        query = self._question(found, engine, said)
        options = self._options(found, engine, said)
        asked_now = SearchRequest(
            query, options["level"], options["top"], options["reranker"], options["box_method"], True
        )
        try:
            shown = self.visits.shown(query, asked_now)
        except PatchifyError:
            said.append("its re-ranker cannot be used here")
            asked_now = replace(asked_now, reranker=None)
            shown = self.visits.shown(query, asked_now)
        look = found.look
        if look is not None and f'data-open="{look}"' not in shown["cards"]:
            said.append("the result that it opens is not among the results")
            look = None
        tab = found.tab
        if tab is not None and tab not in self.tabs:
            said.append("the page has no such tab")
            tab = None
        if said:
            only = "; ".join(dict.fromkeys(said))
            rest = "The rest of the link is shown." if found != Link() else "Showing the default example."
            gr.Warning(f"Part of this link does not work: {only}. {rest}", title=NOTICE, duration=15)
        after = json.dumps({"kind": "opened", "look": look, "tab": tab})
        return shown | {"rerank": asked_now.reranker or NO_RERANKING, "top": asked_now.top, "share": after}

    def _engine(self, found: Link, said: list[str]) -> str:
        shelf = self.visits.showcase.indexes
        if found.index is None:
            return shelf.first
        if found.index not in shelf.choices:
            said.append("the page has no such method")
            return shelf.first
        if not shelf.is_loaded(found.index):
            said.append("the encoder of its method cannot be loaded")
            return shelf.first
        return found.index

    def _question(self, found: Link, engine: str, said: list[str]) -> UserQuery:
        """What is asked, or the first example where that is gone."""
        showcase = self.visits.showcase
        first = showcase.example(showcase.examples[0].id, engine)
        try:
            if found.words is not None:
                query = showcase.in_words(found.words, engine)
            elif found.picture is not None:
                query = self._gallery_picture(found.picture, found.box, engine, said)
            elif found.example is not None:
                query = showcase.example(found.example, engine)
                if found.box is not None:
                    query = self._boxed(query, found.box, said)
            else:
                return first
        except PatchifyError:
            what = (
                "its method cannot search with words"
                if found.words is not None
                else "its query picture no longer exists"
            )
            said.append(what)
            return first
        if found.object is None:
            return query
        instance = self.visits.objects.get(found.object)
        if instance is None and found.object != links.NO_OBJECT:
            said.append("the object that it names is not one of this page")
            return query
        return showcase.with_instance(query, instance)

    def _gallery_picture(self, image_id: int, box: links.Box | str | None, engine: str, said: list[str]) -> UserQuery:
        import numpy as np

        showcase = self.visits.showcase
        image = showcase.gallery.image(image_id)
        whole = np.array([0, 0, image.width, image.height], np.float64)
        region = whole
        if isinstance(box, tuple):
            try:
                region = checked_box(box, image.width, image.height)
            except PatchifyError:
                said.append("its box is outside the picture")
        query = showcase.from_result(image_id, region, None, engine)
        return replace(query, box=None) if region is whole else query

    def _boxed(self, query: UserQuery, box: links.Box | str, said: list[str]) -> UserQuery:
        """A bundled query with another box than its own."""
        try:
            region = None if isinstance(box, str) else box
            return self.visits.showcase.with_box(query, region)
        except PatchifyError:
            said.append("its box is outside the picture")
            return query

    def _options(self, found: Link, engine: str, said: list[str]) -> dict[str, Any]:
        """Options of the search; what cannot be is as on a page that was just opened."""
        visits, index = self.visits, self.visits.showcase.indexes.choice(engine).index
        levels = visits.showcase.levels_of(engine)
        level, top = levels, visits.settings.results
        box_method, reranker = box_methods.best_method(index), None
        if found.level is not None and 1 <= found.level <= levels:
            level = found.level
        elif found.level is not None:
            said.append(f"its level is not one of 1 to {levels}")
        if found.top is not None and found.top in visits.settings.result_choices:
            top = found.top
        elif found.top is not None:
            said.append("the page does not show that number of results")
        if found.boxes is not None and box_methods.is_possible(found.boxes, index):
            box_method = found.boxes
        elif found.boxes is not None:
            said.append("its method has no such kind of box")
        if found.rerank is not None and found.rerank in visits.showcase.rerankers.names:
            reranker = found.rerank
        elif found.rerank is not None and found.rerank != NO_RERANKING:
            said.append("the page has no such re-ranker")
        return {"level": level, "top": top, "box_method": box_method, "reranker": reranker}
