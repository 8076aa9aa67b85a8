# SPDX-License-Identifier: MIT
"""Makes the gallery of one set's finished pictures: numbered files, annotations.json and ATTRIBUTION.md.

    python -m sample_db.render.assemble --models DIR --photos DIR --out DIR --set a --dest DIR

Reads OUT/work/SET, writes DEST/gallery, DEST/queries, DEST/annotations.json and DEST/ATTRIBUTION.md, and
prints statistics.  The gallery is numbered in a fixed random order, so that a picture's number says nothing
about what it shows.  Needs no Blender.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from .attribution import CC0, attribution, photo_credit
from .catalogue import read_catalogue
from .config import PICTURE_SIZE, GallerySet, existing_folder, load_set, set_names
from .plan import plan
from .record import Record, SeenBox

MIN_VISIBLE, MIN_SHARE = 0.3, 0.005  # below either, a box is marked "ignore"
RULE = (
    "An instance is a positive of a gallery picture when visible >= 0.3 and its box covers >= 0.5 % of the "
    'picture; instances that are seen but fall below either limit carry "ignore": 1 and should count neither '
    "way. visible = share of the object's whole silhouette that is inside the frame and not hidden by "
    "another object."
)
FEW = 4  # an instance with fewer positives is named in the statistics
CC_BY_4_URL = "https://creativecommons.org/licenses/by/4.0/"
RENDER_LICENCE, PHOTO_LICENCE, CC0_PHOTO_LICENCE = 1, 2, 3
LICENCES = [
    {
        "id": RENDER_LICENCE,
        "name": "CC BY 4.0, with the credits of ATTRIBUTION.md "
        "(renders that contain CC BY 3.0, CC BY 4.0 and CC0 parts)",
        "url": CC_BY_4_URL,
    },
    {"id": PHOTO_LICENCE, "name": "CC BY 4.0 (photograph, cropped and scaled)", "url": CC_BY_4_URL},
    {
        "id": CC0_PHOTO_LICENCE,
        "name": "CC0 1.0 (photograph, cropped and scaled)",
        "url": "https://creativecommons.org/publicdomain/zero/1.0/",
    },
]


@dataclass
class Assembly:
    """A gallery while it is being put together.

    Attributes:
        gallery_set: the set.
        dest: folder that it is written to.
        images: entries of annotations.json.
        annotations: entries of annotations.json.
    """

    gallery_set: GallerySet
    dest: Path
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Numbers the instances in the order of the set."""
        self._category = {code: number for number, code in enumerate(self.gallery_set.instances, 1)}

    def add_photo(self, number: int, photo: Path) -> None:
        """Add a distractor photograph to the gallery, cropped and scaled.

        Args:
            number: its number in the gallery.
            photo: the photograph.
        """
        is_cc0 = photo_credit(photo.name).licence == CC0
        target = self._add_image(f"gallery/{number:03d}.jpg", "gallery", CC0_PHOTO_LICENCE if is_cc0 else PHOTO_LICENCE)
        with Image.open(photo) as picture:
            fitted = ImageOps.fit(picture.convert("RGB"), PICTURE_SIZE, Image.Resampling.LANCZOS)
        fitted.save(target, quality=88)

    def add_scene(self, number: int, record: Record, picture: Path) -> None:
        """Add a rendered scene to the gallery, with the boxes of all its instances.

        Args:
            number: its number in the gallery.
            record: what was written down about it.
            picture: the finished picture.
        """
        shutil.copyfile(picture, self._add_image(f"gallery/{number:03d}.jpg", "gallery", RENDER_LICENCE))
        for box in record.boxes:
            if box.instance:
                self._add_box(box)

    def add_query(self, record: Record, picture: Path) -> None:
        """Add a query picture, with the box of its object.

        Args:
            record: what was written down about it.
            picture: the finished picture.
        """
        hero = record.job.hero
        shutil.copyfile(picture, self._add_image(f"queries/{hero}.jpg", "query", RENDER_LICENCE))
        for box in record.boxes:
            if box.code == hero:
                self._add_box(box)

    def as_coco(self) -> dict[str, Any]:
        """Return the content of annotations.json."""
        info = {
            "description": f"Instance retrieval on rendered table-top scenes, {self.gallery_set.title} set",
            "version": "1.0",
            "year": 2026,
            "rule": RULE,
        }
        categories = [
            {"id": number, "name": self.gallery_set.instances[code], "code": code}
            for code, number in self._category.items()
        ]
        return {
            "info": info,
            "licenses": LICENCES,
            "images": self.images,
            "annotations": self.annotations,
            "categories": categories,
        }

    def _add_image(self, name: str, split: str, licence: int) -> Path:
        entry = {"id": len(self.images) + 1, "file_name": name}
        entry |= {"width": PICTURE_SIZE[0], "height": PICTURE_SIZE[1], "split": split, "license": licence}
        self.images.append(entry)
        return self.dest / name

    def _add_box(self, box: SeenBox) -> None:
        """Add a box to the image that was added last."""
        area = box.bbox[2] * box.bbox[3]
        entry = {
            "id": len(self.annotations) + 1,
            "image_id": len(self.images),
            "category_id": self._category[box.code],
            "bbox": box.bbox,
            "visible": box.visible,
            "iscrowd": 0,
            "area": area,
        }
        if box.visible < MIN_VISIBLE or area < MIN_SHARE * PICTURE_SIZE[0] * PICTURE_SIZE[1]:
            entry["ignore"] = 1
        self.annotations.append(entry)


