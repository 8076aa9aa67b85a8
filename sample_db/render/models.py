# SPDX-License-Identifier: MIT
"""The models: imported once each, scaled for the table, their surface sampled for the layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

from .catalogue import CatalogueModel, table_size
from .geometry import Array, Shape, sample_surface
from .materials import tame

SURFACE_POINTS = 60_000  # per model, for projection and occlusion


@dataclass(frozen=True, eq=False)
class Model:
    """A model that is ready to be put on the table.

    Attributes:
        body: the Blender object, in no scene yet.
        shape: what the layout needs to know of it.
    """

    body: bpy.types.Object
    shape: Shape


class Library:
    """Loads each model once, scaled to its table-top size, standing on z = 0 with its front towards -y."""

    def __init__(self, folder: Path, catalogue: Mapping[str, CatalogueModel]) -> None:
        """Load nothing yet.

        Args:
            folder: folder of models, as in `read_catalogue`.
            catalogue: what is in it.
        """
        self._folder = folder
        self._catalogue = catalogue
        self._loaded: dict[str, Model] = {}

    def get(self, code: str) -> Model:
        """Return the model of that code; the same one every time."""
        if code not in self._loaded:
            self._loaded[code] = self._load(self._catalogue[code])
        return self._loaded[code]

    def shape(self, code: str) -> Shape:
        """Return the shape of the model of that code."""
        return self.get(code).shape

    def bodies(self) -> set[bpy.types.Object]:
        """Return the Blender objects of all models loaded so far."""
        return {model.body for model in self._loaded.values()}

    def _load(self, entry: CatalogueModel) -> Model:
        body = _import_joined(self._folder / entry.path)
        body.name = entry.code
        if entry.rotation:
            turn = Matrix((entry.rotation[0:3], entry.rotation[3:6], entry.rotation[6:9]))
            to_z_up = Matrix(((1, 0, 0), (0, 0, -1), (0, 1, 0)))
            body.data.transform((to_z_up @ turn @ to_z_up.transposed()).to_4x4())
        corners, size = _vertices(body), np.array(entry.size_cm) / 100
        low, high = corners.min(0), corners.max(0)
        scale = size / np.maximum(high - low, 1e-6) * (table_size(size.max()) / size.max())
        foot = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
        body.data.transform(Matrix.Diagonal((*scale, 1)) @ Matrix.Translation(-foot))
        body.location = (0, 0, 0)
        for material in body.data.materials:
            tame(material)
        bpy.context.scene.collection.objects.unlink(body)
        vertices = _vertices(body)
        points = sample_surface(vertices, _triangles(body), SURFACE_POINTS)
        return Model(body, Shape(entry.code, vertices, points))


def _import_joined(path: Path) -> bpy.types.Object:
    before = set(bpy.data.objects)
    bpy.ops.wm.obj_import(filepath=str(path), forward_axis="NEGATIVE_Z", up_axis="Y")
    parts = [part for part in bpy.data.objects if part not in before and part.type == "MESH"]
    bpy.ops.object.select_all(action="DESELECT")
    for part in parts:
        part.select_set(True)
    bpy.context.view_layer.objects.active = parts[0]
    bpy.ops.object.transform_apply(location=True, rotation=True, scale=True)
    if len(parts) > 1:
        bpy.ops.object.join()
    return bpy.context.view_layer.objects.active


def _vertices(body: bpy.types.Object) -> Array:
    flat = np.empty(len(body.data.vertices) * 3, np.float32)
    body.data.vertices.foreach_get("co", flat)
    return flat.reshape(-1, 3)


def _triangles(body: bpy.types.Object) -> Array:
    body.data.calc_loop_triangles()
    flat = np.empty(len(body.data.loop_triangles) * 3, np.int32)
    body.data.loop_triangles.foreach_get("vertices", flat)
    return flat.reshape(-1, 3)
