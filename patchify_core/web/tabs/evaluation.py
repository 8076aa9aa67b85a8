"""The Evaluation tab: what was measured as a story, then all of it as a table, and one of it looked into."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from patchify_core.demo import overview, trials
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.gallery_info import stored_answers
from patchify_core.demo.results import WRONG, match_verdict
from patchify_core.demo.studies import Studies, read_studies
from patchify_core.demo.trials import Failure, Trial
from patchify_core.errors import GalleryError, PatchifyError
from patchify_core.evaluation.record import gallery_digest
from patchify_core.files import ASSETS
from patchify_core.retrieval.presence import Calibration
from patchify_core.web import views
from patchify_core.web.events import sent, warn
from patchify_core.web.front import PHOTOS
from patchify_core.web.tabs.parts import PLAIN, QUIET
from patchify_core.web.views.trial import Shown, ShownFailure
from patchify_core.web.visits import Visits, file_url

WAIT = '<p class="pf-wait">Loading the measurements …</p>'


def build_evaluation_tab(visits: Visits, state: gr.State, tab: gr.Tab) -> None:
    """Makes the components of the tab; the files are read when it is first opened.

    Args:
        visits: what visitors can do.
        state: not used: what was measured is the same for every visitor.
        tab: what is opened.
    """
    reader = Evaluation(visits.showcase)
    story = gr.HTML(WAIT, elem_id="pf-story", **PLAIN)
    table = gr.HTML("", elem_id="pf-eval", js_on_load=_script("evaluation.js"), **PLAIN)
    look = gr.HTML("", elem_id="pf-eval-look", js_on_load=_script("trial.js"), **PLAIN)
    quiet: dict[str, Any] = {"concurrency_id": "evaluation", "concurrency_limit": 1, **QUIET}
    opened = gr.State(None)
    tab.select(reader.open, opened, [opened, story, table, look], **quiet)
    table.look(_noticed(reader.look), None, look, **quiet)
    look.compare(_noticed(reader.look), None, look, **quiet)


class Evaluation:
    """What the tab shows, from the files as they are now.

    Args:
        showcase: the bundled gallery, whose failures can be shown as pictures.
    """

    def __init__(self, showcase: ExampleGallery) -> None:
        self._showcase, self._bundled = showcase, showcase.folder.resolve().name
        self._failing: tuple[str, list[overview.FailedQuery]] = "", []

    def open(self, opened: int | None) -> list[Any]:
        """The whole tab; nothing changes on it if it is opened again and the files are the same.

        Args:
            opened: digest of what this visitor has on the page, or None.

        Returns:
            That digest anew, the story, the table, and what is looked into.
        """
        studies = read_studies()
        found = trials.trials(studies)
        dataset = self._first_dataset(studies)
        document = self._document()
        chosen = trials.first_choice(found, dataset, self._codec(document))
        table = views.evaluation(found, studies, dataset, chosen, file_url)
        story = self._story(found, studies, document)
        digest = zlib.crc32(f"{story}{table}".encode())
        if digest == opened:
            return [gr.skip()] * 4
        return [
            digest,
            story,
            table,
            "" if chosen is None else self.panel(chosen, trials.baseline_of(found, chosen), found, studies),
        ]

    def _story(self, found: tuple[Trial, ...], studies: Studies, document: Mapping[str, Any] | None) -> str:
        """The charts, bars and cards, as far as there are numbers for them."""
        return views.story(
            overview.curves(found, studies.datasets, self._bundled, document, self._codec(document)),
            [] if document is None else overview.bands(document),
            [] if document is None else self._worst(document),
            len(self._showcase.examples),
            self._showcase.gallery,
            file_url,
            PHOTOS,
            self._calibrated(),
        )

    def _calibrated(self) -> list[tuple[str, str, Calibration]]:
        """Label, folder and calibration of each index that has one."""
        shelf = self._showcase.indexes
        found = [(offer, shelf.calibration(name)) for name, offer in shelf.choices.items()]
        return [
            (offer.label, str(offer.folder.relative_to(self._showcase.folder.parent)), calibration)
            for offer, calibration in found
            if calibration is not None and offer.folder is not None
        ]

    def _document(self) -> Mapping[str, Any] | None:
        """The answers beside the gallery; None also if the page does not offer their index, so no card could open."""
        document = stored_answers(self._showcase.folder)
        offered = document is not None and overview.answers_index(document) in self._showcase.indexes.choices
        return document if offered else None

    def _codec(self, document: Mapping[str, Any] | None) -> str:
        """Codes of the index that those answers were made with."""
        return (
            trials.EXACT
            if document is None
            else self._showcase.indexes.choice(overview.answers_index(document)).index.factory
        )

    def _worst(self, document: Mapping[str, Any]) -> list[overview.FailedQuery]:
        """The queries that fail, answered once for all visitors."""
        if self._failing[0] != document["made_of"]:
            try:
                self._failing = document["made_of"], overview.failed_queries(self._showcase, document)
            except PatchifyError as error:  # the encoder cannot be had, or a query is gone: all the rest is shown
                warn(str(error))
                return []
        return self._failing[1]

    def look(self, event: gr.EventData) -> str:
        """A row was chosen, or what it is compared with."""
        studies = read_studies()
        found = trials.trials(studies)
        chosen = trials.find(found, sent(event, "id"))
        wanted = sent(event, "other")
        other = trials.baseline_of(found, chosen) if wanted is None else trials.find(found, wanted)
        return self.panel(chosen, other, found, studies)

    def panel(self, chosen: Trial, other: Trial | None, found: tuple[Trial, ...], studies: Studies) -> str:
        """One trial looked into."""
        dataset = studies.datasets[chosen["dataset"]]
        others = [trial for trial in found if trial["dataset"] == chosen["dataset"]]
        if other is None and len(others) > 1:
            other = next(trial for trial in others if trial.id != chosen.id)
        differences = () if other is None or other.id == chosen.id else trials.paired(other, chosen)
        parts = trials.by_object(chosen, dataset["instances"])
        worst: list[ShownFailure] | str = self._why_no_pictures(chosen["dataset"], dataset["digest"])
        if not worst:
            failures = trials.failures(chosen, dataset["queries"], dataset["instances"])
            try:
                worst = [self._with_pictures(failure) for failure in failures]
            except (GalleryError, StopIteration):  # the file names a picture that a gallery of this digest has not
                worst = "The file names pictures that are not in the gallery: make it again with the command above."
        return views.trial(chosen, others, other, differences, parts, worst, file_url)

    def _first_dataset(self, studies: Studies) -> str:
        """The bundled gallery if it is in the files, else the first one of them."""
        names = list(studies.datasets)
        return self._bundled if self._bundled in names else names[0] if names else ""

    def _why_no_pictures(self, dataset: str, digest: str) -> str:
        """Why the failures of a dataset cannot be shown as pictures; nothing if they can."""
        if dataset != self._bundled:
            return f"The pictures of {dataset} are not shipped with the page, so its failures are numbers only."
        try:
            same = gallery_digest(self._showcase.gallery) == digest
        except GalleryError:
            same = False
        return "" if same else f"The file is about another version of {dataset} than the page has: make it again."

    def _with_pictures(self, failure: Failure) -> ShownFailure:
        gallery = self._showcase.gallery
        query = next(query for query in gallery.queries if query.id == failure.query)
        asked = Shown(query.width, query.height, query.path, query.box)
        if failure.best is None:
            return ShownFailure(failure, asked, None, WRONG, None)
        image_id, box = failure.best
        image = gallery.image(image_id)
        holds = tuple(sorted(name for key, name in gallery.instances.items() if image_id in gallery.positives(key)))
        first = Shown(image.width, image.height, image.path, box, holds)
        verdict, overlap = match_verdict(box, gallery.boxes_of(image_id, query.instance))
        if image_id not in gallery.positives(query.instance):
            verdict = WRONG
        return ShownFailure(failure, asked, first, verdict, overlap)


def _noticed(handler: Callable[[gr.EventData], str]) -> Callable[[gr.EventData], Any]:
    """Shows a refusal as a notice and leaves the tab as it is."""

    def run(event: gr.EventData) -> Any:
        try:
            return handler(event)
        except PatchifyError as error:
            warn(str(error))
            return gr.skip()

    return run


def _script(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
