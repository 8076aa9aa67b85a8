# SPDX-License-Identifier: MIT
"""Materials of table, wall, frame and photograph, the slabs they are on; repairs to those of the models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import bpy
import numpy as np

from .config import Colour
from .geometry import Array
from .nodes import link_nodes

METAL = re.compile(r"metal|chrome|steel|inox|alu", re.I)
PHOTO_PIXELS = (700, 490)  # as fine as a wall photo is ever seen; full size costs memory and seconds


def tame(material: bpy.types.Material | None) -> None:
    """Give a material of an OBJ file a plausible roughness, metal where its name says so, and no glow."""
    if not material or not material.use_nodes:
        return
    shader = next((node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED"), None)
    if not shader:
        return
    roughness, metallic = shader.inputs["Roughness"], shader.inputs["Metallic"]
    if not roughness.is_linked:
        roughness.default_value = min(max(roughness.default_value, 0.22), 0.62)
    if not metallic.is_linked and METAL.search(material.name):
        metallic.default_value, roughness.default_value = 0.9, 0.25
    shader.inputs["Specular IOR Level"].default_value = 0.5
    shader.inputs["Emission Strength"].default_value = 0


def plain(name: str, colour: Colour, roughness: float = 0.5, bump: float = 0.15) -> bpy.types.Material:
    """Create a plain colour with a fine noise bump.

    Args:
        name: name of the material.
        colour: linear RGB, 0..1.
        roughness: 0 (mirror) to 1 (matte).
        bump: strength of the bump, 0..1.

    Returns:
        A new material.
    """
    material = _principled(name, roughness, colour)
    nodes = link_nodes(
        material.node_tree,
        "TexCoord:Object>TexNoise:Vector",
        "TexNoise:0>Bump:Height",
        "Bump:Normal>BSDF:Normal",
    )
    nodes["TexNoise"].inputs["Scale"].default_value = 60
    _set_bump(nodes["Bump"], bump)
    return material


def tiled(name: str, texture: Path, tile_m: float, turn: float, roughness: float) -> bpy.types.Material:
    """Create a texture that repeats, its brightness used as a bump.

    Args:
        name: name of the material.
        texture: picture file.
        tile_m: side of one tile, in metres.
        turn: rotation of the tiles, in radians.
        roughness: 0 (mirror) to 1 (matte).

    Returns:
        A new material.
    """
    material = _principled(name, roughness)
    nodes = link_nodes(
        material.node_tree,
        "TexCoord:Object>Mapping:Vector",
        "Mapping:Vector>TexImage:Vector",
        "TexImage:Color>BSDF:Base Color",
        "TexImage:Color>Bump:Height",
        "Bump:Normal>BSDF:Normal",
    )
    nodes["Mapping"].inputs["Scale"].default_value = (1 / tile_m,) * 3
    nodes["Mapping"].inputs["Rotation"].default_value[2] = turn
    nodes["TexImage"].image = bpy.data.images.load(str(texture), check_existing=True)
    _set_bump(nodes["Bump"], 0.15)
    return material


def printed(name: str, picture: Path, roughness: float) -> bpy.types.Material:
    """One whole picture over the UV square, as on a photographic print.

    Args:
        name: name of the material.
        picture: picture file.
        roughness: 0 (mirror) to 1 (matte).

    Returns:
        A new material.
    """
    material = _principled(name, roughness)
    nodes = link_nodes(material.node_tree, "TexCoord:UV>TexImage:Vector", "TexImage:Color>BSDF:Base Color")
    nodes["TexImage"].image = bpy.data.images.load(str(picture), check_existing=True)
    nodes["TexImage"].image.scale(*PHOTO_PIXELS)
    return material


def slab(
    scene: bpy.types.Scene,
    name: str,
    size: Sequence[float],
    location: Sequence[float] | Array,
    turn: float,
    material: bpy.types.Material,
    *,
    upright: bool = False,
) -> None:
    """Add a box to the scene; its mesh is in metres, so object coordinates are metres too.

    Args:
        scene: the scene.
        name: name of the object.
        size: full x, y, z size, in metres.
        location: (3,) of its middle, in metres.
        turn: rotation about the vertical, in radians.
        material: its material; the UV square lies on its +z face.
        upright: stands on its -y face, as a wall.
    """
    x, y, z = np.array(size) / 2
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    vertices = [(sign_x * x, sign_y * y, sign_z * z) for sign_z in (-1, 1) for sign_x, sign_y in corners]
    faces = [(4, 5, 6, 7), (3, 2, 1, 0), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)]
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(vertices, [], faces)
    uv = mesh.uv_layers.new(name="uv")
    for loop in range(4 * len(faces)):
        uv.data[loop].uv = ((0, 0), (1, 0), (1, 1), (0, 1))[loop % 4]
    box = bpy.data.objects.new(name, mesh)
    box.location, box.rotation_euler = location, (np.pi / 2 if upright else 0.0, 0, turn)
    mesh.materials.append(material)
    scene.collection.objects.link(box)


def _principled(name: str, roughness: float, colour: Colour = (0.8, 0.8, 0.8)) -> bpy.types.Material:
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    shader = material.node_tree.nodes["Principled BSDF"]
    shader.inputs["Base Color"].default_value = (*colour, 1)
    shader.inputs["Roughness"].default_value = roughness
    return material


def _set_bump(node: bpy.types.Node, strength: float) -> None:
    node.inputs["Strength"].default_value, node.inputs["Distance"].default_value = strength, 0.002
