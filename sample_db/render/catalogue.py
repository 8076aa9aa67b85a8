# SPDX-License-Identifier: MIT
"""The catalogues of the Sweet Home 3D furniture libraries: which models there are, how large, by whom."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = {"C0": "BlendSwap-CC-0", "CB": "BlendSwap-CC-BY", "KL": "KatorLegaz", "SC": "Scopia"}
_PROPERTY = re.compile(r"^\s*(\w+)#(\d+)\s*=[ \t]*(.*)", re.M)


@dataclass(frozen=True)
class CatalogueModel:
    """One model of a library.

    Attributes:
        code: two letters for the library (a key of `LIBRARIES`), then the number in its catalogue.
        name: title in the catalogue.
        creator: author in the catalogue; "" if it names none.
        path: the .obj file, below the folder of models.
        size_cm: width, depth and height of the real thing, in centimetres.
        rotation: row-major 3x3 rotation to be applied (y up), or None.
    """

    code: str
    name: str
    creator: str
    path: str
    size_cm: tuple[float, float, float]
    rotation: tuple[float, ...] | None = None

    @property
    def library(self) -> str:
        """First two letters of the code: the library, a key of `LIBRARIES`."""
        return self.code[:2]


def read_catalogue(models: Path) -> dict[str, CatalogueModel]:
    """Read the catalogues of all libraries.

    Args:
        models: folder that holds one folder per library, each an unpacked .sh3f file.

    Returns:
        code -> model.

    Raises:
        FileNotFoundError: if a library is not there.
    """
    catalogue: dict[str, CatalogueModel] = {}
    for prefix, library in LIBRARIES.items():
        properties: dict[str, dict[str, str]] = defaultdict(dict)
        text = (models / library / "PluginFurnitureCatalog.properties").read_text(encoding="latin1")
        for name, number, value in _PROPERTY.findall(text):
            properties[prefix + number][name] = value.strip()
        for code, entry in properties.items():
            rotation = entry.get("modelRotation")
            catalogue[code] = CatalogueModel(
                code=code,
                name=entry["name"],
                creator=entry.get("creator", ""),
                path=library + entry["model"],  # "model" starts with a slash
                size_cm=(float(entry["width"]), float(entry["depth"]), float(entry["height"])),
                rotation=tuple(map(float, rotation.split())) if rotation else None,
            )
    return catalogue


def table_size(real: float) -> float:
    """Largest side of a model on the table: real sizes squeezed so that all can share one.

    Args:
        real: largest side of the real thing, in metres.

    Returns:
        Largest side on the table, in metres, 0.12..0.30.

    Example:
        >>> table_size(0.45)
        0.3
    """
    return min(max(0.30 * (real / 0.45) ** 0.4, 0.12), 0.30)
