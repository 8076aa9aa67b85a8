# SPDX-License-Identifier: MIT
"""Renders photo-like table-top scenes of freely licensed household models, with exact boxes.

    python -m sample_db.render.render_scenes --models DIR --hdris DIR --photos DIR --out DIR --set a

Every picture is one job with its own seed; a finished job leaves OUT/work/SET/KEY.jpg and KEY.json and is
skipped when the command is run again, so a run can be cut and resumed.  Stages: q = query pictures, 0, 1, ...
the n-th hero scene of each instance, c = clutter-only scenes.  Afterwards `assemble` makes the gallery.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from .attribution import photo_credit
from .catalogue import CatalogueModel, read_catalogue
from .config import PICTURE_SIZE, GallerySet, existing_folder, load_set, set_names
from .geometry import Array
from .layout import Layout, find_layout
from .lens import lens_and_sensor
from .models import Library
from .plan import Job, jobs_of_stages, plan
from .record import Record, SeenBox
from .rendering import clear, new_scene, render_ids, render_photo, silhouette_pixels
from .stage import Inputs, build, missing_inputs

SAMPLES = 5  # per pixel, then denoised
JPEG_QUALITY = 88
LUMA = (0.51, 0.60)  # mean luma that a picture's exposure aims at, drawn from
SEEDS_PER_JOB = 4
MIN_PIXELS = 12  # an object of which less can be seen is not annotated
MAX_BOX_SHARE = 0.45  # of the picture, for every object but the hero


@dataclass(frozen=True, eq=False)
class Studio:
    """Everything that the jobs of one run share.

    Attributes:
        scene: the Blender scene, empty between jobs.
        library: the models.
        gallery_set: the set being made.
        inputs: folders that textures, lights and photos come from.
        work: folder for the finished jobs.
        samples: samples per pixel.
    """

    scene: bpy.types.Scene
    library: Library
    gallery_set: GallerySet
    inputs: Inputs
    work: Path
    samples: int

    def finished(self, job: Job) -> bool:
        """Whether an earlier run made this picture."""
        return self._record_path(job).exists()

    def make(self, job: Job) -> Record | None:
        """Make one picture; takes the next seed if the masks show a bad one.

        Args:
            job: the job.

        Returns:
            What was written down about the picture; None if all `SEEDS_PER_JOB` seeds gave a bad one.
        """
        for extra in range(SEEDS_PER_JOB):
            record = self._make(job, extra)
            if record:
                return record
        return None

    def _record_path(self, job: Job) -> Path:
        return self.work / f"{job.key}.json"

    def _make(self, job: Job, extra: int) -> Record | None:
        start = time.time()
        rng = random.Random(job.seed + 1000 * self.gallery_set.reseed.get(job.key, 0) + extra)
        layout = find_layout(rng, job, self.library.shape, self.gallery_set.rolling)
        if not layout:
            return None
        bodies = [self.library.get(item.code).body for item in layout.placed]
        scratch = self.work / f".{job.key}.png"
        try:
            used = build(rng, self.scene, layout, bodies, job.split, self.gallery_set, self.inputs)
            built = time.time()
            boxes = self._boxes(layout, bodies, scratch)
            if boxes is None:
                return None
            masked = time.time()
            picture, stops = render_photo(self.scene, scratch, self.samples, rng.uniform(*LUMA))
            lens_and_sensor(picture, rng).save(self.work / f"{job.key}.jpg", quality=JPEG_QUALITY)
        finally:
            scratch.unlink(missing_ok=True)
            clear(self.scene, self.library.bodies())
        seconds = {"layout": built - start, "ids": masked - built, "photo": time.time() - masked}
        record = Record(
            job=job,
            boxes=boxes,
            used=used,
            exposure=round(stops, 2),
            tries=layout.tries,
            seconds={step: round(spent, 2) for step, spent in seconds.items()},
        )
        record.save(self._record_path(job))
        return record

    def _boxes(self, layout: Layout, bodies: Sequence[bpy.types.Object], scratch: Path) -> tuple[SeenBox, ...] | None:
        """Return the boxes of the objects that can be seen; None if the hero cannot, or another one is too large."""
        ids = render_ids(self.scene, bodies, scratch)
        boxes = []
        for number, (item, visible) in enumerate(zip(layout.placed, layout.visible, strict=True)):
            rows, columns = np.where(ids == number + 1)
            is_first, pixels = number == 0, len(columns)
            if pixels < MIN_PIXELS:
                if is_first:
                    return None
                continue
            bbox = _bbox(rows, columns)
            if not is_first and bbox[2] * bbox[3] >= MAX_BOX_SHARE * PICTURE_SIZE[0] * PICTURE_SIZE[1]:
                return None
            instance = item.code in self.gallery_set.instances
            if instance and visible < 0.999:  # the layout's estimate, made exact
                visible = pixels / silhouette_pixels(self.scene, bodies[number], bodies, scratch)
            boxes.append(SeenBox(item.code, bbox, round(min(visible, 1), 3), pixels, instance))
        return tuple(boxes)


def _bbox(rows: Array, columns: Array) -> tuple[int, int, int, int]:
    left, top = int(columns.min()), int(rows.min())
    return left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", required=True, type=existing_folder, help="the furniture libraries, unpacked")
    parser.add_argument("--hdris", required=True, type=existing_folder, help="environment pictures (.exr)")
    parser.add_argument("--photos", required=True, type=existing_folder, help="photographs for the walls")
    parser.add_argument("--out", required=True, type=Path, help="where the work folder is made")
    parser.add_argument("--set", required=True, choices=set_names(), help="which set of sets.json")
    parser.add_argument("--stages", help="comma-separated; all of them if left out")
    parser.add_argument("--shard", default="0/1", help="k/n: this process takes every n-th job, starting at k")
    parser.add_argument("--limit", type=int, help="stop after this many pictures")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="per pixel (default: %(default)s)")
    return parser.parse_args()


def _checked_set(name: str, inputs: Inputs, catalogue: Mapping[str, CatalogueModel]) -> GallerySet:
    """Return the set; end the program if it cannot be rendered and credited with what is there."""
    try:
        gallery_set = load_set(name)
        for photo in (*gallery_set.photos, *gallery_set.distractor_photos):
            photo_credit(photo)  # raises for one that may not be used
    except ValueError as error:
        raise SystemExit(str(error)) from None
    missing = missing_inputs(gallery_set, inputs, catalogue)
    if missing:
        raise SystemExit(f"set {name!r} names what is not there: {', '.join(missing)}")
    return gallery_set


def main() -> int:
    """Make the pictures of the requested jobs; 1 if any of them could not be made."""
    args = _arguments()
    inputs, catalogue = Inputs(args.models, args.hdris, args.photos), read_catalogue(args.models)
    gallery_set = _checked_set(args.set, inputs, catalogue)
    work = args.out / "work" / args.set
    work.mkdir(parents=True, exist_ok=True)
    jobs = plan(gallery_set)
    if args.stages:
        jobs = jobs_of_stages(jobs, args.stages.split(","))
    shard, shards = map(int, args.shard.split("/"))
    studio = Studio(
        scene=new_scene(args.threads),
        library=Library(args.models, catalogue),
        gallery_set=gallery_set,
        inputs=inputs,
        work=work,
        samples=args.samples,
    )
    failed = 0
    for job in [job for job in jobs[shard::shards] if not studio.finished(job)][: args.limit]:
        start = time.time()
        record = studio.make(job)
        failed += record is None
        spent = f"{time.time() - start:.1f}s"
        if record:
            print("DONE", job.key, spent, f"tries {record.tries} exposure {record.exposure}", flush=True)
        else:
            print("FAILED", job.key, spent, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
