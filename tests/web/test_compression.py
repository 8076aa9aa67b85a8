"""What the Compression tab computes, without a browser: sizes, codecs made live, and what moves."""

from __future__ import annotations

import threading
import time

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify_core.demo import compression
from patchify_core.demo.compression import (
    MEMORY,
    CodecTrainer,
    Stop,
    bytes_per_patch,
    centroids,
    has_codebook,
    overhead,
    ranking,
    size_label,
    sizes,
    stops,
)
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.studies import Studies, read_studies
from patchify_core.evaluation.study.experiments import EQUAL_BYTES, FACTORIES
from patchify_core.index import build
from patchify_core.index.codec.codes import CodeSettings, encode_codes
from patchify_core.index.codec.factory import CODEBOOKS, make_codec, parse_factory, train
from patchify_core.web import views
from patchify_core.web.views.compression import Effect
from tests.study_files import write_studies
from tests.tiny import TinyEncoder, write_dataset

LIVE = ("Flat", "SQ8", "PCAH8,SQ8", "PCAH8,PQ4x4", "PCAH8,PQ4")

# Sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", sorted({*FACTORIES, *EQUAL_BYTES, "SQ4", "SQfp16", "PQ32x12", "PCAH96,PQ16x6"}))
def test_bytes_and_overhead_are_those_of_the_real_codec(factory) -> None:
    dim = 192
    compression = parse_factory(factory.replace("256", "64"))
    codec = make_codec(compression, dim)
    assert bytes_per_patch(compression.factory, dim) == codec.sa_code_size()
    kept = compression.projection or dim
    learned = 0 if compression.projection is None else 4 * (1 + kept) * dim
    if not codec.is_trained:
        count = max(300, 1 << codec.pq.nbits) if hasattr(codec, "pq") and codec.pq.nbits <= 8 else 300
        if not (hasattr(codec, "pq") and codec.pq.nbits > 8):
            train(codec, np.random.default_rng(0).normal(size=(count, kept)).astype(np.float32), factory)
    if hasattr(codec, "pq"):
        learned += faiss.vector_to_array(codec.pq.centroids).nbytes
    if hasattr(codec, "sq"):
        learned += faiss.vector_to_array(codec.sq.trained).nbytes
    assert overhead(compression.factory, dim) == learned


@given(st.integers(1, 10**8), st.integers(1, 100), st.sampled_from(LIVE))
def test_sizes_are_the_sum_over_pictures(pictures, patches, factory) -> None:
    (size,) = sizes(factory, 24, patches, [pictures])
    assert size.codes == sum([patches * size.bytes_per_patch]) * pictures
    assert size.total == size.codes + overhead(factory, 24)
    assert size.fits == (size.total <= 16_000_000_000) == (size.total <= MEMORY)


def test_known_sizes() -> None:
    exact, small = sizes("Flat", 1280, 30), sizes("PCAH128,PQ64", 1280, 30)
    assert [s.total for s in exact] == [10_000 * 30 * 5120, 1_000_000 * 30 * 5120, 10_000_000 * 30 * 5120]
    assert small[1].codes == 1_920_000_000
    assert small[1].overhead == 129 * 1280 * 4 + 256 * 128 * 4
    assert [s.fits for s in exact] == [True, False, False]
    assert [s.fits for s in small] == [True, True, False]


@pytest.mark.parametrize("factory", ["PCAH128,IVF256,PQ32", "OPQ32,PQ32", "PQ32x4fs", "nonsense"])
def test_sizes_that_are_not_known_are_refused(refused, factory) -> None:
    refused(bytes_per_patch, factory, 1280)


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (153_600, "154 kB"), (1.536e12, "1.54 TB")]
)
def test_words_of_a_size(size, said) -> None:
    assert size_label(size) == said


# Codecs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def showcase(tmp_path_factory) -> ExampleGallery:
    from patchify_core.gallery import read_coco
    from patchify_core.index.build import build_index
    from patchify_core.regions import parse_regions

    gallery = read_coco(write_dataset(tmp_path_factory.mktemp("set")))
    build_index(gallery, gallery.root / "index", TinyEncoder(), parse_regions("pyramid:4"))
    return ExampleGallery(gallery.root, TinyEncoder())


@pytest.fixture
def live(monkeypatch) -> None:
    """Codecs that a tiny encoder's 24 numbers can have."""
    monkeypatch.setattr(compression, "FACTORIES", LIVE)
    monkeypatch.setattr(compression, "EQUAL_BYTES", ())


