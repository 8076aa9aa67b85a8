# SPDX-License-Identifier: MIT
"""Camera and visibility in numpy, on points sampled from the model surfaces.

So hundreds of layouts can be tried without tracing a ray.  World coordinates are metres, z upwards, with the
table at z = 0; picture coordinates are u to the right and v downwards, 0..1 inside the frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .config import PICTURE_SIZE

Array = npt.NDArray[Any]

SENSOR_MM = 36.0  # width of the sensor
ASPECT = PICTURE_SIZE[0] / PICTURE_SIZE[1]
GRID = (128, 96)  # columns and rows of the occlusion grid over the picture


@dataclass(frozen=True, eq=False)
class Shape:
    """A model as the layout sees it, standing on z = 0 with its front towards -y.

    Attributes:
        code: code of the model.
        vertices: (v, 3) float32 corners of its faces, in metres.
        surface: (n, 3) float32 points spread evenly over its surface, in metres, in random order.
    """

    code: str
    vertices: Array
    surface: Array


class Camera:
    """Pinhole camera.

    Attributes:
        location: (3,) position, in metres.
        lens: focal length in millimetres, for a sensor `SENSOR_MM` wide.
        axes: (3, 3) rotation; its rows are the camera's x (right), y (up) and z (backwards) in the world.
    """

    def __init__(
        self, location: Array, target: Array, lens: float = 50.0, roll: float = 0.0, aspect: float = ASPECT
    ) -> None:
        """Look from one point at another.

        Args:
            location: (3,) position of the camera, in metres.
            target: (3,) point in the middle of the picture, not straight above or below.
            lens: focal length, in millimetres.
            roll: turn about the line of sight, in radians.
            aspect: width of the picture over its height.
        """
        self.location = np.asarray(location, float)
        self.lens = lens
        self._aspect = aspect
        self._focal = lens / SENSOR_MM
        back = self.location - target
        back = back / np.linalg.norm(back)
        right = np.cross((0, 0, 1), back)
        right /= np.linalg.norm(right)
        up = np.cross(back, right)
        cos, sin = math.cos(roll), math.sin(roll)
        self.axes = np.array([cos * right + sin * up, cos * up - sin * right, back])

    def project(self, points: Array) -> Array:
        """Projects points of the world.

        Args:
            points: (n, 3), in metres.

        Returns:
            (n, 3): u, v and the depth in metres, negative behind the camera.

        Example:
            >>> Camera(np.array([0.0, -2.0, 0.0]), np.zeros(3)).project(np.zeros((1, 3))).tolist()
            [[0.5, 0.5, 2.0]]
        """
        seen = (points - self.location) @ self.axes.T
        depth = np.maximum(-seen[:, 2], 1e-4)
        u = 0.5 + self._focal * seen[:, 0] / depth
        v = 0.5 - self._focal * self._aspect * seen[:, 1] / depth
        return np.stack([u, v, -seen[:, 2]], 1)

    def on_table(self, u: float, v: float) -> Array | None:
        """Where the line of sight through a point of the picture meets the table.

        Args:
            u: place in the picture from left to right, 0..1.
            v: place in the picture from top to bottom, 0..1.

        Returns:
            (3,) point with z = 0, in metres; None at or above the horizon.
        """
        ray = self.axes.T @ np.array([(u - 0.5) / self._focal, (0.5 - v) / self._focal / self._aspect, -1])
        return None if ray[2] > -0.02 else self.location - ray * self.location[2] / ray[2]


def box_of(projected: Array) -> Array:
    """Box around projected points, not clipped to the frame.

    Args:
        projected: (n, 3) u, v, depth.

    Returns:
        (4,) u0, v0, u1, v1.
    """
    return np.array([*projected[:, :2].min(0), *projected[:, :2].max(0)])


def clipped_area(box: Array) -> float:
    """Share of the picture that a box covers.

    Args:
        box: (4,) u0, v0, u1, v1; may reach out of the frame.

    Returns:
        Area inside the frame, 0..1.

    Example:
        >>> float(clipped_area(np.array([-1.0, 0.5, 0.5, 2.0])))
        0.25
    """
    u0, v0, u1, v1 = np.clip(box, 0, 1)
    return max(u1 - u0, 0) * max(v1 - v0, 0)


def visibility(projected: Sequence[Array], step: int = 1) -> list[float]:
    """Per object, the share of its whole silhouette that is inside the frame and not behind another object.

    Args:
        projected: for each object (n, 3) u, v, depth of its surface points.
        step: takes every `step`-th point, on a grid half as fine if it is not 1: faster, for a first look.

    Returns:
        One share per object, 0..1.
    """
    columns, rows = GRID if step == 1 else (GRID[0] // 2, GRID[1] // 2)
    cells, depths, owners, whole = [], [], [], []
    for number, points in enumerate(projected):
        points = points[::step]
        # The grid has one picture of margin on each side, for the parts of the silhouette outside the frame.
        x = np.clip(np.floor(points[:, 0] * columns) + columns, 0, 3 * columns - 1).astype(np.int64)
        y = np.clip(np.floor(points[:, 1] * rows) + rows, 0, 3 * rows - 1).astype(np.int64)
        cells.append(y * 3 * columns + x)
        depths.append(points[:, 2])
        owners.append(np.full(len(points), number))
        whole.append(len(np.unique(cells[-1])))
    far_to_near = np.argsort(-np.concatenate(depths))
    front = np.full(9 * columns * rows, -1)
    # numpy writes in order, so the nearest point of a cell is the one that stays.
    front[np.concatenate(cells)[far_to_near]] = np.concatenate(owners)[far_to_near]
    inside = front.reshape(3 * rows, 3 * columns)[rows : 2 * rows, columns : 2 * columns]
    return [float((inside == number).sum() / max(whole[number], 1)) for number in range(len(projected))]


def sample_surface(vertices: Array, triangles: Array, count: int) -> Array:
    """Points spread evenly over a surface (by area), the same ones every time.

    Args:
        vertices: (v, 3) float32 corners.
        triangles: (t, 3) integer indices of corners.
        count: points wanted.

    Returns:
        (count, 3) float32 points.
    """
    rng = np.random.default_rng(0)
    first, second, third = (vertices[triangles[:, corner]] for corner in range(3))
    area = np.linalg.norm(np.cross(second - first, third - first), axis=1).astype(np.float64)
    pick = rng.choice(len(area), count, p=area / area.sum())
    along = rng.random((2, count, 1))
    along = np.where(along.sum(0) > 1, 1 - along, along)  # folds the far half of the parallelogram back
    points = first[pick] + along[0] * (second - first)[pick] + along[1] * (third - first)[pick]
    return points.astype(np.float32)
