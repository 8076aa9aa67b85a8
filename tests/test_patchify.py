"""The facade: from a folder to matches and a score in a few lines."""

from __future__ import annotations

import numpy as np
import pytest

from patchify_core import Patchify, PatchifyError, evaluate, read_dataset
from patchify_core.regions import Pyramid
from tests.tiny import TinyEncoder, write_dataset, write_pictures


def test_a_folder_becomes_an_engine_and_only_what_is_new_is_embedded(tmp_path):
    folder, encoder = write_pictures(tmp_path / "photos", range(4), (60, 42)), TinyEncoder()
    engine = Patchify.build(folder, tmp_path / "index", encoder, Pyramid(2))
    first = sorted(folder.iterdir())[0]
    matches = engine.search(first)
    assert matches[0].file_name == first.name and matches[0].score == pytest.approx(1, abs=1e-3)
    query = engine.describe_query(first)
    explained = engine.explain(query, matches[0].image_id)
    assert explained.scores.shape == (5,) and explained.patch == int(np.argmax(explained.scores))
    opened = Patchify.open(tmp_path / "index", TinyEncoder())
    assert [match.image_id for match in opened.search(first)] == [match.image_id for match in matches]
    encoded = encoder.encoded
    write_pictures(folder, range(4, 6), (60, 42))
    again = Patchify.build(folder, tmp_path / "index", encoder, Pyramid(2))
    assert len(again.index.images) == 6 and encoder.encoded == encoded + 2 * 5


def test_a_dataset_is_scored_as_evaluate_scores_it(tmp_path):
    folder = write_dataset(tmp_path / "set")
    engine = Patchify.build(folder, tmp_path / "index", TinyEncoder(), Pyramid(2))
    ours = engine.evaluate(folder, levels=[1, 2])
    theirs = evaluate(read_dataset(folder), engine, [1, 2])
    assert [report.report for report in ours] == [report.report for report in theirs]


def test_what_cannot_be_built_or_scored_is_one_sentence(tmp_path):
    with pytest.raises(PatchifyError):
        Patchify.build(tmp_path / "nowhere", tmp_path / "index", TinyEncoder())
    folder = write_pictures(tmp_path / "photos", range(2), (60, 42))
    with pytest.raises(PatchifyError, match="dataset"):
        Patchify.build(folder, tmp_path / "index", TinyEncoder()).evaluate(folder)
    with pytest.raises(PatchifyError, match="effnet-lite9"):
        Patchify.build(folder, tmp_path / "other", "effnet-lite9")
