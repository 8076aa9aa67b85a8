"""Files that are whole or not there: written under another name, then renamed; and JSON that may be damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic(path: Path, tag: str = "", sync: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing so that a reader, or a kill at any moment, finds the old file or the new one, never half.

    Args:
        path: The file, which may exist.
        tag: Part of the temporary name. Processes that may write the same file at the same time need a tag each; others
            need none, so that what a kill left behind is written over.
        sync: Have the disk keep the content before the name changes, for what must survive a power cut.

    Yields:
        The file under its temporary name, `NAME[.TAG].tmp` in the same folder.

    Raises:
        OSError: It cannot be written or renamed; the old file is as it was.
    """
    temporary = path.with_name(f"{path.name}.{tag}.tmp" if tag else f"{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_json(path: Path, value: Any, indent: int | None = None, tag: str = "", sync: bool = False) -> None:
    """Write a JSON value as UTF-8, whole or not at all. Args and errors as for `atomic`; NaN raises ValueError."""
    text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    with atomic(path, tag, sync) as file:
        file.write(text.encode())


def read_json(source: Path | bytes) -> Any:
    """Read a JSON value that may be damaged or not there.

    Returns:
        The value of the file, or of the bytes; None if there is none to be read.
    """
    try:
        return json.loads(source if isinstance(source, bytes) else source.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
