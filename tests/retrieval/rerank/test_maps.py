"""Re-ranking by the best box of a picture's map."""

from __future__ import annotations

import pytest

from patchify_core.errors import PatchifyError
from patchify_core.gallery import read_folder
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid
from patchify_core.retrieval.rerank import MapRerank, MapRerankSettings, load_reranker
from tests.tiny import TinyEncoder, write_pictures


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures", range(9), (64, 48))


def engine_of(folder, out, **settings):
    build_index(read_folder(folder), out, TinyEncoder(), Pyramid(2), BuildSettings(**settings))
    return Patchify.open(out, TinyEncoder())


def test_the_shortlist_is_ordered_by_cell_and_box_together(pictures, tmp_path):
    engine = engine_of(pictures, tmp_path / "index", features="pooled:64", keep_maps=True)
    view = engine.view(sorted(pictures.glob("*"))[4], (8, 8, 40, 40))
    plain = engine.search_descriptor(view.descriptor)
    settings = MapRerankSettings(shortlist=5, weight=0.3)
    found = MapRerank(settings).rerank(engine, view, plain, None)
    localizer = engine.refiner("map").localizer
    evidence = {m.image_id: localizer.locate(view, engine.index.row_of[m.image_id])[0] for m in plain[:5]}
    slow = sorted(plain[:5], key=lambda m: -(0.7 * m.score + 0.3 * evidence[m.image_id].evidence))
    assert [m.image_id for m in found] == [m.image_id for m in slow] + [m.image_id for m in plain[5:]]
    for match in found[:5]:
        assert match.box.tolist() == evidence[match.image_id].box.tolist()
    assert [m.box.tolist() for m in found[5:]] == [m.box.tolist() for m in plain[5:]]
    scores = [m.score for m in found[:5]]
    assert scores == sorted(scores, reverse=True)


def test_excluded_pictures_take_no_part(pictures, tmp_path):
    from dataclasses import replace

    engine = engine_of(pictures, tmp_path / "index", features="pooled:64", keep_maps=True)
    view = engine.view(sorted(pictures.glob("*"))[0])
    plain = engine.search_descriptor(view.descriptor)
    best = plain[0].image_id
    found = MapRerank(MapRerankSettings(shortlist=3)).rerank(
        engine, replace(view, exclude=frozenset({best})), plain, None
    )
    assert {m.image_id for m in found[:3]} == {m.image_id for m in plain[1:4]}
    assert len(found) == len(plain)


def test_an_index_of_crops_is_refused(pictures, tmp_path):
    engine = engine_of(pictures, tmp_path / "index")
    with pytest.raises(PatchifyError, match="--features pooled --keep-maps"):
        engine.search(sorted(pictures.glob("*"))[0], rerank="map")


def test_it_is_loaded_by_name_and_chains():
    assert load_reranker("map").name == "map"
    chain = load_reranker("patch-qe+map")
    assert chain.name == "patch-qe+map"
    assert not chain.needs_picture
    assert chain.shortlist == max(MapRerankSettings.shortlist, load_reranker("patch-qe").shortlist)
