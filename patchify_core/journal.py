"""The journal of a build: descriptors of finished pictures, on disk, so that a build can be cut anywhere."""

from __future__ import annotations

import json
import os
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchify_core.digests import sha256_of_bytes, sha256_of_file
from patchify_core.encoders.base import Encoder
from patchify_core.errors import IndexFolderError
from patchify_core.regions import Pyramid


class Journal:
    """Descriptors of finished pictures, in shards on disk, so that a build can be cut anywhere and resumed."""

    def __init__(self, folder: Path, encoder: Encoder, regions: Pyramid) -> None:
        """Opens or makes the folder, and takes over what an earlier build of the same kind left there.

        Raises:
            IndexFolderError: if something that is not a journal is in the way.
            OSError: if the folder cannot be read or written.
        """
        self.folder = folder
        self.shape = (regions.patches_per_image, encoder.info.dim)
        self.known: dict[str, tuple[Path, int]] = {}
        self._fresh: dict[str, NDArray[np.float32]] = {}
        maker = {"encoder": encoder.info.as_dict(), "regions": regions.spec}
        head = folder / "maker.json"
        if folder.exists() and not head.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise IndexFolderError(
                f"{folder} is in the way and was not made by this program: move it, or choose another --out."
            )
        folder.mkdir(parents=True, exist_ok=True)
        if _json_or_none(head) != maker:
            # Shards of another encoder or other regions are of no use: descriptors must never be mixed.
            shutil.rmtree(folder)
            folder.mkdir()
            head.write_text(json.dumps(maker), encoding="utf-8")
        for names in sorted(folder.glob("shard-*.json")):
            self._take(names)

    def _take(self, names: Path) -> None:
        """Takes one shard over if it is whole; a torn one is left out and its pictures are embedded again."""
        listed, data = _json_or_none(names), names.with_suffix(".npy")
        try:
            if isinstance(listed, dict) and sha256_of_file(data) == listed.get("sha256"):
                self.known.update({picture: (data, row) for row, picture in enumerate(listed["pictures"])})
        except OSError:
            return

    def __len__(self) -> int:
        """Pictures added since the last flush."""
        return len(self._fresh)

    def add(self, digest: str, descriptors: NDArray[np.float32]) -> None:
        """Takes the descriptors (P, D) of the picture whose bytes have this digest."""
        self._fresh[digest] = descriptors

    def flush(self) -> None:
        """Writes what is fresh; the list of pictures comes last, so a shard without it does not exist."""
        if not self._fresh:
            return
        # One past the highest, not the count: a shard may be missing, and none may ever be written over.
        number = max((int(path.stem[6:]) for path in self.folder.glob("shard-*.npy")), default=-1) + 1
        data = self.folder / f"shard-{number:06d}.npy"
        temporary = data.with_suffix(".tmp")
        # Through memory, because numpy says nothing when a file that it writes itself is cut short by a full disk.
        array = BytesIO()
        np.save(array, np.stack(list(self._fresh.values())), allow_pickle=False)
        with open(temporary, "wb") as file:
            file.write(array.getbuffer())
        os.replace(temporary, data)
        digests = list(self._fresh)
        listed = {"sha256": sha256_of_bytes(array.getvalue()), "pictures": digests}
        temporary.write_text(json.dumps(listed), encoding="utf-8")
        os.replace(temporary, data.with_suffix(".json"))
        self.known.update({digest: (data, row) for row, digest in enumerate(digests)})
        self._fresh.clear()

    def descriptors(self, digest: str) -> NDArray[np.float32]:
        """(P, D) float32 of one picture."""
        data, row = self.known[digest]
        return np.load(data, mmap_mode="r", allow_pickle=False)[row]

    def remove(self) -> None:
        """Deletes the journal: the index has everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _json_or_none(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
