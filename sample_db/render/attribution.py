# SPDX-License-Identifier: MIT
"""ATTRIBUTION.md: author and licence of every model, texture, light and photograph in the pictures."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from .catalogue import CatalogueModel
from .record import Record

CC0 = "CC0 1.0 <https://creativecommons.org/publicdomain/zero/1.0/>"
CC_BY_3 = "CC BY 3.0 <https://creativecommons.org/licenses/by/3.0/>"
CC_BY_3_US = "CC BY 3.0 US <https://creativecommons.org/licenses/by/3.0/us/>"
CC_BY_4 = "CC BY 4.0 <https://creativecommons.org/licenses/by/4.0/>"
LIBRARY_LICENCES = {"C0": CC0, "CB": CC_BY_3, "KL": CC_BY_3_US, "SC": CC_BY_3}

MODELS_PACKAGE = "Debian sweethome3d-furniture 1.8-1"
PHOTOS_PACKAGE = "Debian lomiri-wallpapers-16.04 20.04.0-2"
HDRIS_PACKAGE = "npm @pmndrs/assets 1.7.0"
BLENDER_PACKAGE = "PyPI bpy 5.0.1"

INTRODUCTION = """\
# What these pictures are made of

The scenes were rendered for this project with Blender Cycles (bpy 5.0.1); \
the renders are offered under CC BY 4.0,
provided that the authors below are credited. \
Nobody named here endorses this project. Packages: https://packages.debian.org,
https://www.npmjs.com/package/@pmndrs/assets, https://pypi.org/project/bpy.

| kind | title | author | source: path inside | licence | URL | change made |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class PhotoCredit:
    """Author and licence of a photograph, as the package's copyright file gives them."""

    author: str
    licence: str


# Photographs of PHOTOS_PACKAGE that may be used; those under CC BY-SA would put the renders under it too.
PHOTO_CREDITS = {
    "Picture_0B_by_freespace.jpg": PhotoCredit('Trevor "Freespace"', CC_BY_4),
    "Picture_1A_by_freespace.jpg": PhotoCredit('Trevor "Freespace"', CC_BY_4),
    "Wine_by_Jakkub_Mede.jpg": PhotoCredit("Jakub Mede", CC_BY_4),
    "aitzgorri_by_Aitzol_Berasategi.jpg": PhotoCredit("Aitzol Berasategi", CC_BY_4),
    "friends_by_Aitzol_Berasategi.jpg": PhotoCredit("Aitzol Berasategi", CC_BY_4),
    "life_by_Aitzol_Berasategi.jpg": PhotoCredit("Aitzol Berasategi", CC_BY_4),
    "picosdeeuropa_by_Aitzol_Berasategi.jpg": PhotoCredit("Aitzol Berasategi", CC_BY_4),
    "seeding_by_Clements_Engelhardt.jpg": PhotoCredit("Clemens Engelhardt", CC0),
    "sunset_by_Aitzol_Berasategi.jpg": PhotoCredit("Aitzol Berasategi", CC_BY_4),
    "umang_by_Abhishek_Mudgal.jpg": PhotoCredit("Abhishek Mudgal", CC_BY_4),
}


@dataclass(frozen=True)
class Row:
    """One line of the table, in the order of its columns."""

    kind: str
    title: str
    author: str
    source: str
    licence: str
    url: str
    change: str


def photo_credit(name: str) -> PhotoCredit:
    """Return author and licence of a photograph.

    Args:
        name: its file name.

    Returns:
        The credit.

    Raises:
        ValueError: if the photograph is not one of those whose licence is known to fit.
    """
    if name not in PHOTO_CREDITS:
        raise ValueError(f"no credit is known for {name}: add its author and licence to PHOTO_CREDITS")
    return PHOTO_CREDITS[name]


def attribution(
    models: Path,
    catalogue: Mapping[str, CatalogueModel],
    records: Iterable[Record],
    distractors: Collection[str],
) -> str:
    """Return the text of ATTRIBUTION.md.

    Args:
        models: folder of models, as in `read_catalogue`.
        catalogue: what is in it.
        records: the finished pictures.
        distractors: names of the photographs that join the gallery.

    Returns:
        Markdown, with one row for everything that was used.
    """
    records = list(records)
    rows = [
        *_model_rows(models, catalogue, records),
        *_texture_rows(models, catalogue, records),
        *_hdri_rows(records),
        *_photo_rows(records, distractors),
    ]
    return INTRODUCTION + "".join("| " + " | ".join(astuple(row)) + " |\n" for row in rows)


