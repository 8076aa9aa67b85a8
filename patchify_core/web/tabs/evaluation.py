"""The Evaluation tab: an overview of the measurements, a table of all of them, and one of them in detail."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
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
from patchify_core.retrieval.presence import Calibration
from patchify_core.web import views
from patchify_core.web.events import event_value, warn
from patchify_core.web.front import PHOTOS
from patchify_core.web.tabs import QUIET, html
from patchify_core.web.views.evaluation import BoxedPicture, ShownFailure
from patchify_core.web.visits import Visits, file_url

WAIT = '<p class="pf-wait">Loading the measurements …</p>'


def build_evaluation_tab(visits: Visits, state: gr.State, tab: gr.Tab) -> None:
    """Make the components of the tab; the files are read when it is first opened.

    Args:
        visits: The visitors' actions.
        state: Not used, because measurements are the same for every visitor.
        tab: The tab.
    """
    reader = Evaluation(visits.showcase)
    story = html(WAIT, "pf-story")
    table = html("", "pf-eval", "evaluation.js")
    panel = html("", "pf-eval-look", "trial.js")
    quiet: dict[str, Any] = {"concurrency_id": "evaluation", "concurrency_limit": 1, **QUIET}
    digest = gr.State(None)
    tab.select(reader.open, digest, [digest, story, table, panel], **quiet)
    table.look(reader.look, None, panel, **quiet)
    panel.compare(reader.look, None, panel, **quiet)


class Evaluation:
    """Renders the tab from the current files.

    Args:
        showcase: The bundled gallery, whose failures can be shown with pictures.
    """

    def __init__(self, showcase: ExampleGallery) -> None:
        self._showcase, self._bundled = showcase, showcase.folder.resolve().name
        self._failing: tuple[str, list[overview.FailedQuery]] = "", []

    def open(self, shown: int | None) -> list[Any]:
        """Render the whole tab; change nothing if it is opened again and the files are the same.

        Args:
            shown: Digest of what this visitor's page shows, or None.

        Returns:
            The new digest, the overview, the table and the panel.
        """
        studies = read_studies()
        known = trials.trials(studies)
        dataset = self._first_dataset(studies)
        document = self._document()
        chosen = trials.first_choice(known, dataset, self._codec(document))
        table = views.evaluation(known, studies, dataset, chosen, file_url)
        story = self._story(known, studies, document)
        digest = zlib.crc32(f"{story}{table}".encode())
        if digest == shown:
            return [gr.skip()] * 4
        return [
            digest,
            story,
            table,
            "" if chosen is None else self.panel(chosen, trials.baseline_of(known, chosen), known, studies),
        ]

    def _story(self, known: tuple[Trial, ...], studies: Studies, document: Mapping[str, Any] | None) -> str:
        """Render the charts, bars and cards for which there are numbers."""
        return views.story(
            overview.curves(known, studies.datasets, self._bundled, document, self._codec(document)),
            [] if document is None else overview.bands(document),
            [] if document is None else self._worst(document),
            len(self._showcase.examples),
            self._showcase.gallery,
            file_url,
            PHOTOS,
            self._calibrated(),
        )

    def _calibrated(self) -> list[tuple[str, str, Calibration]]:
        """Return label, folder and calibration of each index that has one."""
        indexes = self._showcase.indexes
        calibrations = [(choice, indexes.calibration(name)) for name, choice in indexes.choices.items()]
        return [
            (choice.label, str(choice.folder.relative_to(self._showcase.folder.parent)), calibration)
            for choice, calibration in calibrations
            if calibration is not None and choice.folder is not None
        ]

    def _document(self) -> Mapping[str, Any] | None:
        """Return the answers stored beside the gallery, if the page offers their index, so that a card can open."""
        document = stored_answers(self._showcase.folder)
        offered = document is not None and overview.answers_index(document) in self._showcase.indexes.choices
        return document if offered else None

    def _codec(self, document: Mapping[str, Any] | None) -> str:
        """Return the codec of the index of the stored answers."""
        if document is None:
            return trials.EXACT
        return self._showcase.indexes.choice(overview.answers_index(document)).index.factory

    def _worst(self, document: Mapping[str, Any]) -> list[overview.FailedQuery]:
        """Return the queries that fail, answered once for all visitors."""
        if self._failing[0] != document["made_of"]:
            try:
                self._failing = document["made_of"], overview.failed_queries(self._showcase, document)
            except PatchifyError as error:  # the encoder is missing or a query is gone: show the rest
                warn(str(error))
                return []
        return self._failing[1]

    def look(self, event: gr.EventData) -> Any:
        """Handle the choice of a row, or of the trial that it is compared with; a refusal becomes a notice."""
        try:
            studies = read_studies()
            known = trials.trials(studies)
            chosen = trials.find(known, event_value(event, "id"))
            wanted = event_value(event, "other")
            other = trials.baseline_of(known, chosen) if wanted is None else trials.find(known, wanted)
            return self.panel(chosen, other, known, studies)
        except PatchifyError as error:
            warn(str(error))
            return gr.skip()

    def panel(self, chosen: Trial, other: Trial | None, known: tuple[Trial, ...], studies: Studies) -> str:
        """Render the panel of one trial."""
        dataset = studies.datasets[chosen["dataset"]]
        others = [trial for trial in known if trial["dataset"] == chosen["dataset"]]
        if other is None and len(others) > 1:
            other = next(trial for trial in others if trial.id != chosen.id)
        differences = () if other is None or other.id == chosen.id else trials.paired(other, chosen)
        parts = trials.by_object(chosen, dataset["instances"])
        worst: list[ShownFailure] | str = self._why_no_pictures(chosen["dataset"], dataset["digest"])
        if not worst:
            failures = trials.failures(chosen, dataset["queries"], dataset["instances"])
            try:
                worst = [self._with_pictures(failure) for failure in failures]
            except (GalleryError, StopIteration):  # the file names a picture that this gallery lacks
                worst = "The file names pictures that are not in the gallery: make it again with the command above."
        return views.trial(chosen, others, other, differences, parts, worst, file_url)

    def _first_dataset(self, studies: Studies) -> str:
        """Return the bundled gallery if it is in the files, else the first dataset there."""
        names = list(studies.datasets)
        return self._bundled if self._bundled in names else names[0] if names else ""

    def _why_no_pictures(self, dataset: str, digest: str) -> str:
        """Say why the failures of a dataset cannot be shown with pictures; empty if they can."""
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
        shown = BoxedPicture(query.width, query.height, query.path, query.box)
        if failure.best is None:
            return ShownFailure(failure, shown, None, WRONG, None)
        image_id, box = failure.best
        image = gallery.image(image_id)
        objects = tuple(sorted(name for key, name in gallery.instances.items() if image_id in gallery.positives(key)))
        first = BoxedPicture(image.width, image.height, image.path, box, objects)
        verdict, overlap = match_verdict(box, gallery.boxes_of(image_id, query.instance))
        if image_id not in gallery.positives(query.instance):
            verdict = WRONG
        return ShownFailure(failure, shown, first, verdict, overlap)