def assemble(gallery_set: GallerySet, records: Mapping[str, Record], work: Path, photos: Path, dest: Path) -> Assembly:
    """Numbers and copies the pictures and writes annotations.json.

    Args:
        gallery_set: the set.
        records: job key -> record of the finished picture, sorted by key.
        work: folder with the finished pictures.
        photos: folder with the distractor photographs.
        dest: folder to write to, with empty folders `gallery` and `queries`.

    Returns:
        What was written.
    """
    queries = [key for key, record in records.items() if record.job.split == "query"]
    members: list[str | Path] = [key for key, record in records.items() if record.job.split == "gallery"]
    members += [photos / name for name in gallery_set.distractor_photos]
    random.Random(gallery_set.seed).shuffle(members)
    assembly = Assembly(gallery_set, dest)
    for number, member in enumerate(members):
        if isinstance(member, Path):
            assembly.add_photo(number, member)
        else:
            assembly.add_scene(number, records[member], work / f"{member}.jpg")
    for key in queries:
        assembly.add_query(records[key], work / f"{key}.jpg")
    (dest / "annotations.json").write_text(json.dumps(assembly.as_coco(), indent=1), encoding="utf-8")
    return assembly


def summary(assembly: Assembly) -> str:
    """Return a few lines on what a gallery contains.

    Args:
        assembly: the gallery.

    Returns:
        Text.
    """
    split = {image["id"]: image["split"] for image in assembly.images}
    count = Counter(split.values())
    ignored = sum("ignore" in box for box in assembly.annotations)
    megabytes = sum((assembly.dest / image["file_name"]).stat().st_size for image in assembly.images) / 1e6
    lines = [
        f"{count['gallery']} gallery, {count['query']} queries, {megabytes:.1f} MB, "
        f"{len(assembly.annotations)} boxes, {ignored} ignored"
    ]
    positives = [box for box in assembly.annotations if split[box["image_id"]] == "gallery" and "ignore" not in box]
    if len(positives) > 1:
        of_category = Counter(box["category_id"] for box in positives)
        per_instance = {
            name: of_category[number] for number, name in enumerate(assembly.gallery_set.instances.values(), 1)
        }
        counts = list(per_instance.values())
        shares = [box["area"] / PICTURE_SIZE[0] / PICTURE_SIZE[1] for box in positives]
        hidden = sum(box["visible"] < 0.6 for box in positives) / len(positives)
        lines += [
            f"positives per instance: {min(counts)} to {max(counts)}, median {statistics.median(counts)}",
            f"box share quartiles: {[round(cut, 4) for cut in statistics.quantiles(shares, n=4)]}; "
            f"visible < 0.6 in {hidden:.0%}",
            f"fewer than {FEW} positives: {[name for name, number in per_instance.items() if number < FEW]}",
        ]
    return "\n".join(lines)


def _empty_dest(dest: Path, *, overwrite: bool) -> None:
    """Make the folders; whatever else lies in DEST (this package, say) is left alone."""
    ours = [dest / name for name in ("gallery", "queries", "annotations.json", "ATTRIBUTION.md")]
    there = [path for path in ours if path.exists()]
    if there and not overwrite:
        raise SystemExit(f"{there[0]} is there already: name another --dest, or add --overwrite")
    for path in there:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in ours[:2]:
        folder.mkdir(parents=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", required=True, type=existing_folder, help="as in render_scenes")
    parser.add_argument("--photos", required=True, type=existing_folder, help="as in render_scenes")
    parser.add_argument("--out", required=True, type=existing_folder, help="as in render_scenes")
    parser.add_argument("--set", required=True, choices=set_names(), help="which set of sets.json")
    parser.add_argument("--dest", required=True, type=Path, help="folder that the gallery is written to")
    parser.add_argument("--overwrite", action="store_true", help="replace the gallery that is in DEST")
    return parser.parse_args()


def main() -> int:
    """Assembles what is finished; says on stderr how much of the plan is not."""
    args = _arguments()
    gallery_set = load_set(args.set)
    work = args.out / "work" / args.set
    records = {path.stem: Record.load(path) for path in sorted(work.glob("*.json"))}
    if not records:
        raise SystemExit(f"there is no finished picture in {work}: run render_scenes first")
    missing = [job.key for job in plan(gallery_set) if job.key not in records]
    if missing:
        print(f"note: {len(missing)} pictures of the plan are not there, e.g. {missing[0]}", file=sys.stderr)
    text = attribution(args.models, read_catalogue(args.models), records.values(), gallery_set.distractor_photos)
    _empty_dest(args.dest, overwrite=args.overwrite)
    assembly = assemble(gallery_set, records, work, args.photos, args.dest)
    (args.dest / "ATTRIBUTION.md").write_text(text, encoding="utf-8")
    print(summary(assembly))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
