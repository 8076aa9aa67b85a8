"""The learned local features come in optional packages, weights inside: checked before use, never downloaded."""

from __future__ import annotations

import importlib
from importlib import resources
from pathlib import Path
from types import ModuleType

from patchify_core.errors import PatchifyError
from patchify_core.files import sha256_of_file
from patchify_core.retrieval.rerank.names import INSTALL


def import_extra(module: str, method: str) -> ModuleType:
    """Imports an optional package.

    Raises:
        PatchifyError: one sentence with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PatchifyError(
            f"Re-ranking with {method} needs packages that are not here ({error.name or module}): install them with "
            f"{INSTALL}, or use sift, which needs none."
        ) from error


def weights_file(package: str, folder: str, name: str, sha256: str) -> Path:
    """A weights file inside an installed package, once its digest has been compared.

    The packages would fetch a missing file from the web; this program never does that behind a person's back.

    Raises:
        PatchifyError: if the file is missing or another one.
    """
    path = Path(str(resources.files(package))) / folder / name
    if not path.is_file() or sha256_of_file(path) != sha256:
        raise PatchifyError(
            f"The package {package} lacks {name}, or has other weights than this version knows: install the pinned "
            f"one with {INSTALL}."
        )
    return path