def test_stops_are_one_for_each_size_and_fit_the_descriptors(showcase, sample_engine) -> None:
    assert stops(showcase.index) == (Stop("Flat", 96), Stop("SQ8", 24))
    found = stops(sample_engine.index)
    assert [s.bytes_per_patch for s in found] == [5120, 1280, 1024, 256, 128, 64, 32, 16, 8]
    assert [s.factory for s in found if s.bytes_per_patch in (64, 32, 8)] == [
        "PCAH128,PQ64",
        "PCAH128,PQ64x4",
        "PCAH128,PQ16x4",
    ]


def wanted(
    made: CodecTrainer, showcase: ExampleGallery, factory: str, codebook: str = "uniform"
) -> compression.Training:
    training = made.request("index", showcase.index, factory, codebook)
    assert training.done.wait(60)
    made.release(training)
    return training


def test_exact_is_the_index_itself_and_changes_no_rank(live, showcase) -> None:
    query = showcase.first()
    coded = wanted(CodecTrainer(), showcase, "Flat").index
    assert coded is showcase.index
    exact = showcase.ranking(query, showcase.levels)
    for slow, fast in zip(exact, ranking(query, coded), strict=True):
        assert (fast.image_id, fast.patch, fast.score, fast.file_name) == (
            slow.image_id,
            slow.patch,
            slow.score,
            slow.file_name,
        )
        np.testing.assert_array_equal(fast.box, slow.box)


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_ranking_by_codes_is_that_of_every_decoded_patch(live, showcase, refused, codebook) -> None:
    made, factory = CodecTrainer(), "PCAH8,PQ4x4"
    if codebook == "global":  # seven pictures are too few whole pictures for 16 words
        assert "16" in refused(made.request, "index", showcase.index, factory, codebook)
        return
    coded = wanted(made, showcase, factory, codebook).index
    query, index = showcase.first(), showcase.index
    settings = CodeSettings(factory, codebook)
    slow = encode_codes(index.descriptors_of, len(index.images), index.regions, index.dim, settings)
    assert slow.projection is not None
    descriptor = slow.projection(query.descriptor[None])[0]
    decoded = slow.codes.reconstruct_n(0, len(index.images) * 30).reshape(len(index.images), 30, -1)
    scores = (decoded @ descriptor).max(axis=1)
    found = ranking(query, coded)
    np.testing.assert_allclose([m.score for m in found], np.sort(scores)[::-1], atol=1e-5)
    by_id = {image.id: scores[row] for row, image in enumerate(index.images)}
    np.testing.assert_allclose([by_id[m.image_id] for m in found], [m.score for m in found], atol=1e-5)


def test_trained_codecs_are_everybodys_and_bounded(live, showcase, monkeypatch) -> None:
    made = CodecTrainer()
    first = wanted(made, showcase, "PCAH8,PQ4x4")
    assert wanted(made, showcase, "PCAH8,PQ4x4").index is first.index
    # Where there is no codebook its choice makes no other codec.
    assert wanted(made, showcase, "SQ8", "informative").index is wanted(made, showcase, "SQ8", "uniform").index
    monkeypatch.setattr(compression, "CACHED", 1)
    wanted(made, showcase, "PCAH8,SQ8")
    assert wanted(made, showcase, "PCAH8,PQ4x4").index is not first.index


def test_what_a_browser_may_send_is_refused(live, showcase, refused) -> None:
    made = CodecTrainer()
    for factory, codebook in (
        ("PQ9999", "uniform"),
        ("IVF65536,Flat", "uniform"),
        (None, "uniform"),
        (["Flat"], "uniform"),
        ("Flat", "nonsense"),
        ("Flat", None),
        ("Flat", {}),
    ):
        refused(made.request, "index", showcase.index, factory, codebook)
    assert "256" in refused(made.request, "index", showcase.index, "PCAH8,PQ4", "uniform")  # 210 patches


def test_only_one_is_trained_at_a_time_and_two_visitors_share_it(live, showcase, monkeypatch) -> None:
    at_once, most, calls = 0, 0, []
    real, lock = build.encode_codes, threading.Lock()

    def slow(*arguments):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
            calls.append(arguments[-1].factory)
        time.sleep(0.1)
        made = real(*arguments)
        with lock:
            at_once -= 1
        return made

    monkeypatch.setattr(build, "encode_codes", slow)
    made = CodecTrainer()
    asked = ["SQ8", "PCAH8,SQ8", "PCAH8,PQ4x4", "SQ8"]
    trainings = [made.request("index", showcase.index, factory, "uniform") for factory in asked]
    assert trainings[0] is trainings[3]
    assert all(training.done.wait(60) for training in trainings)
    assert most == 1
    assert sorted(calls) == sorted(set(asked))


