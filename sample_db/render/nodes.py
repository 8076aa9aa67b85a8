# SPDX-License-Identifier: MIT
"""Small helpers on Blender data: wiring of shader nodes, matrices."""

from __future__ import annotations

import bpy
from mathutils import Matrix

from .geometry import Array, Camera


def link_nodes(tree: bpy.types.NodeTree, *links: str) -> dict[str, bpy.types.Node]:
    """Wires shader nodes; a node is created when its type is first named ("BSDF" is the one that is there).

    Args:
        tree: the node tree.
        links: "Type:output>Type:input"; types without "ShaderNode", sockets by name or number.

    Returns:
        type -> node.
    """
    nodes: dict[str, bpy.types.Node] = {}
    for link in links:
        ends = []
        for end in link.split(">"):
            kind, socket = end.split(":")
            if kind not in nodes:
                is_there = kind == "BSDF"
                nodes[kind] = tree.nodes.get("Principled BSDF") if is_there else tree.nodes.new("ShaderNode" + kind)
            ends.append((nodes[kind], int(socket) if socket.isdigit() else socket))
        (source, output), (target, entrance) = ends
        tree.links.new(source.outputs[output], target.inputs[entrance])
    return nodes


def world_matrix(location: Array, rotation: Array) -> Matrix:
    """Matrix that rotates and then moves an object.

    Args:
        location: (3,) in metres.
        rotation: (3, 3).

    Returns:
        4x4 matrix.
    """
    return Matrix.Translation(location) @ Matrix(rotation.tolist()).to_4x4()


def camera_matrix(camera: Camera) -> Matrix:
    """Matrix of an object that looks along its -z as the camera does: Blender's cameras and lamps."""
    return world_matrix(camera.location, camera.axes.T)
