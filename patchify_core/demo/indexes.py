"""The indexes of one gallery that the page offers. Each encoder is loaded when it is first needed.

`folder/index` must exist; each folder below `folder/indexes` is another choice. A visit begins with `PREFERRED` if the
gallery has it. All visitors share the indexes; a visitor's query says which of them it searches.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePath

from patchify_core.demo.stages import grid_of, patches_label
from patchify_core.encoders import Encoder, EncoderInfo, EncoderSettings, TextEncoder
from patchify_core.errors import PatchifyError
from patchify_core.features.extract import CROP
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.store import PatchStore
from patchify_core.patchify import Patchify
from patchify_core.retrieval.localize import MapRefiner
from patchify_core.retrieval.presence import Calibration, find_calibration

DEFAULT = "index"
"""Name of the index that every gallery has; the others must contain the same pictures."""

PREFERRED = "pooled"
"""Name of the index that a visit begins with, if the gallery has it: one pass per picture, feature maps kept."""

ONE_THREAD = EncoderSettings(threads=1)
"""One crop is too little work to share: threads that wait for each other in every layer are slow as soon as anything
else runs on the machine."""

DIGESTS_UP_TO = 10_000
"""Pictures whose digests are compared at the start; of more, only the sizes are, or it would take minutes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class IndexChoice:
    """One index that a visitor may choose.

    Attributes:
        name: `index`, or the name of its folder below `indexes`.
        label: Unique description that the page shows.
        index: The descriptors.
        folder: Of the index; None for a visitor's own.
    """

    name: str
    label: str
    index: PatchIndex
    folder: Path | None = None


class GalleryIndexes:
    """Indexes of the same pictures, and their encoders.

    Args:
        folder: A dataset with an `index` folder, and perhaps an `indexes` folder, beside its annotations.
        encoder: Used for the indexes that it made; others load the encoder that they name.
        settings: How loaded encoders are run; on one thread by default.
        beside: Indexes of another gallery, with which loaded encoders are shared.

    Raises:
        PatchifyError: If the default index cannot be loaded, or its pictures are not those below `folder`. Any other
            index with such a fault is skipped and logged.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Encoder | None = None,
        settings: EncoderSettings | None = None,
        beside: GalleryIndexes | None = None,
    ) -> None:
        first = PatchIndex.load(folder / "index")
        first.check_pictures(folder, content=len(first.images) <= DIGESTS_UP_TO)
        indexes, folders = {DEFAULT: first}, {DEFAULT: folder / "index"}
        for path in sorted(path for path in folder.glob("indexes/*") if path.is_dir()):
            name = f"indexes/{path.name}" if path.name == DEFAULT else path.name
            try:
                indexes[name], folders[name] = _same_pictures(PatchIndex.load(path), first), path
            except Exception as error:  # whatever is wrong with one more index, the page goes on without it
                log.warning("The page leaves out the index %s: %s", path, error)
        self.first = PREFERRED if PREFERRED in indexes else DEFAULT
        indexes = {self.first: indexes.pop(self.first)} | indexes  # listed first
        labels = _labels(indexes)
        self.choices = {name: IndexChoice(name, labels[name], index, folders[name]) for name, index in indexes.items()}
        self._settings = settings or ONE_THREAD
        self._calibrations: dict[str, Calibration | None] = {}
        self._engines: dict[str, Patchify] = {}
        self._encoders: dict[str, Encoder] = {}
        self._loading: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        if beside is not None:
            self._encoders, self._loading = beside._encoders, beside._loading
        if encoder is not None:
            self._encoders[encoder.info.spec] = encoder

    def choice(self, name: str) -> IndexChoice:
        """Return the index of this name.

        Raises:
            PatchifyError: If there is none.
        """
        try:
            return self.choices[name]
        except (KeyError, TypeError):  # TypeError: a browser may send anything
            raise PatchifyError("The page does not have that method: choose one of those shown.") from None

    def engine(self, name: str) -> Patchify:
        """Return index and encoder. The first call loads the encoder; meanwhile other indexes can be used.

        Raises:
            PatchifyError: If there is no such index.
            EncoderError: If its encoder cannot be loaded; the next call tries again.
        """
        offer = self.choice(name)
        spec = offer.index.encoder.spec
        with self._loading[spec]:  # two first visitors must not both load it
            if name not in self._engines:
                if spec not in self._encoders:
                    from patchify_core.encoders import load_encoder

                    self._encoders[spec] = load_encoder(spec, self._settings)
                self._engines[name] = Patchify(offer.index, self._encoders[spec])
            return self._engines[name]

    def calibration(self, name: str) -> Calibration | None:
        """Return what was learned about the scores of this index; None without a usable calibration file."""
        if name not in self._calibrations:
            offer = self.choice(name)
            try:
                self._calibrations[name] = find_calibration(offer.index, offer.folder)
            except PatchifyError as error:
                log.warning("The page cannot say how likely results are: %s", error)
                self._calibrations[name] = None
        return self._calibrations[name]

    def is_loaded(self, name: str) -> bool:
        """Whether `engine(name)` returns at once."""
        return name in self._engines

    def free_maps(self) -> None:
        """Free the feature maps that are ready for the next search, about 100 MB per index."""
        for engine in list(self._engines.values()):
            for one in list(engine.loaded.values()):
                if isinstance(one, MapRefiner):
                    one.localizer.forget()

    def understands_text(self, name: str) -> bool:
        """Whether the encoder of this index can search with words; loads it."""
        return isinstance(self.engine(name).encoder, TextEncoder)


def is_paper_method(index: PatchStore) -> bool:
    """Whether an index was built as in the paper, with every cell of a grid pyramid encoded separately."""
    return index.features == CROP and grid_of(index.regions.stages[-1]) is not None


def method_label(index: PatchStore) -> str:
    """Describe in words how the patches of an index were encoded."""
    if index.features != CROP:
        return "Fast: one pass per picture"
    return "Paper: every patch encoded separately" if is_paper_method(index) else "Every patch encoded separately"


def public_spec(info: EncoderInfo) -> str:
    """Return an encoder's spec without the folders of a local checkpoint, which visitors need not know.

    Example:
        >>> shown_spec(EncoderInfo("open_clip:ViT-B-32//home/me/b32.pt", 512, 224, "", "", ""))
        'open_clip:ViT-B-32/b32.pt'
    """
    family, at, file = info.spec.partition("@")
    if at:
        return f"{family}@{PurePath(file).name}"
    model, slash, weights = info.spec.partition("/")
    return f"{model}/{PurePath(weights).name}" if slash else info.spec


def _same_pictures(index: PatchIndex, first: PatchIndex) -> PatchIndex:
    if {image.id: image for image in index.images} != {image.id: image for image in first.images}:
        raise PatchifyError("it does not contain the gallery's pictures: build it again.")
    return index


def _labels(indexes: dict[str, PatchIndex]) -> dict[str, str]:
    """Label each index by its method and what differs from the default index; by its name only if nothing does."""
    labels, default = {}, indexes[DEFAULT]
    for name, index in indexes.items():
        labels[name] = f"{method_label(index)} ({index.dim:,}-D)"
        if index.encoder.spec != default.encoder.spec:
            labels[name] += f" · {public_spec(index.encoder)}"
        if index.regions.spec != default.regions.spec:
            labels[name] += f" · {patches_label(index.regions)}"
    texts = list(labels.values())
    return {name: text if texts.count(text) == 1 else f"{text} ({name})" for name, text in labels.items()}
