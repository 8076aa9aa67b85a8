"""Options that a command line leaves out, from the index that stands there: it is used as it was made."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchify_core.errors import IndexFolderError
from patchify_core.gallery import Gallery
from patchify_core.index.build import BuildReport
from patchify_core.index.folder import read_meta
from patchify_core.index.integrity import META_NAME, standing
from patchify_core.index.recipe import Recipe
from patchify_core.patchify import Patchify

MADE_WITH = ("encoder", "regions", "features", "factory", "codebook", "rescore", "keep_maps")
"""Options that say how an index is made. A parser of a command that uses `fill_in` leaves them None."""


@dataclass(frozen=True)
class Standing:
    """What stands where an index shall be.

    Attributes:
        folder: of the index; None where none is kept.
        big: whether it was made of shards. Then it is not brought up to date but used as it is.
    """

    folder: Path | None
    big: bool = False


def fill_in(arguments: argparse.Namespace, folder: Path | None) -> Standing:
    """Gives every option that was left out the value of the index that stands, or the usual one.

    Args:
        arguments: parsed; options of `MADE_WITH`, and `store`, are None where they were left out.
        folder: of the index, which may not be there; None for none.

    Raises:
        IndexFolderError: if what stands there is damaged, or it is a big index that was made otherwise than asked for.
    """
    from patchify_core.__main__ import parser

    usual = vars(parser().parse_args(["index", "GALLERY", "--out", "INDEX"]))
    if folder is None or not (standing(folder) / META_NAME).is_file():
        _fill(arguments, {name: usual[name] for name in (*MADE_WITH, "store")})
        return Standing(folder)
    meta = read_meta(folder)
    try:
        recipe = Recipe.from_meta(meta)
        made = recipe.as_dict() | {"encoder": recipe.encoder.spec, "keep_maps": recipe.maps}
        big = meta["images"] is None and "store" not in meta
    except (KeyError, TypeError, AttributeError):
        raise IndexFolderError(f"{folder} is not a whole index: delete it and build it again.") from None
    if "store" in meta and arguments.store is None:
        made |= _where(folder)
    if big:
        for name in MADE_WITH:
            asked = getattr(arguments, name)
            if asked is not None and asked != made[name]:
                raise IndexFolderError(
                    f"{folder} was made with {name} {made[name] or 'none'}, not {asked}: leave "
                    f"--{name.replace('_', '-')} out, or choose another index."
                )
    _fill(arguments, made | {"store": made.get("store", usual["store"])})
    return Standing(folder, big)


def _where(folder: Path) -> dict[str, Any]:
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


def _fill(arguments: argparse.Namespace, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if getattr(arguments, name, None) is None:
            setattr(arguments, name, value)


def as_it_is(gallery: Gallery, engine: Patchify) -> BuildReport:
    """What a build would report of a big index that holds the gallery; that it holds no other is checked elsewhere.

    Raises:
        IndexFolderError: if a picture is missing or has another size than when it was embedded.
    """
    engine.index.check_pictures(gallery.root)
    return BuildReport(len(gallery.images), 0, len(gallery.images), (), 0.0)
