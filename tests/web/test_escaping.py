"""Names that are HTML stay names: whatever a picture or an object is called, the page keeps its structure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from patchify_core.demo.box_methods import MAP
from patchify_core.demo.compression import Stop, sizes
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.indexes import IndexChoice
from patchify_core.demo.links import Link
from patchify_core.demo.overview import Curve, FailedQuery
from patchify_core.demo.studies import read_studies
from patchify_core.gallery import read_coco
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.regions import parse_regions
from patchify_core.retrieval.ranking import Verification
from patchify_core.web import views
from patchify_core.web.views.compression import Effect
from tests.page_server import write_gallery
from tests.study_files import write_studies
from tests.tiny import INFO, TinyEncoder

EVIL = st.text("<>&\"'=x ", min_size=1).map(lambda text: f"<i>{text}")
PLAIN = "qwerty"
NOT_OURS = {"evaluation", "trial"}
"""Their own tests have hostile names."""


class Structure(HTMLParser):
    """The tags with the names of their attributes, and all that a reader could come upon."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[Any] = []
        self.content = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, [name for name, _ in attrs]))
        self.content += "".join(f"\n{value}" for _, value in attrs) + "\n"

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.content += data


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Callable[[str], dict[str, list[str]]]:
    """The HTML of every view, where all that is not ours is called by one name."""
    gallery = read_coco(write_gallery(tmp_path_factory.mktemp("set")))
    build_index(gallery, gallery.root / "index", TinyEncoder(), parse_regions("pyramid:3"), MAPS)
    showcase = ExampleGallery(gallery.root, TinyEncoder())
    files = tmp_path_factory.mktemp("studies")
    write_studies(files, gallery)
    studies = read_studies(files)
    asked, index = showcase.first(), showcase.index
    answer = showcase.answer(asked, 3, 5, None, MAP)
    ranks = {match.image_id: rank for rank, match in enumerate(showcase.ranking(asked, 3), 1)}
    looked = showcase.detail(asked, answer.results[0].match.image_id, 3, 5, None, MAP)
    rows = np.random.default_rng(0).uniform(0, 40, (7, 2))
    pairs = list(zip(sizes("Flat", 24, 14), sizes("SQ8", 24, 14), strict=True))

    def all_views(name: str) -> dict[str, list[str]]:
        def url(path: Path) -> str:
            return f"file={name}"

        def size(image_id: int) -> tuple[int, int, Path]:
            return 320, 240, Path("x.png")

        encoder = replace(INFO, spec=name, licence=name)
        kept = {part: getattr(index, part) for part in ("regions", "dim", "maps", "images", "bytes_per_image")}
        offer = IndexChoice(name, name, SimpleNamespace(encoder=encoder, features="crop", **kept))
        query = replace(asked, name=name, path=Path("x.png"))
        match = replace(looked.result.match, file_name=name)
        checked = Verification(name, 7, 7, rows, rows, 0.5, match.score)
        pointed = replace(match, verification=checked)
        details = [replace(looked, result=replace(looked.result, match=one)) for one in (match, pointed)]
        curve = Curve(name, 8, 2, (1, 2), (0.1, 0.2), (0.1, 0.2), name)
        failing = FailedQuery(query, answer, 1, Link(example=1))
        effect = Effect(name, name, name, answer, answer, ranks, {})
        study = studies.found["compression"]
        called = {**study.datasets, name: study.datasets["elsewhere"]}
        lines = [{**row, "dataset": name if row["dataset"] == "elsewhere" else row["dataset"]} for row in study.rows]
        study = study.model_copy(update={"datasets": called, "rows": lines, "machine": name, "command": name})
        given = replace(studies, found={**studies.found, "compression": study})
        missing = replace(studies, found={}, problems={"compression": name})
        return {
            "header": [views.render("header", logo=name)],
            "footer": [views.render("footer", note=name, encoder=name, bibtex=name)],
            "galleries": [views.render("galleries", choices=[(name, "/", True), (name, f"/{name}/", False)])],
            "story": [views.story([curve], (), [failing], 1, gallery, url, "photos")],
            "examples": [views.examples([(1, name, Path("x.png"))], 1, url)],
            "query": [views.query(query, url), views.query(replace(query, words=name, index_name=name), url)],
            "about": [views.about([offer])],
            "loading": [views.loading(offer, ready) for ready in (True, False)],
            "cards": [views.cards(answer, size, url)],
            "strip": [views.strip(answer, name)],
            "detail": [views.detail(one, size(1), query, url) for one in details],
            "controls": [views.controls((Stop(name, 96),), name, (name,), name, 24, name)],
            "training": [views.training(name, wait) for wait in (True, False)],
            "effect": [views.effect(effect, size, url)],
            "gallery": [
                views.gallery(one, name, Stop("Flat", 5120), "uniform", 14, pairs, url) for one in (given, missing)
            ],
        }

    return all_views


MAPS = BuildSettings(features="pooled:128", keep_maps=True)


@settings(max_examples=10, deadline=None)
@given(name=EVIL)
@example(name="</script><script>alert('&amp;\"')</script>")
@example(name='" onerror="alert(1)" x="')
@example(name="{{ 7 * 7 }}{% for %}")
def test_names_never_become_html(drawn, name) -> None:
    evil, plain = drawn(name), drawn(PLAIN)
    assert set(evil) == set(views.__all__) - {"render"} - NOT_OURS | {"header", "footer", "galleries"}
    for view, pages in evil.items():
        for got, expected in zip(*(map(Structure, map(str, one)) for one in (pages, plain[view])), strict=True):
            assert got.tags == expected.tags, view
            shown = name.rpartition("/")[2]  # of an encoder's checkpoint the page says the file alone
            assert got.content.count(shown) >= expected.content.count(PLAIN) > 0, view
