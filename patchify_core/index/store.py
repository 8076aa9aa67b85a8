"""Where descriptors are kept and searched: `index.PatchIndex`, in a folder, or `milvus.MilvusStore`, past one machine.

`PatchStore` is what everything else needs of either. `open_store` opens whichever an index folder names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from patchify_core.encoders.base import EncoderInfo
    from patchify_core.features.maps import KeptMaps
    from patchify_core.index.patch_index import Hits, IndexedImage
    from patchify_core.regions import Regions

KINDS = ("faiss", "milvus")
"""What `--store` takes; the first is the default."""


class PatchStore(Protocol):
    """Patch descriptors of a gallery and search over them; what each member does stands at `index.PatchIndex`.

    Attributes:
        encoder: what made the descriptors.
        regions: which boxes they describe.
        features: how descriptors were made (`extract.checked_features`).
        root: folder that the pictures' file names are relative to, if known.
        maps: the pictures' feature maps; None where none are kept.
        patches_per_image: P.
    """

    encoder: EncoderInfo
    regions: Regions
    features: str
    root: Path | None
    maps: KeptMaps | None
    patches_per_image: int

    @property
    def images(self) -> Sequence[IndexedImage]:
        """The pictures; a row is a position in here."""
        ...

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """(N,) gallery image ids in row order."""
        ...

    @property
    def row_of(self) -> Mapping[int, int]:
        """Row of each gallery image id."""
        ...

    @property
    def dim(self) -> int:
        """Dimension of the descriptors as they are compared."""
        ...

    @property
    def factory(self) -> str:
        """How descriptors are kept, as a FAISS factory string."""
        ...

    @property
    def bytes_per_patch(self) -> int:
        """Bytes that the descriptor of one patch costs."""
        ...

    @property
    def bytes_per_image(self) -> float:
        """Bytes that the descriptors of one picture cost."""
        ...

    def project(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Brings the encoder's descriptors (N, D) into the space that is searched, (N, dim)."""
        ...

    def boxes_of(self, row: int) -> NDArray[np.float64]:
        """(P, 4) xyxy pixel boxes of the patches of one picture."""
        ...

    def box_of(self, row: int, cell: int) -> NDArray[np.float64]:
        """(4,) xyxy pixel box of one patch."""
        ...

    def descriptors_of(self, row: int) -> NDArray[np.float32]:
        """(P, dim) float32 descriptors of one picture as stored."""
        ...

    def cell_scores(self, query: NDArray[np.float32], row: int) -> NDArray[np.float32]:
        """(P,) float32 similarities of the query with every patch of one picture."""
        ...

    def search(self, query: NDArray[np.float32], top: int | None = None, level: int | None = None) -> Hits:
        """Ranks pictures by their best patch, one hit a picture."""
        ...

    def checked_level(self, level: int | None) -> int:
        """The level asked for, the last one if None."""
        ...

    def check_encoder(self, info: EncoderInfo) -> None:
        """Raises IndexFolderError unless `info` is the encoder that made the descriptors."""
        ...

    def check_pictures(self, root: Path, *, content: bool = False, rows: Iterable[int] | None = None) -> None:
        """Raises IndexFolderError unless the pictures under `root` are the indexed ones."""
        ...

    def meta(self) -> dict[str, Any]:
        """How the descriptors were made and of what, as plain JSON values."""
        ...


def open_store(folder: str | Path, token: str | None = None) -> PatchStore:
    """Opens an index folder, wherever its descriptors are.

    Args:
        folder: made by the index command.
        token: of a Milvus server; that of the environment variable `MILVUS_TOKEN` by default.

    Raises:
        IndexFolderError: if the folder is not a whole index.
        StoreError: if its descriptors are in Milvus, which does not answer or does not hold them.
    """
    from patchify_core.index.milvus.store import MilvusStore, is_listing
    from patchify_core.index.patch_index import PatchIndex

    return MilvusStore.open(folder, token) if is_listing(Path(folder)) else PatchIndex.load(folder)
