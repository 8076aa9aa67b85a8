# SPDX-License-Identifier: MIT
"""The layout of one picture: where the camera and every object stand.

Layouts are drawn at random until one shows enough of the objects that count.  The order of the draws is part
of the result, as in the plan.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np

from .composition import SHOTS, aim, pose
from .geometry import Array, Camera, Shape, box_of, clipped_area, visibility
from .plan import Job

MIN_INSTANCE_BOX = 0.008  # share of the picture that an instance beside the hero covers at least
MIN_CLUTTER_BOX = 0.003
TRIES = 60  # layouts tried before the job is given up
STRICT_TRIES = 30  # after so many, what finds no place is left out
PICKY_TRIES = 40  # after so many, the other instances may be hidden
SPOTS = 80  # places tried for one object
GAP_M = 0.016  # between the footprints of two objects
NO_WALL_M = 9.0  # as far as no object ever stands


@dataclass(frozen=True, eq=False)
class Placed:
    """One object where it stands.

    Attributes:
        code: code of the model.
        rotation: (3, 3) rotation about its own origin.
        location: (3,) position, in metres.
        projected: (n, 3) u, v, depth of its surface points.
    """

    code: str
    rotation: Array
    location: Array
    projected: Array


@dataclass(frozen=True, eq=False)
class Layout:
    """A layout that was accepted.

    Attributes:
        placed: the objects, the one that the picture is composed around first.
        visible: per object, the share of its silhouette that is inside the frame and not hidden, 0..1.
        camera: the camera.
        azimuth: direction from the first object to the camera, in radians from +x.
        centre: (3,) middle of the first object, in metres.
        focus: distance in focus, in metres.
        wall: distance of the wall behind the centre, in metres; None without a wall.
        tries: layouts tried, this one included.
    """

    placed: tuple[Placed, ...]
    visible: tuple[float, ...]
    camera: Camera
    azimuth: float
    centre: Array
    focus: float
    wall: float | None
    tries: int


def find_layout(
    rng: random.Random, job: Job, shape_of: Callable[[str], Shape], rolling: Collection[str]
) -> Layout | None:
    """Try layouts until one is good.

    Args:
        rng: generator of the picture.
        job: what stands in the picture.
        shape_of: gives the shape of a model by its code.
        rolling: codes of models that may lie any way up.

    Returns:
        The layout; None if `TRIES` of them were bad.
    """
    for attempt in range(TRIES):
        layout = _Attempt(rng, job, shape_of, rolling, attempt).run()
        if layout:
            return layout
    return None


@dataclass(eq=False)
class _Attempt:
    """One layout being drawn; `run` fills the fields below the inputs, the first object before the others."""

    rng: random.Random
    job: Job
    shape_of: Callable[[str], Shape]
    rolling: Collection[str]
    attempt: int
    azimuth: float = 0.0
    wall: float | None = None
    camera: Camera = field(init=False)
    centre: Array = field(init=False)
    hero_box: Array = field(init=False)
    hero_depth: float = field(init=False)
    footprints: list[Array] = field(default_factory=list)
    placed: list[Placed] = field(default_factory=list)

    def run(self) -> Layout | None:
        """Draws the layout; None if it is bad."""
        rng, job, query = self.rng, self.job, self.job.size == "query"
        codes = [*([job.hero] if job.hero else []), *job.others, *job.clutter]
        self.azimuth = rng.uniform(0, 2 * math.pi)
        # In a third of the scenes the second object stands partly before the hero.
        covered = not query and bool(job.hero) and len(codes) > 1 and rng.random() < 0.35
        wall = rng.uniform(0.55, 1.1) if job.size == "small" else rng.uniform(0.4, 0.8)
        self.wall = wall if rng.random() < 0.6 else None
        for number, code in enumerate(codes):
            if not self._add(code, first=number == 0, before_hero=covered and number == 1):
                return None
        return self._judged(covered)

    def _is_instance(self, code: str) -> bool:
        return code == self.job.hero or code in self.job.others

    def _add(self, code: str, *, first: bool, before_hero: bool) -> bool:
        """Places one object; False if the attempt has to be given up."""
        shape, query = self.shape_of(code), self.job.size == "query"
        posed_query = query and first
        rotation, height = pose(
            self.rng,
            shape,
            self.azimuth,
            0.45 if posed_query else 0.9,
            rolls=code in self.rolling,
            faces_camera=posed_query,
        )
        points = (shape.surface @ rotation.T + (0, 0, height)).astype(np.float32)
        footprint = points[::240, :2]
        if first:
            self.camera, self.centre = aim(self.rng, self.job.size, points[::10], self.azimuth)
            projected = self.camera.project(points[::10])
            self.hero_box, self.hero_depth = box_of(projected), float(np.median(projected[:, 2]))
            if self.camera.location[2] < 0.05:  # the camera would be in the table
                return False
            spot: Array = np.zeros(3)
        else:
            least = MIN_INSTANCE_BOX if self._is_instance(code) else MIN_CLUTTER_BOX
            found = self._free_spot(points, footprint, least, before_hero)
            if found is None:
                needed = self._is_instance(code) or not query
                return not (needed and self.attempt < STRICT_TRIES)
            spot = found
        self.footprints.append(footprint + spot[:2])
        projected = self.camera.project(points + np.array([spot[0], spot[1], 0]))
        self.placed.append(Placed(code, rotation, np.array([spot[0], spot[1], height]), projected))
        return True

    def _free_spot(self, points: Array, footprint: Array, least: float, before_hero: bool) -> Array | None:
        """Return a free place on the table at which the object is seen at a sensible size; None if there is none."""
        rng, hero_box = self.rng, self.hero_box
        toward_camera = math.cos(self.azimuth), math.sin(self.azimuth)
        wall = NO_WALL_M if self.wall is None else self.wall
        for _ in range(SPOTS):
            if before_hero:
                u = rng.uniform(hero_box[0] - 0.03, hero_box[2] + 0.03)
                v = rng.uniform(hero_box[3] - 0.02, hero_box[3] + 0.22)
            else:
                u, v = rng.uniform(0.03, 0.97), rng.uniform(0.12, 1.02)
            spot = self.camera.on_table(u, v)
            if spot is None or np.linalg.norm((spot - self.centre)[:2]) > 1.3:
                continue
            if (self.centre - spot)[:2] @ toward_camera + 0.17 > wall:
                continue
            if self._touches(footprint + spot[:2]):
                continue
            projected = self.camera.project(points[::25] + np.array([spot[0], spot[1], 0]))
            box = box_of(projected)
            area, whole = clipped_area(box), (box[2] - box[0]) * (box[3] - box[1])
            too_near = projected[:, 2].min() < max(0.62 * self.hero_depth, 0.2)
            cut_off = area < 0.55 * whole
            if too_near or cut_off or not least < area < SHOTS[self.job.size].max_other_box:
                continue
            return spot
        return None

    def _touches(self, footprint: Array) -> bool:
        return any(((footprint[:, None] - taken[None]) ** 2).sum(-1).min() < GAP_M**2 for taken in self.footprints)

    def _judged(self, covered: bool) -> Layout | None:
        """Return the finished layout, if the objects that count can be seen well enough."""
        query, hero_box = self.job.size == "query", self.hero_box
        rough = visibility([item.projected for item in self.placed], 6)
        low = 0.97 if query else (0.38 if covered else 0.8)
        inside = not query or (hero_box[:2].min() > 0.015 and hero_box[2:].max() < 0.985)
        hero_seen = rough[0] > low and (not covered or rough[0] < 0.93)
        company_seen = self.attempt > PICKY_TRIES or all(
            share > 0.4 for share, item in zip(rough[1:], self.placed[1:], strict=True) if self._is_instance(item.code)
        )
        if not (inside and hero_seen and company_seen):
            return None
        return Layout(
            placed=tuple(self.placed),
            visible=tuple(visibility([item.projected for item in self.placed])),
            camera=self.camera,
            azimuth=self.azimuth,
            centre=self.centre,
            focus=self.hero_depth,
            wall=self.wall,
            tries=self.attempt + 1,
        )
