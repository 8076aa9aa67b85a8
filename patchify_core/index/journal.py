"""The journal of a build: descriptors of finished pictures, on disk, so that a build can be cut anywhere."""

from __future__ import annotations

from io import BytesIO
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchify_core.files import atomic, read_json, sha256_of_bytes, sha256_of_file, write_json
from patchify_core.index.private import PrivateFolder


class Journal(PrivateFolder):
    """Descriptors of finished pictures, and their feature maps if kept, in shards on disk: a build can be cut anywhere.

    Args:
        folder: private to builds of one index.
        maker: what makes the descriptors, as plain JSON values: shards of another maker are of no use. With "maps"
            among them and true, a shard without feature maps is of no use either.

    Raises:
        IndexFolderError: if something that is not a journal is in the way, or another build is using it.
        OSError: if the folder cannot be read or written.
    """

    def __init__(self, folder: Path, maker: dict[str, object]) -> None:
        """Opens or makes the folder, and takes over what an earlier build of the same kind left there."""
        super().__init__(folder)
        self.known: dict[str, tuple[Path, int]] = {}
        self._fresh: dict[str, tuple[NDArray[np.float32], bytes]] = {}
        self._maps: dict[str, tuple[Path, int, int]] = {}  # file, where the picture's map begins, its length
        self._needs_maps = bool(maker.get("maps"))
        try:
            self.take_over(maker)
            for names in sorted(folder.glob("shard-*.json")):
                self._take(names)
        except BaseException:
            self.close()
            raise

    def _take(self, names: Path) -> None:
        """Takes one shard over if it is whole; a torn one is left out and its pictures are embedded again."""
        listed, data, maps = read_json(names), names.with_suffix(".npy"), names.with_suffix(".maps")
        try:
            if not isinstance(listed, dict) or sha256_of_file(data) != listed.get("sha256"):
                return
            if "maps" in listed and sha256_of_file(maps) != listed["maps"]["sha256"]:
                return
            if self._needs_maps and "maps" not in listed:
                return
        except OSError:
            return
        self._know(listed["pictures"], data, maps, listed.get("maps", {}).get("sizes"))

    def _know(self, digests: list[str], data: Path, maps: Path, sizes: list[int] | None) -> None:
        self.known.update({digest: (data, row) for row, digest in enumerate(digests)})
        if sizes:
            starts = [0, *accumulate(sizes)]
            self._maps.update({digest: (maps, starts[at], sizes[at]) for at, digest in enumerate(digests)})

    def __len__(self) -> int:
        """Pictures added since the last flush."""
        return len(self._fresh)

    def add(self, digest: str, descriptors: NDArray[np.float32], packed: bytes | None = None) -> None:
        """Takes the (P, C) rows of the picture whose bytes have this digest: descriptors, then boxes if any.

        Args:
            digest: of the picture's bytes.
            descriptors: (P, C) float32.
            packed: its feature map, if maps are kept: then of every picture.
        """
        self._fresh[digest] = descriptors, packed or b""

    def flush(self) -> None:
        """Writes what is fresh; the list of pictures comes last, so a shard without it does not exist."""
        if not self._fresh:
            return
        # One past the highest, not the count: a shard may be missing, and none may ever be written over.
        number = max((int(path.stem[6:]) for path in self.folder.glob("shard-*.npy")), default=-1) + 1
        data = self.folder / f"shard-{number:06d}.npy"
        # Through memory, because numpy says nothing when a file that it writes itself is cut short by a full disk.
        array = BytesIO()
        np.save(array, np.stack([rows for rows, _ in self._fresh.values()]), allow_pickle=False)
        with atomic(data) as file:
            file.write(array.getbuffer())
        digests = list(self._fresh)
        listed: dict[str, object] = {"sha256": sha256_of_bytes(array.getvalue()), "pictures": digests}
        maps, sizes = data.with_suffix(".maps"), [len(packed) for _, packed in self._fresh.values()]
        if any(sizes):
            joined = b"".join(packed for _, packed in self._fresh.values())
            with atomic(maps) as file:
                file.write(joined)
            listed["maps"] = {"sha256": sha256_of_bytes(joined), "sizes": sizes}
        write_json(data.with_suffix(".json"), listed)
        self._know(digests, data, maps, sizes if any(sizes) else None)
        self._fresh.clear()

    def descriptors(self, digest: str) -> NDArray[np.float32]:
        """(P, C) float32 of one picture, as they were added."""
        data, row = self.known[digest]
        return np.load(data, mmap_mode="r", allow_pickle=False)[row]

    def packed(self, digest: str) -> bytes:
        """The feature map of one picture, as it was added."""
        path, start, size = self._maps[digest]
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(size)

    def leave(self) -> None:
        """Ends a build that was cut short: writes what is fresh, or deletes the journal if nothing was done.

        Raises:
            OSError: if a shard cannot be written.
        """
        self.flush()
        if not self.known:
            self.remove()
