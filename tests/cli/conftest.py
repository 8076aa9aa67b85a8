"""What the tests of several commands share."""

from __future__ import annotations

import pytest

from tests.cli import DONE, REFUSED
from tests.tiny import write_dataset, write_pictures


@pytest.fixture
def refusal(run):
    """refusal("index", ...): the one line that says why not; nothing else may be printed."""

    def call(*arguments):
        code, printed, said = run(*arguments)
        assert code == REFUSED and printed == ""
        assert said.startswith("error: ") and said.endswith(".\n") and said.count("\n") == 1, said
        return said

    return call


@pytest.fixture
def photos(tmp_path):
    return write_pictures(tmp_path / "photos", range(6), (60, 42))


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "dataset")


@pytest.fixture
def idx(run, photos, tmp_path):
    """An index of the folder `photos`, pyramid:2."""
    assert run("index", photos, "--out", tmp_path / "idx", "--regions", "pyramid:2")[0] == DONE
    return tmp_path / "idx"
