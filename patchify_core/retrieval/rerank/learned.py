"""Learned re-ranking: a network scores the similarity of query and gallery picture from their local descriptors.

Local descriptors are the cells of an encoder's feature map with the highest attention of a detector (for the published
weights: patch tokens of DINOv2 ViT-B/14 with registers). The query's box is compared with whole gallery pictures.

    fused = lambda * global + (1 - lambda) * sigmoid(gamma * local)       global: the match's retrieval score

Networks, papers and licences are in `networks`. Weights are files published by the authors: local files, or downloaded
if allowed. Files are read as tensors only; code in them is not executed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders import Encoder, EncoderSettings, MapEncoder, as_map_encoder, load_encoder
from patchify_core.encoders.checkpoints import checked_digest, holds_numbers, local_checkpoint, tensors_in
from patchify_core.errors import EncoderError, PatchifyError
from patchify_core.features.pooled import picture_cells
from patchify_core.imaging.filenames import picture_path
from patchify_core.imaging.pictures import read_picture
from patchify_core.retrieval.rerank.base import Cache, in_front, shortlisted
from patchify_core.retrieval.rerank.names import DETECTOR, WEIGHTS
from patchify_core.retrieval.searcher import QueryView

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import nn

    from patchify_core.retrieval.ranking import Match
    from patchify_core.retrieval.rerank.networks import Matcher
    from patchify_core.retrieval.searcher import Searcher

PUBLISHED = "http://ptak.felk.cvut.cz/personal/sumapave/public/"
FILES = {
    "ames": "ames/networks/dinov2_ames.pt",
    "elvis": "elvis/networks/dinov2_elvis_gld.pt",
    "detector": "ames/networks/dinov2_detector.pt",
}
"""Paths of the weights for DINOv2, as in the authors' torch.hub entries and demo."""

ENCODER = "timm:vit_base_patch14_reg4_dinov2.lvd142m"
"""The encoder that the published weights were trained with."""

INSTEAD = "or re-rank with patch-qe, which needs no file"
"""Advice that ends error messages about files."""

PROBE_S = 5.0
"""Timeout of the request that checks whether the authors' server is reachable, in seconds."""


def _of_environment(variable: str) -> str | None:
    return os.environ.get(variable, "").strip() or None


@dataclass(frozen=True)
class LearnedSettings:
    """Settings of learned re-ranking; defaults are those of the authors' evaluation unless noted.

    Attributes:
        weights: File of the network (PyTorch or safetensors). Default: PATCHIFY_AMES or PATCHIFY_ELVIS.
        detector: File of the detector. Default: PATCHIFY_RERANK_DETECTOR.
        encoder: Spec of the encoder whose cells are compared (`load_encoder`). Default: PATCHIFY_RERANK_ENCODER, else
            the index's own encoder.
        allow_hub: Download missing files from the authors' server, which offers neither TLS nor digests.
        shortlist: Number of best matches to compare; the others follow in their order. The authors use 100.
        query_descriptors: Maximum number of local descriptors of the query.
        gallery_descriptors: Maximum number per gallery picture; None: 50 for AMES, 600 for ELViS.
        long_side: Longer side of the encoder's input, in pixels.
        zoom: Scale the query's box to `long_side`, so that small objects get as many cells as large ones; if False,
            scale its whole picture, as in the authors' evaluation.
        weight: lambda, the share of the retrieval score in the fused one, 0..1; None: the authors'.
        steepness: gamma; None: the authors'.
        cached: Gallery pictures whose local descriptors are cached, at most 0.3 MB each.
    """

    weights: str | Path | None = None
    detector: str | Path | None = field(default_factory=lambda: _of_environment(DETECTOR))
    encoder: str | None = field(default_factory=lambda: _of_environment("PATCHIFY_RERANK_ENCODER"))
    allow_hub: bool = False
    shortlist: int = 20
    query_descriptors: int = 600
    gallery_descriptors: int | None = None
    long_side: int = 770
    zoom: bool = True
    weight: float | None = None
    steepness: float | None = None
    cached: int = 200


