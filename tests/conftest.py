"""What several test files share. The real encoder is loaded, and the bundled queries described, once a session."""

from __future__ import annotations

import gc
import os

# Before numpy is loaded: threads of BLAS that wait for each other make k-means on a few vectors take seconds.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# OpenMP's threads spin while they wait for each other. Beside a second worker, servers and browsers no core is free for
# that: one pass of a small network took 17 times the processor time of the same pass with its waiting threads asleep.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("PATCHIFY_DEVICE", "cpu")  # the numbers that the tests know are the processor's

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from patchify_core.cli.main import main
from patchify_core.demo.own.boxes import RememberingPatchify
from patchify_core.encoders import Encoder, load_encoder
from patchify_core.errors import PatchifyError
from patchify_core.gallery import Gallery, read_coco
from patchify_core.patchify import Patchify
from tests.browsing import chromium
from tests.tiny import TinyEncoder

ROOT = Path(__file__).parents[1]

if not os.environ.get("CI"):  # there Hypothesis has such a profile of its own
    settings.register_profile("unhurried", deadline=None)  # others may be at work on the same cores
    settings.load_profile("unhurried")

SLOWEST = (
    "bench/test_bench.py",
    "encoders/test_maps.py",
    "web/test_page_access.py",
    "web/test_page_galleries.py",
    "web/test_page_own.py",
    "index/shards/test_ray.py",
    "web/test_page.py",
    "web/test_page_mends.py",
    "encoders/test_aspect.py",
    "web/test_strangers.py",
    "web/test_page_try.py",
    "web/test_page_share.py",
    "web/test_page_evaluation.py",
    "encoders/test_engines.py",
    "retrieval/rerank/test_learned.py",
    "bench/test_scale.py",
    "web/test_page_tabs.py",
    "web/test_page_class.py",
    "web/test_page_walk.py",
    "web/test_page_hosted.py",
    "retrieval/localize/test_tap.py",
    "cli/test_index.py",
    "cli/test_evaluate.py",
    "index/test_nothing_lost.py",
)
"""Files that take longest, measured with `--durations`. They come first: a worker that got one of them last would still
be at it when the others have nothing left to do."""


def pytest_configure(config: pytest.Config) -> None:
    """The order is that of `pytest_collection_modifyitems`; xdist's own takes files of few tests for quick ones."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the slowest files first, then those with the most tests."""
    files = [item.path.relative_to(ROOT / "tests").as_posix() for item in items]
    tests = Counter(files)
    rank = {file: SLOWEST.index(file) if file in SLOWEST else len(SLOWEST) for file in tests}
    order = sorted(range(len(items)), key=lambda at: (rank[files[at]], -tests[files[at]], files[at]))
    items[:] = [items[at] for at in order]


def pytest_collection_finish() -> None:
    """Takes the thousands of tests, which stay to the end, out of what Python looks through for garbage."""
    gc.freeze()


@pytest.fixture
def little_to_collect() -> None:
    """The same for all that other tests have loaded: to look through it once takes a second or more."""
    gc.freeze()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium for the tests of one file."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads of FAISS that wait for each other take longer than a test's few vectors."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="session")
def sample_db() -> Path:
    """The bundled gallery's folder."""
    return ROOT / "sample_db"


@pytest.fixture(scope="session")
def sample_gallery(sample_db: Path) -> Gallery:
    """The bundled gallery."""
    return read_coco(sample_db)


@pytest.fixture(scope="session")
def lite0() -> Encoder:
    """The default encoder, real weights."""
    return load_encoder("effnet-lite0")


@pytest.fixture(scope="session")
def sample_engine(sample_db: Path, lite0: Encoder) -> Patchify:
    """The bundled index, ready to be asked."""
    return RememberingPatchify.open(sample_db / "index", lite0)


@pytest.fixture
def tiny() -> TinyEncoder:
    """An encoder that costs nothing and counts its work."""
    return TinyEncoder()


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """refused(function, *arguments): its sentence; fails if it is accepted, or refused in any other way."""

    def call(function: Callable[..., object], *arguments: object, **named: object) -> str:
        with pytest.raises(PatchifyError) as caught:
            function(*arguments, **named)
        message = str(caught.value)
        # One sentence for a person: one line, ended, and not a Python object's own words.
        assert "\n" not in message and message.endswith(".") and "<" not in message and "Error" not in message
        return message

    return call


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and nothing downloaded before."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "nothing"))


@pytest.fixture
def tiny_everywhere(monkeypatch):
    """Commands in this process get the tiny encoder for the default one; unknown names stay unknown."""

    def load(spec="effnet-lite0", settings=None):
        return TinyEncoder() if spec in ("effnet-lite0", "tiny") else load_encoder(spec, settings)

    monkeypatch.setattr("patchify_core.encoders.load_encoder", load)
    monkeypatch.setattr("patchify_core.patchify.load_encoder", load)


@pytest.fixture
def run(capsys):
    """run("index", folder, ...): (exit code, stdout, stderr)."""

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return call
