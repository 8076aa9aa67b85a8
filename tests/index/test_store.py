"""index.store: the parts of a store must fit together."""

from __future__ import annotations

from dataclasses import replace

import faiss
import numpy as np
import pytest

from patchify_core.index.codec.codes import Codes
from patchify_core.index.codec.projection import Projection
from patchify_core.index.patch_index import PatchIndex, SearchPlan
from patchify_core.index.pictures import IndexedImage, Pictures, PictureTable
from patchify_core.index.recipe import Recipe
from patchify_core.index.store import Hits, PatchStore
from patchify_core.regions import Pyramid, parse_regions
from tests.tiny import DIM, INFO

IMAGES = [IndexedImage(number, f"{number}.png", 40, 30, 7, f"{number:064x}") for number in (5, 2, 9)]
RECIPE = Recipe(INFO, Pyramid(2))
BOXES = np.zeros((3, 5, 4), np.float32)
SALIENT = replace(RECIPE, regions=parse_regions("salient:5"))


class Maps:
    """As many feature maps as wanted."""

    def __init__(self, count):
        self._count = count

    def __len__(self):
        return self._count


def flat(count=15, dim=DIM):
    codes = faiss.IndexFlatIP(dim)
    codes.add(np.eye(count, dim, dtype=np.float32))
    return codes


def projection(full=DIM, dim=8):
    return Projection(np.zeros(full, np.float32), np.eye(full, dim, dtype=np.float32))


@pytest.mark.parametrize("images", [IMAGES, PictureTable.of(IMAGES)], ids=["list", "table"])
def test_parts_that_fit(images):
    index = PatchIndex(RECIPE, Pictures(images), Codes("Flat", flat()))
    assert isinstance(index, PatchStore) and index.image_ids.tolist() == [5, 2, 9] and index.row_of[9] == 2
    boxed = PatchIndex(SALIENT, Pictures(images, boxes=BOXES), Codes("Flat", flat()))
    assert boxed.boxes_of(1).shape == (5, 4) and boxed.box_of(1, 2).dtype == np.float64
    small = replace(RECIPE, factory="PCAH8,Flat")
    assert PatchIndex(small, Pictures(images), Codes("PCAH8,Flat", flat(dim=8), projection())).dim == 8


@pytest.mark.parametrize(
    "make",
    [
        lambda: Pictures(IMAGES, boxes=BOXES[:2]),
        lambda: Pictures(IMAGES, boxes=BOXES[:, :, :3]),
        lambda: Pictures(IMAGES, boxes=BOXES.astype(np.float64)),
        lambda: Pictures(IMAGES, boxes=BOXES + np.nan),
        lambda: Pictures(IMAGES, maps=Maps(2)),
    ],
)
def test_pictures_that_do_not_fit_together(make):
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize(
    ("recipe", "pictures", "codes"),
    [
        (RECIPE, Pictures(IMAGES, boxes=BOXES), Codes("Flat", flat())),
        (SALIENT, Pictures(IMAGES), Codes("Flat", flat())),
        (SALIENT, Pictures(IMAGES, boxes=BOXES[:, :4]), Codes("Flat", flat())),
        (RECIPE, Pictures(IMAGES, maps=Maps(3)), Codes("Flat", flat())),
        (RECIPE, Pictures(IMAGES), Codes("Flat", flat(14))),
        (RECIPE, Pictures(IMAGES), Codes("Flat", flat(dim=8))),
        (RECIPE, Pictures(IMAGES), Codes("Flat", faiss.IndexFlatL2(DIM))),
        (RECIPE, Pictures(IMAGES), Codes("Flat", flat(), fine=flat())),
        (replace(RECIPE, rescore="Flat"), Pictures(IMAGES), Codes("Flat", flat())),
        (replace(RECIPE, rescore="Flat"), Pictures(IMAGES), Codes("Flat", flat(), fine=flat(14))),
        (RECIPE, Pictures(IMAGES), Codes("Flat", flat(dim=8), projection())),
        (replace(RECIPE, factory="PCAH8,Flat"), Pictures(IMAGES), Codes("Flat", flat(dim=8))),
        (replace(RECIPE, factory="PCAH8,Flat"), Pictures(IMAGES), Codes("Flat", flat(dim=8), projection(12))),
    ],
)
def test_a_store_of_parts_that_do_not_fit(recipe, pictures, codes):
    with pytest.raises(ValueError):
        PatchIndex(recipe, pictures, codes)


def test_a_plan_for_lists_that_are_not_there():
    with pytest.raises(ValueError, match="plan"):
        PatchIndex(RECIPE, Pictures(IMAGES), Codes("Flat", flat()), SearchPlan(2))


def test_hits_are_cut_and_joined():
    hits = Hits(np.arange(4), np.linspace(1, 0, 4, dtype=np.float32), np.arange(4) % 2)
    joined = hits[:2].followed_by(hits[2:])
    for name in ("rows", "scores", "cells"):
        assert getattr(joined, name).tolist() == getattr(hits, name).tolist()
        assert getattr(joined, name).dtype == getattr(hits, name).dtype