class LearnedRerank:
    """Orders the shortlist by a fusion of retrieval score and learned similarity.

    Args:
        name: `ames` or `elvis`.
        settings: See `LearnedSettings`.

    Attributes:
        recipe: SHA-256 of the files of network and detector, and the encoder's spec if it is not the index's own.

    Raises:
        PatchifyError: If a file or the encoder is unavailable, or a file is of another model.
    """

    needs_picture = True

    def __init__(self, name: str, settings: LearnedSettings | None = None) -> None:
        from patchify_core.encoders.devices import choose_device
        from patchify_core.retrieval.rerank.networks import Detector

        self.name, self.settings = name, settings or LearnedSettings()
        self._device = choose_device(EncoderSettings())
        weights = _file(self.settings.weights or _of_environment(WEIGHTS[name]), name, name, self.settings)
        detector = _file(self.settings.detector, "detector", name, self.settings)
        self.recipe = {
            "weights": checked_digest(weights, INSTEAD),
            "detector": checked_digest(detector, INSTEAD),
            "encoder": self.settings.encoder,
        }
        self.network = load_matcher(name, weights).to(self._device)
        channels = self.network.channels
        self.detector = _loaded(Detector(channels), _tensors(detector), detector, f"a detector for {channels} numbers")
        self.detector.to(self._device)
        self._encoder = load_encoder(self.settings.encoder) if self.settings.encoder else None
        self._ready: MapEncoder | None = None
        self._cache: Cache[torch.Tensor] = Cache(self.settings.cached)

    @property
    def shortlist(self) -> int:
        """See `LearnedSettings`."""
        return self.settings.shortlist

    def rerank(self, engine: Searcher, query: QueryView, matches: list[Match], level: int | None) -> list[Match]:
        """See `Reranker.rerank`. Matches of the shortlist get a fused score.

        Raises:
            EncoderError: If the encoder has no feature map, or its cells have a wrong length.
        """
        import torch

        compared, rows, root = shortlisted(self, engine, query, matches)
        assert query.picture is not None
        encoder = self.encoder_for(engine.encoder)
        query_descriptors = self._of_query(encoder, query.picture, query.box)
        with torch.inference_mode():
            local = [
                float(self.network(query_descriptors, self._of_gallery(encoder, engine, row, root))) for row in rows
            ]
        pairs = zip(compared, local, strict=True)
        return in_front([replace(match, score=self.fused(match.score, value)) for match, value in pairs], matches)

    def fused(self, score: float, local: float) -> float:
        """Fuse retrieval score and network output by the module's formula.

        Raises:
            PatchifyError: If the network's similarity is not finite.
        """
        if not np.isfinite(local):
            raise PatchifyError(f"{self.network.title} gave numbers that are not finite: check its weights, {INSTEAD}.")
        weight, steepness = self.network.fusions[self.network.binary]
        weight = weight if self.settings.weight is None else self.settings.weight
        steepness = steepness if self.settings.steepness is None else self.settings.steepness
        sigmoid = 0.5 + 0.5 * float(np.tanh(steepness * local / 2))  # a logit of any size does not overflow
        return weight * score + (1 - weight) * sigmoid

    def encoder_for(self, indexed: Encoder) -> MapEncoder:
        """Return the encoder whose cells are compared; tried on a small picture the first time.

        Args:
            indexed: The index's own encoder.

        Raises:
            EncoderError: If it has no feature map, or its cells do not fit the weights.
        """
        encoder = self._encoder or indexed
        if self._ready is None or self._ready is not encoder:
            other = f"name one with --rerank-encoder, for the published weights {ENCODER}"
            try:
                map_encoder = as_map_encoder(encoder)
                side = 8 * map_encoder.stride
                channels = map_encoder.feature_map(np.zeros((side, side, 3), np.uint8)).shape[2]
            except EncoderError as error:
                what = f"{encoder.info.spec} gives no feature map of a picture, whose cells {self.name} compares"
                raise EncoderError(f"{what}: {other}.") from error
            if channels != self.network.channels:
                what = f"{self.name} was trained on cells of {self.network.channels} numbers"
                raise EncoderError(f"{what}, and {encoder.info.spec} gives {channels}: {other}.")
            self._ready = map_encoder
        return self._ready

    def _of_query(self, encoder: MapEncoder, picture: Image, box: NDArray[np.float64] | None) -> torch.Tensor:
        side = float(self.settings.long_side)
        if box is not None and not self.settings.zoom:
            side *= float((box[2:] - box[:2]).max()) / max(picture.size)
        return self._described(encoder, picture, box, max(1, round(side)), self.settings.query_descriptors)

    def _of_gallery(self, encoder: MapEncoder, engine: Searcher, row: int, root: Path) -> torch.Tensor:
        """Return (G, 128) local descriptors of a whole gallery picture; cached."""
        image, info = engine.index.images[row], encoder.info
        count = self.settings.gallery_descriptors or self.network.gallery_descriptors

        def described() -> torch.Tensor:
            picture = read_picture(picture_path(root, image.file_name))
            return self._described(encoder, picture, None, self.settings.long_side, count)

        return self._cache.get((image.sha256, info.spec, info.weights_sha256), described)

    def _described(
        self, encoder: MapEncoder, picture: Image, box: NDArray[np.float64] | None, long_side: int, count: int
    ) -> torch.Tensor:
        import torch

        cells = picture_cells(picture, encoder, long_side, None if box is None else box.tolist())
        with torch.inference_mode():
            rows = torch.from_numpy(cells).to(self._device).flatten(0, 1)
            features, attention = self.detector(rows)
            best = attention.topk(min(count, len(rows))).indices
            return self.network.describe((features if self.network.of_detector else rows)[best])


