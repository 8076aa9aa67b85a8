"""Keeps where things are on this machine out of what strangers read."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

from patchify_core.files import ROOT

_hidden: set[str] = set()


def hide(*folders: Path) -> None:
    """From here on sentences name files below these folders without them."""
    _hidden.update(spelled for folder in folders for spelled in (str(folder), str(folder.absolute())))


def without_places(sentence: str) -> str:
    """The sentence, in which files are named from a known folder on: the gallery's, this checkout, the home folder.

    Args:
        sentence: one that a person may see.
    """
    for folder in sorted(_hidden, key=len, reverse=True):
        if os.path.isabs(folder) and len(folder) > len(Path(folder).anchor):
            within = re.escape(folder) + r"(?:([/\\])|(?![\w.-]))"
            sentence = re.sub(within, lambda found: "" if found[1] else "the folder", sentence)
    return sentence


hide(ROOT, Path.home(), Path(tempfile.gettempdir()), Path(sys.prefix))
