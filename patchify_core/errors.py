"""The errors that a person may see: each message is one sentence saying what was wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class PatchifyError(ValueError):
    """Base of every error whose message may be shown to a person as it is.

    The command line prints it and exits with code 2, the page shows it as a notice; neither prints a traceback.
    """


class PictureError(PatchifyError):
    """A file or upload that is not a picture which can be searched."""


class NotAPictureError(PictureError):
    """A file that is no picture by its content, nor called one by the ending of its name."""


class BoxError(PatchifyError):
    """A box that is malformed, inverted, empty or outside its picture."""


class GalleryError(PatchifyError):
    """A dataset or folder that cannot be read as a gallery."""


class EncoderError(PatchifyError):
    """An encoder that is unknown, or whose weights cannot be had or are not the expected ones."""


class IndexFolderError(PatchifyError):
    """An index folder that is missing, damaged, or does not fit the encoder, regions or pictures at hand."""


class ArchiveError(PatchifyError):
    """A zip archive that is damaged, or holds more than may be unpacked."""


class StoreError(PatchifyError):
    """A vector store that cannot be reached, or does not hold or take what it should."""


def nearest(word: str, known: Sequence[str]) -> str:
    """` (the nearest is X)`, for an error message about an unknown `word`; empty if nothing is similar."""
    matches = difflib.get_close_matches(word, known, 1, 0.4)
    return f" (the nearest is {matches[0]})" if matches else ""
