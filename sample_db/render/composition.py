# SPDX-License-Identifier: MIT
"""How one object stands, and how the camera is aimed at the one that the picture is composed around."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np

from .config import PICTURE_SIZE
from .geometry import SENSOR_MM, Array, Camera, Shape, box_of

LENSES_MM = [35, 42, 50, 65]
ELEVATIONS_DEG = [10, 16, 22, 28, 35, 43, 52]
QUERY_ELEVATIONS_DEG = ELEVATIONS_DEG[1:5]


@dataclass(frozen=True)
class Shot:
    """How a picture of one size is composed; shares are of the picture's area.

    Attributes:
        hero_share: least and greatest share that the hero's box is drawn from.
        offset: how far the hero may be off the centre, in picture widths and heights.
        max_other_box: share that no other object's box may exceed.
    """

    hero_share: tuple[float, float]
    offset: tuple[float, float]
    max_other_box: float


SHOTS = {
    "small": Shot(hero_share=(0.022, 0.058), offset=(0.34, 0.22), max_other_box=0.20),
    "medium": Shot(hero_share=(0.085, 0.19), offset=(0.22, 0.14), max_other_box=0.30),
    "large": Shot(hero_share=(0.26, 0.46), offset=(0.08, 0.05), max_other_box=0.32),
    "query": Shot(hero_share=(0.27, 0.50), offset=(0.06, 0.04), max_other_box=0.25),
}


def pose(
    rng: random.Random, shape: Shape, azimuth: float, spread: float, *, rolls: bool, faces_camera: bool
) -> tuple[Array, float]:
    """How an object stands: its front about towards the camera, one in four anyhow, balls any way up.

    Args:
        rng: generator of the picture.
        shape: the object.
        azimuth: direction of the camera, in radians from +x.
        spread: standard deviation of the turn away from it, in radians.
        rolls: the object may lie any way up.
        faces_camera: the object must not be turned anyhow.

    Returns:
        (3, 3) rotation, and the height in metres at which the rotated object touches the table.
    """
    if rolls:
        gaussian = np.random.default_rng(rng.randrange(1 << 30)).normal(size=(3, 3))
        orthogonal, upper = np.linalg.qr(gaussian)
        rotation = orthogonal * np.sign(np.diag(upper))  # with this sign the rotations are uniform
        rotation[:, 0] *= np.linalg.det(rotation)
    else:
        anyhow = rng.random() >= 0.75 and not faces_camera
        turn = rng.uniform(-math.pi, math.pi) if anyhow else rng.gauss(0, spread)
        angle = azimuth + math.pi / 2 + turn
        cos, sin = math.cos(angle), math.sin(angle)
        rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return rotation, -float((shape.vertices @ rotation.T)[:, 2].min())


def aim(rng: random.Random, size: str, points: Array, azimuth: float) -> tuple[Camera, Array]:
    """Choose a camera that gives an object the share and the place in the picture that are drawn for it.

    Args:
        rng: generator of the picture.
        size: key of `SHOTS`.
        points: (n, 3) surface points of the object where it stands, in metres.
        azimuth: direction of the camera, in radians from +x.

    Returns:
        The camera, and the (3,) middle of the object.
    """
    shot = SHOTS[size]
    share, lens, roll = rng.uniform(*shot.hero_share), rng.choice(LENSES_MM), rng.gauss(0, 0.025)
    degrees = rng.choice(QUERY_ELEVATIONS_DEG if size == "query" else ELEVATIONS_DEG) + rng.uniform(-3, 3)
    elevation = math.radians(degrees)
    shift_u = rng.uniform(-shot.offset[0], shot.offset[0])
    shift_v = rng.uniform(-shot.offset[1], shot.offset[1])
    centre = (points.min(0) + points.max(0)) / 2
    flat = math.cos(elevation)
    back = np.array([math.cos(azimuth) * flat, math.sin(azimuth) * flat, math.sin(elevation)])
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0])
    up = np.cross(back, right)
    near, far = 0.12, 6.0
    for _ in range(22):  # halves the interval of distances down to micrometres
        distance = (near + far) / 2
        width = distance * SENSOR_MM / lens
        target = centre - right * shift_u * width + up * shift_v * width * PICTURE_SIZE[1] / PICTURE_SIZE[0]
        camera = Camera(target + back * distance, target, lens, roll)
        projected = camera.project(points)
        u0, v0, u1, v1 = box_of(projected)
        too_near = projected[:, 2].min() < 0.03 or (u1 - u0) * (v1 - v0) > share
        near, far = (distance, far) if too_near else (near, distance)
    return camera, centre
