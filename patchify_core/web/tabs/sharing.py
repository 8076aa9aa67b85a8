"""Sharing: links that reopen what is shown, and the results as files; see `links`, `slides` and `exporting`."""

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
from patchify_core.web.events import NO_RERANKING, NOTICE, SearchRequest, event_value
from patchify_core.web.slides import slide
from patchify_core.web.tabs import html
from patchify_core.web.views import render
from patchify_core.web.visits import Parts, Visits

LINKS = ("link", "embed")
"""Kinds of links."""

FILES = (
    ("png", "Picture (PNG)", "for slides"),
    ("svg", "Vector (SVG)", "boxes stay sharp"),
    ("csv", "CSV", "for a spreadsheet"),
    ("json", "JSON", "all digits, all matches"),
)
"""(kind, name, purpose) of the files; the browser makes the PNG from the SVG."""


def share_menu() -> gr.HTML:
    """Make the menu; its script receives replies as its value, which is not shown."""
    menu = render("share", private=links.PRIVATE, kinds=FILES)
    return html("", "pf-share", "share.js", html_template=menu)


class Sharing:
    """Makes links and files, and opens links.

    Args:
        visits: The visitors' actions.
        tabs: Names of the page's tabs in links.
    """

    def __init__(self, visits: Visits, tabs: frozenset[str]) -> None:
        self.visits, self.tabs = visits, tabs
        gallery = visits.showcase.gallery
        self._queries = {query.path: query.id for query in gallery.queries}

    def make(self, request: SearchRequest, event: gr.EventData) -> str:
        """Make the link or file that was chosen in the menu.

        Returns:
            JSON for the menu's script: `number` and `kind` as they were sent, and `text`, or `why` there is none.
        """
        kind, number = event_value(event, "kind"), event_value(event, "number")
        if kind not in (*LINKS, *(name for name, _, _ in FILES)):
            raise PatchifyError("The page cannot make that kind of file: choose one of those shown.")
        reply: dict[str, Any] = {"number": number if isinstance(number, int) else 0, "kind": kind}
        try:
            if kind in LINKS:
                look = event_value(event, "look")
                reply["text"] = self.link(request, look if isinstance(look, int) else None).query()
            else:
                reply |= {"text": self.file(request, kind), "name": exporting.file_name(self._title(request.query))}
        except LinkError as error:
            reply["why"] = str(error)
        return json.dumps(reply, ensure_ascii=False)

    def link(self, request: SearchRequest, look: int | None = None) -> Link:
        """Return the link to what is shown.

        Raises:
            LinkError: If the query or the pictures are the visitor's own.
        """
        query = request.query
        if query.is_private:
            raise LinkError(links.PRIVATE)
        level = min(request.level, self.visits.showcase.levels_of(query.index_name))
        return links.link_to(
            query,
            self._queries,
            self.visits.showcase.gallery.instances,
            index=query.index_name,
            level=level,
            boxes=self.visits.box_method(request),
            rerank=request.reranker,
            top=request.top,
            look=look,
        )

    def file(self, request: SearchRequest, kind: str) -> str:
        """Return the results as SVG, CSV or JSON."""
        query, answer = request.query, self.visits.answer(request)
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
            results: tuple[Result, ...] = ()
            missed: list[tuple[int, str]] = []
            if answer.score is not None and query.instance is not None:
                results = place.positives(query, answer.score, answer.level, answer.reranker, answer.box_method)
                retrieved = {result.match.image_id for result in results}
                ids = place.gallery.positives(query.instance, place.judge.left_out(query))
                missed = [
                    (image_id, place.gallery.image(image_id).file_name) for image_id in ids if image_id not in retrieved
                ]
            return exporting.as_json(query, answer, name, about, results, missed)
        gallery = place.gallery

        def picture(image_id: int) -> tuple[int, int, Any]:
            image = gallery.image(image_id)
            return image.width, image.height, image.path

        return slide(query, answer, name, picture)

    def _title(self, query: UserQuery) -> str:
        place = self.visits.at(query)
        return query.name if query.instance is None else place.gallery.name(query.instance)

    # Links that the page is opened with ---------------------------------------------------------------------

    def load(self, event: gr.EventData) -> str:
        """Load the encoder that a link needs.

        Returns:
            The link for the next step, which waits in the queue of searches.
        """
        text = event_value(event, "query")
        text = text if isinstance(text, str) and len(text) <= links.MAX_LENGTH else " " * (links.MAX_LENGTH + 1)
        link, _ = links.parse_link(text)
        if link.index in self.visits.showcase.indexes.choices:
            try:
                self.visits.showcase.indexes.engine(link.index)
            except PatchifyError:  # `open` reports it
                pass
        return text

    def open(self, request: SearchRequest, text: Any) -> Parts:
        """Open a link as far as possible; one notice lists what in it does not work.

        The value of `share` is a message to the menu's script.
        """
        link, errors = links.parse_link(text)
        problems = list(errors)
        engine = self._engine(link, problems)
        search = self._search(link, self._question(link, engine, problems), problems)
        try:
            shown = self.visits.shown(search.query, search)
        except PatchifyError:
            problems.append("its re-ranker cannot be used here")
            search = replace(search, reranker=None)
            shown = self.visits.shown(search.query, search)
        look = link.look
        if look is not None and f'data-open="{look}"' not in shown["cards"]:
            problems.append("the result that it opens is not among the results")
            look = None
        tab = link.tab
        if tab is not None and tab not in self.tabs:
            problems.append("the page has no such tab")
            tab = None
        if problems:
            reasons = "; ".join(dict.fromkeys(problems))
            rest = "The rest of the link is shown." if link != Link() else "Showing the default example."
            gr.Warning(f"Part of this link does not work: {reasons}. {rest}", title=NOTICE, duration=15)
        after = json.dumps({"kind": "opened", "look": look, "tab": tab})
        return shown | {"rerank": search.reranker or NO_RERANKING, "top": search.top, "share": after}

    def _engine(self, link: Link, problems: list[str]) -> str:
        indexes = self.visits.showcase.indexes
        if link.index is None:
            return indexes.first
        if link.index not in indexes.choices:
            problems.append("the page has no such method")
            return indexes.first
        if not indexes.is_loaded(link.index):
            problems.append("the encoder of its method cannot be loaded")
            return indexes.first
        return link.index

    def _question(self, link: Link, engine: str, problems: list[str]) -> UserQuery:
        """Return the query of the link, or the first example if that no longer exists."""
        showcase = self.visits.showcase
        first = showcase.example(showcase.examples[0].id, engine)
        try:
            if link.words is not None:
                query = showcase.in_words(link.words, engine)
            elif link.picture is not None:
                query = self._gallery_picture(link.picture, link.box, engine, problems)
            elif link.example is not None:
                query = showcase.example(link.example, engine)
                if link.box is not None:
                    query = self._boxed(query, link.box, problems)
            else:
                return first
        except PatchifyError:
            what = (
                "its method cannot search with words"
                if link.words is not None
                else "its query picture no longer exists"
            )
            problems.append(what)
            return first
        if link.object is None:
            return query
        instance = self.visits.objects.get(link.object)
        if instance is None and link.object != links.NO_OBJECT:
            problems.append("the object that it names is not one of this page")
            return query
        return showcase.with_instance(query, instance)

    def _gallery_picture(
        self, image_id: int, box: links.Box | str | None, engine: str, problems: list[str]
    ) -> UserQuery:
        import numpy as np

        showcase = self.visits.showcase
        image = showcase.gallery.image(image_id)
        whole = np.array([0, 0, image.width, image.height], np.float64)
        region = whole
        if isinstance(box, tuple):
            try:
                region = checked_box(box, image.width, image.height)
            except PatchifyError:
                problems.append("its box is outside the picture")
        query = showcase.from_result(image_id, region, None, engine)
        return replace(query, box=None) if region is whole else query

    def _boxed(self, query: UserQuery, box: links.Box | str, problems: list[str]) -> UserQuery:
        """Return a bundled query with another box."""
        try:
            region = None if isinstance(box, str) else box
            return self.visits.showcase.with_box(query, region)
        except PatchifyError:
            problems.append("its box is outside the picture")
            return query

    def _search(self, link: Link, query: UserQuery, problems: list[str]) -> SearchRequest:
        """Return the search of the link; options that cannot be used get their initial values."""
        visits, index = self.visits, self.visits.showcase.indexes.choice(query.index_name).index
        levels = visits.showcase.levels_of(query.index_name)
        level, top = levels, visits.settings.results
        box_method, reranker = box_methods.best_method(index), None
        if link.level is not None and 1 <= link.level <= levels:
            level = link.level
        elif link.level is not None:
            problems.append(f"its level is not one of 1 to {levels}")
        if link.top is not None and link.top in visits.settings.result_choices:
            top = link.top
        elif link.top is not None:
            problems.append("the page does not show that number of results")
        if link.boxes is not None and box_methods.is_possible(link.boxes, index):
            box_method = link.boxes
        elif link.boxes is not None:
            problems.append("its method has no such kind of box")
        if link.rerank is not None and link.rerank in visits.showcase.rerankers.names:
            reranker = link.rerank
        elif link.rerank is not None and link.rerank != NO_RERANKING:
            problems.append("the page has no such re-ranker")
        return SearchRequest(query, level, top, reranker, box_method, expired=True)
