"""Options that a command line leaves out, from the index that exists already: it is used as it was made."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchify_core.cli.options import MADE_WITH, fill, flag, given, usual
from patchify_core.errors import IndexFolderError

if TYPE_CHECKING:
    from patchify_core.gallery import Gallery
    from patchify_core.index.build import BuildReport
    from patchify_core.patchify import Patchify


@dataclass(frozen=True)
class ExistingIndex:
    """The place of an index, which may be empty yet.

    Attributes:
        folder: of the index; None for a temporary one.
        big: whether it was made of shards. Then it is not brought up to date but used as it is.
    """

    folder: Path | None
    big: bool = False


def fill_from_index(arguments: argparse.Namespace, folder: Path | None) -> ExistingIndex:
    """Gives every option that was left out the value of the index that exists, or the usual one.

    Args:
        arguments: parsed; options of `MADE_WITH`, and `store`, are None where they were left out.
        folder: of the index, which may not be there; None for none.

    Raises:
        IndexFolderError: if the index is damaged, or it is a big one that was made otherwise than the options say.
    """
    from patchify_core.index.folder import MAPS_NAME, read_meta
    from patchify_core.index.integrity import META_NAME, standing

    if folder is None or not (standing(folder) / META_NAME).is_file():
        fill(arguments, usual())
        return ExistingIndex(folder)
    meta = read_meta(folder)
    try:
        values = {name: meta[name] for name in MADE_WITH if name not in ("encoder", "keep_maps")}
        values |= {"encoder": meta["encoder"]["spec"], "keep_maps": MAPS_NAME in meta["files"]}
        big = meta["images"] is None and "store" not in meta
    except (KeyError, TypeError):
        raise IndexFolderError(f"{folder} is not a whole index: delete it and build it again.") from None
    if "store" in meta and arguments.store is None:
        values |= _milvus_options(folder)
    if big:
        for name, wanted in given(arguments, *MADE_WITH).items():
            if wanted != values[name]:
                raise IndexFolderError(
                    f"{folder} was made with {name} {values[name] or 'none'}, not {wanted}: leave {flag(name)} out, or "
                    "choose another index."
                )
    fill(arguments, {"store": usual()["store"]} | values)
    return ExistingIndex(folder, big)


def _milvus_options(folder: Path) -> dict[str, Any]:
    """Where in Milvus the descriptors of an index folder are, as options."""
    from patchify_core.index.milvus.store import read_listing

    listing = read_listing(folder)
    address = listing.address
    return {
        "store": "milvus",
        "uri": address.uri,
        "ca": address.ca,
        "server_name": address.server_name,
        "collection": listing.collection,
        "milvus_index": listing.kind,
    }


def unchanged_report(gallery: Gallery, engine: Patchify) -> BuildReport:
    """What a build would report of a big index of the gallery; that it is one of no other is checked elsewhere.

    Raises:
        IndexFolderError: if a picture is missing or has another size than when it was embedded.
    """
    from patchify_core.index.build import BuildReport

    engine.index.check_pictures(gallery.root)
    return BuildReport(len(gallery.images), 0, len(gallery.images), (), 0.0)
