"""A JSON file that a person or a tool wrote, read whatever Unicode encoding it has; what it is instead is named."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any

from patchify_core.errors import GalleryError
from patchify_core.imaging.kinds import opener, other_kind

_ADVICE = {
    "a Git LFS pointer": "fetch it with git lfs pull",
    "a web page or XML": "download or export it again",
    "archive": "unpack it and give the JSON in it",
}


class _TwiceError(Exception):
    """An object that gives one key two values, of which `json` would keep the last without a word."""


def load_json_object(path: Path) -> tuple[dict[str, Any], str]:
    """Read a JSON file whose top level is an object, in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Returns:
        The object, and the name of the file's encoding, "utf-8" or another.

    Raises:
        GalleryError: One sentence: there is no such file, it cannot be read, or what it is instead.
    """
    name = str(path)
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GalleryError(f"There is no file {name!r}: check its name and folder.") from error
    except (OSError, ValueError) as error:
        if path.is_dir():
            raise GalleryError(f"{name!r} is a folder, not a JSON file: name the file with the annotations.") from error
        raise GalleryError(f"{name!r} cannot be read: check its permissions.") from error
    head = content[:512].lstrip()
    kind = "a web page or XML" if head.startswith(b"<") else "a picture" if opener(head) else other_kind(head)
    if kind:
        advice = _ADVICE.get("archive" if kind.endswith("archive") else kind, "name the file with the annotations")
        raise GalleryError(f"{name!r} is {kind}, not a JSON file: {advice}.")
    if not content.strip(b"\0\t\r\n "):
        raise GalleryError(f"{name!r} is empty ({len(content):,} bytes), which is not valid JSON: export it again.")
    encoding = json.detect_encoding(content)
    try:
        data = json.loads(content.decode(encoding), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise GalleryError(
            f"{name!r} is not valid JSON: its text is in no Unicode encoding (byte {error.start}); save it as UTF-8."
        ) from error
    except _TwiceError as error:
        raise GalleryError(f"{name!r} cannot be used: {error}; correct that first.") from None
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
        raise GalleryError(f"{name!r} is not valid JSON{where}: export it again.") from error
    if isinstance(data, list) and data and isinstance(data[0], dict) and "data" in data[0]:
        raise GalleryError(f"{name!r} is Label Studio's own export, which is not read here: export it as COCO.")
    if not isinstance(data, dict):
        raise GalleryError(f"{name!r} contains no dataset: its top level must be an object with 'images'.")
    if "shapes" in data and "images" not in data:
        raise GalleryError(f"{name!r} is a LabelMe file of one picture, which is not read here: export them as COCO.")
    return data, encoding.removesuffix("-sig")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if found[key] != value:
                raise _TwiceError(f"one of its objects has {reprlib.repr(key)} twice, with different values")
    return found
