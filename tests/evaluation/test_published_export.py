"""evaluation.published: what ILIAS' own evaluation makes of the file, by a slow transcription of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from patchify_core.evaluation.published import IliasExport, published_scores
from patchify_core.evaluation.run import evaluate
from patchify_core.gallery import read_ilias
from patchify_core.index.build import build_index
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid
from tests.gallery import test_ilias as layout
from tests.tiny import TinyEncoder

lists, core = layout.lists, layout.core  # fixtures: a small set in ILIAS' layout


def sklearn_ap(right, scores):
    """Average precision as scikit-learn has it: steps of recall at each distinct score, times the precision there."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        above = [r for r, s in zip(right, scores, strict=True) if s >= threshold]
        recall = sum(above) / sum(right)
        total += (recall - before) * sum(above) / len(above)
        before = recall
    return total


def ilias_evaluate(file, listed, k, groups=None):
    """The mean AP@k in percent of a similarity file, and the mean by groups of positives, as `dataset.py` does it."""
    similarities = json.loads(file.read_text())
    truth = {}
    for name in listed:
        truth.setdefault(name.split("/")[0], set()).add(name)

    def ap(query, left_out=frozenset()):
        row = {name: score for name, score in similarities[query].items() if name not in left_out}
        top = sorted(row, key=lambda name: -row[name])[:k]
        wanted = truth[query.split("/")[0]] - left_out
        right = [name in wanted for name in top]
        return sklearn_ap(right, [row[name] for name in top]) * sum(right) / min(k, len(wanted)) if any(right) else 0.0

    whole = 100 * np.mean([ap(query) for query in similarities])
    parts = []
    for inside in groups or ():
        out = {q: frozenset(n for n in truth[q.split("/")[0]] if not inside(n)) for q in similarities}
        some = [ap(q, out[q]) for q in similarities if truth[q.split("/")[0]] - out[q]]
        parts.append(100 * np.mean(some) if some else None)
    return whole, parts


@pytest.fixture
def evaluated(lists, tmp_path):
    rows = zip(layout.POSITIVES, ("0.01,17", "0.5,60", "0.2,20"), strict=True)
    (lists / "image_ids" / "positive_ids.txt").write_text("".join(f"{name},{more}\n" for name, more in rows))
    for seed in range(30):
        layout.save(lists / "yfcc100m" / "00000" / f"d{seed}.jpg", 100 + seed)
    gallery = read_ilias(lists)
    build_index(gallery, tmp_path / "idx", TinyEncoder(), Pyramid(2))
    return gallery, Patchify.open(tmp_path / "idx", TinyEncoder()), tmp_path / "similarities.json"


@pytest.mark.parametrize("ranks", [1000, 5])
def test_its_own_evaluation_gives_our_numbers(evaluated, ranks, monkeypatch):
    monkeypatch.setattr("patchify_core.evaluation.published.ILIAS_RANKS", ranks)
    gallery, engine, file = evaluated
    export = IliasExport(gallery, 2)
    first, finest = evaluate(gallery, engine, ranked=export.add)
    file.write_text(json.dumps(export.similarities))
    assert list(export.similarities) == layout.QUERIES
    assert (
        set(layout.POSITIVES) | {"00000/d0"} <= {name for row in export.similarities.values() for name in row}
        or ranks == 5
    )
    limits = [(0, 0.0688), (0.0688, 0.1353), (0.1353, 0.273), (0.273, 9)]
    scale = dict(zip(layout.POSITIVES, (0.01, 0.5, 0.2), strict=True))
    groups = [lambda name, low=low, high=high: low <= scale[name] < high for low, high in limits]
    whole, parts = ilias_evaluate(file, layout.POSITIVES, ranks, groups)
    scores = {(one.measure, one.part): one.value for one in finest.published}
    assert 100 * scores[f"mAP@{ranks}", "all"] == pytest.approx(whole) and first.report.map != finest.report.map
    names = ["scale < 0.0688", "scale 0.0688-0.135", "scale 0.135-0.273", "scale >= 0.273"]
    for name, part in zip(names, parts, strict=True):
        assert (part is None) == ((f"mAP@{ranks}", name) not in scores)
        assert part is None or 100 * scores[f"mAP@{ranks}", name] == pytest.approx(part)
    assert published_scores({q: o.positives for q, o in finest.outcomes.items()}, gallery) == tuple(finest.published)


class Backwards:
    name, shortlist, needs_picture = "backwards", 1, False

    def rerank(self, engine, query, matches, level):
        return matches[::-1]


def test_re_ranked_pictures_keep_their_places(evaluated):
    """Their scores do not descend, and ILIAS' code sorts by score."""
    gallery, engine, file = evaluated
    export = IliasExport(gallery, 2)
    [report] = evaluate(gallery, engine, levels=[2], reranker=Backwards(), ranked=export.add)
    file.write_text(json.dumps(export.similarities))
    assert ilias_evaluate(file, layout.POSITIVES, 1000)[0] == pytest.approx(100 * report.at_1k.map)