def test_training_that_nobody_waits_for_is_given_up(live, showcase, monkeypatch) -> None:
    begun, go, coded = threading.Event(), threading.Event(), []
    real = build.encode_codes

    def held(descriptors, *arguments):
        begun.set()
        assert go.wait(60)
        made = real(descriptors, *arguments)
        coded.append(made)
        return made

    monkeypatch.setattr(build, "encode_codes", held)
    made = CodecTrainer()
    training = made.request("index", showcase.index, "PCAH8,PQ4x4", "uniform")
    assert begun.wait(60)
    made.release(training)
    go.set()
    assert training.done.wait(60)
    assert training.index is None and "given up" in str(training.error)
    assert coded == []
    assert wanted(made, showcase, "PCAH8,PQ4x4").index is not None  # whoever asks next gets it


def test_too_many_trainings_are_refused_and_a_failed_one_does_not_block_the_rest(
    live, showcase, refused, monkeypatch
) -> None:
    go = threading.Event()
    real = build.encode_codes
    monkeypatch.setattr(compression, "WAITING", 2)
    monkeypatch.setattr(build, "encode_codes", lambda *arguments: go.wait(60) and real(*arguments))
    made = CodecTrainer()
    trainings = [made.request("index", showcase.index, factory, "uniform") for factory in ("SQ8", "PCAH8,SQ8")]
    assert "try again" in refused(made.request, "index", showcase.index, "PCAH8,PQ4x4", "uniform")
    go.set()
    assert all(training.done.wait(60) for training in trainings)
    assert wanted(made, showcase, "PCAH8,PQ4x4").index is not None


def test_words_are_the_centroids_of_each_part() -> None:
    assert [centroids(f, 1280) for f in ("PCAH128,PQ64", "PCAH128,PQ64x4", "SQ8", "Flat")] == [256, 16, 0, 0]
    assert not has_codebook("PCAH128,SQ8") and has_codebook("PCAH128,PQ64")


# Views ------------------------------------------------------------------------------------------------------


def test_cards_say_what_moved_and_what_was_lost(showcase) -> None:
    query = showcase.first()
    before = showcase.answer(query, 4, 3)
    ids = [match.image_id for match in showcase.ranking(query, 4)]
    order = [ids[1], ids[0], ids[4], ids[2], ids[3], *ids[5:]]
    matches = {match.image_id: match for match in showcase.ranking(query, 4)}
    asked = showcase.with_instance(query, query.instance)
    asked.rankings[(4, None)] = showcase.ranking(query, 4).with_first([matches[i] for i in order])
    after = showcase.answer(asked, 4, 3)
    ranks = ({i: n for n, i in enumerate(ids, 1)}, {i: n for n, i in enumerate(order, 1)})

    def size(image_id: int):
        image = showcase.gallery.image(image_id)
        return image.width, image.height, image.path

    html = views.effect(Effect("<rug>", "8 bytes", "SQ8", before, after, *ranks), size, str)
    assert "&lt;rug&gt;" in html and "<b>2</b> of the top 3" in html
    assert "→ 4" in html  # the third of before
    assert "▲ 1" in html and "▼ 1" in html and "▲ 2" in html
    same = views.effect(Effect("rug", "8 bytes", "SQ8", before, before, ranks[0], ranks[0]), size, str)
    assert "same, in the same order" in same and same.count('"pf-move is-kept"') == 3


def test_charts_mark_the_chosen_size_and_say_what_is_missing(showcase, tmp_path) -> None:
    write_studies(tmp_path, showcase.gallery)
    name = showcase.folder.resolve().name
    pairs = list(zip(sizes("Flat", 1280, 30), sizes("PCAH128,PQ64", 1280, 30), strict=True))
    stop = Stop("PCAH128,PQ64", 64)
    html = views.gallery(read_studies(tmp_path), name, stop, "uniform", 30, pairs, str)
    assert html.count("<svg") == 4 and html.count('class="pf-mark"') == 2  # 64 bytes are beyond the codebooks' charts
    assert f"{name} mAP" in html and "1.92 GB" in html and "1,000,000 × 30 × 64 B" in html
    none = Studies({}, {"compression": "The results are not here: make it with `some command`."})
    html = views.gallery(none, "", stop, "uniform", 30, pairs, str)
    assert "<code>some command</code>" in html and "<svg" not in html and "1.92 GB" in html
    html = views.gallery(read_studies(tmp_path), name, Stop("SQ8", 1280), "uniform", 30, pairs, str)
    assert "nothing was measured" in html


def test_controls_offer_every_codebook_there_is(showcase) -> None:
    html = views.controls((Stop("Flat", 96), Stop("PQ4x4", 2)), "Flat", CODEBOOKS, CODEBOOKS[0], 24, "SQ8")
    assert all(f'value="{name}"' in html for name in CODEBOOKS)
    assert '<fieldset class="pf-seg is-books" disabled>' in html
    assert "disabled" not in views.controls((Stop("PQ4x4", 2),), "PQ4x4", CODEBOOKS, CODEBOOKS[0], 24, "SQ8")