def _model_rows(models: Path, catalogue: Mapping[str, CatalogueModel], records: Iterable[Record]) -> list[Row]:
    codes = {code for record in records for code in (*record.job.others, *record.job.clutter)}
    codes |= {record.job.hero for record in records if record.job.hero}
    rows = []
    for code in sorted(codes):
        model = catalogue[code]
        title, author, url = _model_credit(models, model)
        source = _inside_package(model.path)
        change = "scaled, made matte or metallic, rendered into scenes"
        rows.append(Row(f"model {code}", title, author, source, LIBRARY_LICENCES[model.library], url, change))
    return rows


def _texture_rows(models: Path, catalogue: Mapping[str, CatalogueModel], records: Iterable[Record]) -> list[Row]:
    """Credit a texture to the author of the model that it lies beside."""
    by_folder = {str(Path(model.path).parent): model for model in catalogue.values()}
    rows = []
    for texture in sorted({record.used.surface for record in records} - {"plain"}):
        model = by_folder[str(Path(texture).parent)]
        title, author, url = _model_credit(models, model)
        rows.append(
            Row(
                kind="texture",
                title=f'{Path(texture).name} of "{title}"',
                author=author,
                source=_inside_package(texture),
                licence=LIBRARY_LICENCES[model.library],
                url=url,
                change="tiled on a table top, rendered into scenes",
            )
        )
    return rows


def _hdri_rows(records: Iterable[Record]) -> list[Row]:
    rows = []
    for hdri in sorted({record.used.hdri for record in records}):
        name = hdri.removeprefix("blender:")
        if hdri.startswith("blender:"):
            author = "Greg Zaal (Poly Haven)"
            source = f"{BLENDER_PACKAGE}: datafiles/studiolights/world/{name}"
        else:
            author = "Poly Haven artists (named by file only in the package)"
            source = f"{HDRIS_PACKAGE}: hdri/{name}.js"
        change = "light and background of scenes"
        rows.append(Row("HDRI", name, author, source, CC0, "https://polyhaven.com", change))
    return rows


def _photo_rows(records: Iterable[Record], distractors: Collection[str]) -> list[Row]:
    on_walls = {record.used.photo for record in records if record.used.photo}
    rows = []
    for name in sorted(on_walls | set(distractors)):
        credit = photo_credit(name)
        changes = []
        if name in on_walls:
            changes.append("framed on a wall, rendered into scenes")
        if name in distractors:
            changes.append("cropped to 640x480 as a gallery picture")
        rows.append(
            Row(
                kind="photo",
                title=name.split("_by_")[0],
                author=credit.author,
                source=f"{PHOTOS_PACKAGE}: usr/share/backgrounds/{name}",
                licence=credit.licence,
                url="https://gitlab.com/ubports/development/core/lomiri-wallpapers",
                change="; ".join(changes),
            )
        )
    return rows


def _inside_package(path: str) -> str:
    library, inside = path.split("/", 1)
    return f"{MODELS_PACKAGE}: {library}.sh3f/{inside}"


def _model_credit(models: Path, model: CatalogueModel) -> tuple[str, str, str]:
    """Title, author and URL of a model: from the licence page beside it, else from the catalogue."""
    title, author, url = model.name, model.creator, "https://www.sweethome3d.com/importModels.jsp"
    if model.library == "SC":
        return (
            title,
            "Scopia Visual Interfaces Systems, s.l. and Emmanuel Puybaret / eTeks",
            "http://www.scopia.es",
        )
    if model.library == "KL":
        return title, "Andrew Kator and Jennifer Legaz", url
    for page in sorted((models / model.path).parent.iterdir()):
        if "icen" not in page.name.lower():  # License, LICENCE, licence.txt, ...
            continue
        text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", page.read_text(encoding="utf-8", errors="ignore")))
        number_and_title = re.match(r"(\d+) - (.+?) - ", page.name)
        if number_and_title:
            url, title = _blendswap(number_and_title[1]), number_and_title[2]
        elif number := re.search(r"blends/view/(\d+)", text):
            url = _blendswap(number[1])
        if work_and_author := re.search(r'"([^"]+)" by ([^\s<]+)', text):
            title, author = work_and_author[1], work_and_author[2]
    return title, author, url


def _blendswap(number: str) -> str:
    return f"https://www.blendswap.com/blends/view/{number}"