# Files of weights --------------------------------------------------------------------------------------------------


def load_matcher(name: str, path: Path) -> Matcher:
    """Load the frozen network of a checked file; its tensors tell its variant.

    Args:
        name: `ames` or `elvis`.
        path: The authors' training checkpoint, or its `state` only.

    Raises:
        PatchifyError: If it is a checkpoint of another model.
    """
    from patchify_core.retrieval.rerank.networks import MATCHERS, WIDTH

    tensors, kind = _tensors(path), MATCHERS[name]
    first = tensors.get("remap_local.0.weight", tensors.get("remap_local.0.W"))
    if not holds_numbers(first) or first.ndim != 2 or WIDTH not in first.shape or not first.numel():
        raise _another(path, kind.title, "remap_local.0")
    binary = "remap_local.0.W" in tensors
    return _loaded(kind(first.shape[0 if binary else 1], binary), tensors, path, kind.title)


def _tensors(path: Path) -> Mapping[str, Any]:
    content = tensors_in(path)
    state = content.get("state")
    return state if isinstance(state, Mapping) else content


def _loaded(network: Any, tensors: Mapping[str, Any], path: Path, title: str) -> Any:
    """Load tensors, whose names and shapes must match exactly, into a network and freeze it."""
    expected = network.state_dict()
    for key in [*expected, *(key for key in tensors if key not in expected)]:
        tensor = tensors.get(key)
        if key not in expected or not holds_numbers(tensor) or tensor.shape != expected[key].shape:
            raise _another(path, title, key)
        if not tensor.isfinite().all():
            raise PatchifyError(f"{path} holds numbers that are not finite: download it again, {INSTEAD}.")
    network.load_state_dict(tensors)
    frozen: nn.Module = network.eval().requires_grad_(False)
    return frozen


def _another(path: Path, title: str, key: object) -> PatchifyError:
    return PatchifyError(
        f"{path} is not a checkpoint of {title} (they differ in {str(key)[:60]!r}): give the file that its authors "
        f"publish, {INSTEAD}."
    )


def _file(file: str | Path | None, what: str, name: str, settings: LearnedSettings) -> Path:
    """Return the local file, or download the published one if that is allowed.

    Raises:
        PatchifyError: If there is none.
    """
    if file:
        return local_checkpoint(str(file), INSTEAD)
    option = "--rerank-detector" if what == "detector" else "--rerank-weights"
    folder, _, published = FILES[what].rpartition("/")
    if settings.allow_hub:
        return _downloaded(FILES[what], option)
    lacks = "the detector that selects local descriptors" if what == "detector" else "its weights"
    raise PatchifyError(
        f"Re-ranking with {name} needs {lacks}: download {published} from {PUBLISHED}{folder} and "
        f"name it with {option} FILE, or add --allow-torch-hub, which downloads it."
    )


def _downloaded(file: str, option: str) -> Path:
    """Return a published file from torch.hub's cache; download it there, atomically, if it is missing."""
    from urllib.request import Request, urlopen

    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(file).name
    if path.is_file():
        return path
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        urlopen(Request(PUBLISHED + file, method="HEAD"), timeout=PROBE_S).close()  # torch.hub has no timeout
        torch.hub.download_url_to_file(PUBLISHED + file, str(partial))
        checked_digest(partial, INSTEAD)
        partial.replace(path)
    except (OSError, EncoderError) as error:
        partial.unlink(missing_ok=True)
        raise PatchifyError(
            f"{path.name} cannot be downloaded from {PUBLISHED} now: connect this machine to the network, or name a "
            f"local copy with {option} FILE."
        ) from error
    return path
