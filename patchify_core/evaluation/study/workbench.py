"""What experiments share: exact descriptors of every dataset, embedded once and kept, and codes made from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders import Encoder, EncoderInfo, load_encoder
from patchify_core.errors import GalleryError
from patchify_core.evaluation.study.plans import Configuration
from patchify_core.features.extract import CROP, Pooled
from patchify_core.files import sha256_of_bytes
from patchify_core.gallery import Gallery, Progress
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.index.codec.codes import CodeSettings
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.recode import recode
from patchify_core.regions import parse_regions
from patchify_core.retrieval.searcher import Searcher

PICTURE = "picture"
"""The part of `Configuration.query` that stands for the query's box within its picture."""


class RememberingEncoder:
    """An encoder that encodes a crop once: every configuration gets the same queries."""

    def __init__(self, encoder: Encoder) -> None:
        """Wraps an encoder, which stays to be had as `plain` for what is encoded once anyway."""
        self.plain = encoder
        self._known: dict[str, NDArray[np.float32]] = {}

    @property
    def info(self) -> EncoderInfo:
        """See `Encoder.info`."""
        return self.plain.info

    def prepare(self, picture: object, box: Sequence[float]) -> NDArray[np.uint8]:
        """See `Encoder.prepare`."""
        return self.plain.prepare(picture, box)  # type: ignore[arg-type]

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Encoder.encode`; each crop's descriptor is made alone, so that it depends on nothing else."""
        digests = [sha256_of_bytes(crop.tobytes()) for crop in crops]
        for digest, crop in zip(digests, crops, strict=True):
            if digest not in self._known:
                self._known[digest] = self.plain.encode(crop[None])[0]
        return np.stack([self._known[digest] for digest in digests])


class Workbench:
    """Exact indexes of datasets, kept in a folder.

    Args:
        folder: where they are kept, one sub-folder per dataset, encoder and regions; made if missing.
        load: encoder spec -> encoder.
    """

    def __init__(self, folder: Path, load: Callable[[str], Encoder] = load_encoder) -> None:
        """Nothing is made yet."""
        self.folder, self._load = folder, load
        self._encoders: dict[str, RememberingEncoder] = {}
        self._exact: tuple[tuple[Path, str, str, str], PatchIndex] | None = None

    def engine(self, gallery: Gallery, configuration: Configuration, progress: Progress | None = None) -> Searcher:
        """The engine of a configuration; embeds the gallery if that was not done before (resumable).

        Raises:
            GalleryError: if a picture of the dataset cannot be read.
            PatchifyError: if the configuration cannot be had for this dataset, in one sentence.
        """
        remembering = self._encoder(configuration.encoder)
        exact = self._embedded(gallery, remembering.plain, configuration, progress)
        # Queries of pooled features go through the network as maps, not as crops.
        encoder: Encoder = remembering if configuration.features == CROP else remembering.plain
        if configuration.factory == "Flat" and configuration.rescore is None:
            return _engine(exact, encoder, configuration)
        settings = CodeSettings(
            configuration.factory, configuration.codebook, configuration.rescore, seed=configuration.seed
        )
        settings.check(encoder.info.dim, exact.regions, len(exact.images))
        return _engine(recode(exact, settings), encoder, configuration)

    def _encoder(self, spec: str) -> RememberingEncoder:
        if spec not in self._encoders:
            self._encoders = {spec: RememberingEncoder(self._load(spec))}  # one network in memory at a time
        return self._encoders[spec]

    def _embedded(
        self, gallery: Gallery, encoder: Encoder, configuration: Configuration, progress: Progress | None
    ) -> PatchIndex:
        regions, features = parse_regions(configuration.regions), configuration.features
        key = (gallery.root, encoder.info.spec, regions.spec, features)
        if self._exact is None or self._exact[0] != key:
            # Folders of earlier versions contain crops, so they are named as those are.
            parts = [gallery.root.resolve().name, *key[1:3], *([] if features == CROP else [features])]
            out = self.folder / re.sub(r"[^A-Za-z0-9_.,+-]+", "-", "_".join(parts))
            out.parent.mkdir(parents=True, exist_ok=True)
            settings = BuildSettings(features=features, keep_maps=features != CROP)
            built = build_index(gallery, out, encoder, regions, settings, progress)
            if built.skipped:
                raise GalleryError(
                    f"{len(built.skipped)} pictures of {gallery.root} cannot be read ({built.skipped[0][0]}, ...): "
                    "no score without them."
                )
            self._exact = (key, PatchIndex.load(out))
        return self._exact[1]


def _engine(index: PatchIndex, encoder: Encoder, configuration: Configuration) -> Searcher:
    engine = Searcher(index, encoder)
    if configuration.query and isinstance(engine.extractor, Pooled):
        parts = configuration.query.split("+")
        engine.extractor.settings = replace(
            engine.extractor.settings,
            query_sides=tuple(int(part) for part in parts if part != PICTURE),
            query_in_picture=PICTURE in parts,
        )
    return engine
