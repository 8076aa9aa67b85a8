# SPDX-License-Identifier: MIT
"""What is written down about a finished picture: the .json file beside it in the work folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .plan import Job


@dataclass(frozen=True)
class SeenBox:
    """One object of a picture, as the id pass shows it.

    Attributes:
        code: code of the model.
        bbox: x, y, width, height of the visible pixels, in pixels.
        visible: share of the whole silhouette that is inside the frame and not hidden, 0..1.
        pixels: number of visible pixels.
        instance: whether it is an instance (else clutter).
    """

    code: str
    bbox: tuple[int, int, int, int]
    visible: float
    pixels: int
    instance: bool


@dataclass(frozen=True)
class Used:
    """What a picture was made of besides its models; all of it has to be credited.

    Attributes:
        surface: path of the table's texture below the folder of models, or "plain".
        hdri: name of the environment picture, as in sets.json.
        photo: name of the photograph on the wall, or None.
    """

    surface: str
    hdri: str
    photo: str | None = None


@dataclass(frozen=True)
class Record:
    """A finished job.

    Attributes:
        job: the job.
        boxes: the objects that can be seen, the hero first.
        used: table, light and wall photo.
        exposure: exposure that was chosen for the picture, in stops.
        tries: layouts that were tried.
        seconds: time spent, by step.
    """

    job: Job
    boxes: tuple[SeenBox, ...]
    used: Used
    exposure: float
    tries: int
    seconds: Mapping[str, float]

    def save(self, path: Path) -> None:
        """Write the record in one step: the file marks its job as done, so it is never seen half written.

        Args:
            path: the .json file.
        """
        used = {"surface": self.used.surface, "photo": self.used.photo, "hdri": self.used.hdri}
        flat = {
            **asdict(self.job),
            "boxes": [asdict(box) for box in self.boxes],
            "used": {name: value for name, value in used.items() if value is not None},
            "exposure": self.exposure,
            "tries": self.tries,
            "seconds": dict(self.seconds),
        }
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(flat), encoding="utf-8")
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read a record back.

        Args:
            path: file written by `save`.

        Returns:
            The record.
        """
        flat: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            job=Job(**{field.name: flat[field.name] for field in fields(Job)}),
            boxes=tuple(SeenBox(**{**box, "bbox": tuple(box["bbox"])}) for box in flat["boxes"]),
            used=Used(**flat["used"]),
            exposure=flat["exposure"],
            tries=flat["tries"],
            seconds=flat["seconds"],
        )
