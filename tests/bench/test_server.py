"""bench.server: a large gallery in which the bundled one's answers are still the answers."""

from __future__ import annotations

import numpy as np
import pytest

from patchify_core.bench.server import make_gallery
from patchify_core.demo import example_gallery as module
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.gallery import read_coco
from patchify_core.index.patch_index import PatchIndex
from patchify_core.web.views import strip


@pytest.fixture(scope="module")
def crowd(tmp_path_factory, sample_db):
    folder = tmp_path_factory.mktemp("crowd") / "gallery"
    folder.mkdir()
    make_gallery(sample_db, folder, 400)
    return folder


def test_it_is_a_gallery_with_an_index(crowd, sample_db):
    gallery, bundled = read_coco(crowd), read_coco(sample_db)
    index = PatchIndex.load(crowd / "index")
    assert len(gallery.images) == len(index.images) == 400
    assert all(image.path.is_file() for image in gallery.images)
    index.check_pictures(crowd, content=True)
    assert gallery.instances == bundled.instances and len(gallery.queries) == len(bundled.queries)
    assert {i: [*gallery.positives(i)] for i in gallery.instances} == {
        i: [*bundled.positives(i)] for i in bundled.instances
    }


def test_mixed_pictures_have_neighbours_among_themselves_and_none_among_the_bundled_ones(crowd):
    index = PatchIndex.load(crowd / "index")
    whole = np.stack([index.descriptors_of(row)[0] for row in range(400)])
    similar = whole @ whole.T
    np.fill_diagonal(similar, -1)
    assert similar[164:, 164:].max(axis=1).min() > 0.4
    assert similar[164:, :164].max() < similar[:164, :164].max(axis=1).mean()


def test_fewer_than_the_bundled_ones_are_refused(tmp_path, sample_db, refused):
    assert "--pictures 164" in refused(make_gallery, sample_db, tmp_path, 100)


def test_a_large_gallery_is_ranked_and_scored_to_a_depth(crowd, monkeypatch):
    whole = ExampleGallery(crowd)
    query = whole.first()
    every = whole.answer(query, whole.levels, 10)
    assert every.ranked == 0 and "Scored are" not in strip(every, "it")
    monkeypatch.setattr(module, "WHOLE_UP_TO", 300)
    monkeypatch.setattr(module, "RANKED", 50)
    deep = ExampleGallery(crowd)
    answer = deep.answer(deep.first(), deep.levels, 10)
    assert answer.ranked == len(deep.ranking(deep.first(), deep.levels)) == 50 and answer.pictures == 400
    assert [one.match.image_id for one in answer.results] == [one.match.image_id for one in every.results]
    assert every.score is not None and every.score.ap > 0.5
    assert answer.score is not None
    assert answer.score.ap <= every.score.ap and answer.score.positives == every.score.positives
    assert "of 400 pictures do). Scores are of the first 50." in strip(answer, "it")
    again = deep.answer(deep.first(), deep.levels, 10, "patch-qe")
    assert again.ranked == 50
