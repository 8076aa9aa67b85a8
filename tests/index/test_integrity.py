"""index.integrity and index.swap: digests of blocks agree with those of files, and readers find a swapped index."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.errors import IndexFolderError
from patchify_core.index import integrity, swap
from patchify_core.index.folder import read_meta
from patchify_core.index.integrity import Digests, is_intact, listed_file
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.swap import current_place, read_steadily
from tests.index.test_patch_index import random_index


def listed(data, pieces, block_bytes):
    digests = Digests(block_bytes)
    for piece in np.array_split(np.frombuffer(data, np.uint8), pieces):
        digests.update(piece.tobytes())
    return digests.listed()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 9), st.integers(1, 90))
def test_digests_are_those_of_the_bytes_however_they_come(data, pieces, block_bytes):
    entry = listed(data, pieces, block_bytes)
    assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    if len(data) <= block_bytes:
        assert entry.keys() == {"bytes", "sha256"}  # as it always was
    else:
        starts = range(0, len(data), block_bytes)
        assert entry["blocks"] == [hashlib.sha256(data[at : at + block_bytes]).hexdigest() for at in starts]
        assert entry["block_bytes"] == block_bytes


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 950])
@pytest.mark.parametrize("pread", [True, False])
def test_every_changed_byte_and_length_is_noticed(tmp_path, monkeypatch, size, pread):
    if not pread:
        monkeypatch.delattr(os, "pread", raising=False)
    monkeypatch.setattr(integrity, "CHUNK_BYTES", 64)
    data = np.random.default_rng(size).bytes(size)
    entry = listed(data, 3, 100)
    path = tmp_path / "x"

    def whole(content):
        path.write_bytes(content)
        with open(path, "rb") as file:
            return is_intact(file, entry, threads=3)

    assert whole(data)
    assert not whole(data + b"x") and (not size or not whole(data[:-1]))
    for at in range(0, size, 7):
        assert not whole(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])


@pytest.mark.parametrize("change", [{"blocks": []}, {"blocks": ["0" * 64]}, {"block_bytes": 0}, {"block_bytes": -1}])
def test_a_list_of_blocks_that_is_not_one_proves_nothing(tmp_path, change):
    (tmp_path / "x").write_bytes(bytes(300))
    entry = listed(bytes(300), 1, 100) | change
    with open(tmp_path / "x", "rb") as file:
        assert not is_intact(file, entry)


def test_what_was_read_is_told(tmp_path):
    (tmp_path / "x").write_bytes(bytes(5000))
    told = []
    with open(tmp_path / "x", "rb") as file:
        assert is_intact(file, listed(bytes(5000), 1, 1000), told.append)
    assert sum(told) == 5000 and len(told) == 5


def test_a_large_file_is_listed_in_blocks_and_loads(tmp_path, monkeypatch, refused):
    monkeypatch.setattr(Digests.__init__, "__defaults__", (512,))
    (tmp_path / "idx").mkdir()
    random_index().write(tmp_path / "idx", ".")
    path = tmp_path / "idx" / "index.faiss"
    entry = read_meta(tmp_path / "idx")["files"]["index.faiss"]
    assert len(entry["blocks"]) == -(-path.stat().st_size // 512) > 2 and entry == listed_file(path)
    assert PatchIndex.load(tmp_path / "idx").meta() == random_index().meta()
    data = bytearray(path.read_bytes())
    data[-600] ^= 4
    path.write_bytes(data)
    assert "not the file that was written" in refused(PatchIndex.load, tmp_path / "idx")


# Where the index stands -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "idx").mkdir()
    random_index().write(tmp_path / "idx", ".")
    return tmp_path / "idx"


def moved_aside(folder):
    private = folder.with_name(folder.name + swap.PRIVATE)
    private.mkdir()
    return folder.rename(private / swap.OLD_NAME)


def test_between_the_two_renames_of_a_swap_the_old_index_is_found(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    root = PatchIndex.load(folder).root
    aside = moved_aside(folder)
    assert current_place(folder) == aside
    for name in (folder, tmp_path / "link"):
        assert PatchIndex.load(name).meta() == random_index().meta()
    assert PatchIndex.load(folder).root == root  # not relative to where it was moved
    assert read_meta(folder)["format"] == 2
    assert not folder.exists()  # readers move nothing


def test_what_stands_in_its_place_comes_first(folder):
    aside = moved_aside(folder)
    folder.mkdir()
    random_index(seed=1).write(folder, ".")
    assert current_place(folder) == folder
    (aside / "index.faiss").unlink()
    assert PatchIndex.load(folder).meta() == random_index(seed=1).meta()


def test_what_is_nowhere_is_refused_at_once(tmp_path, refused):
    calls = []
    with pytest.raises(IndexFolderError):
        read_steadily(tmp_path / "idx", lambda place: calls.append(place) or read_meta(place))
    assert calls == [tmp_path / "idx"]


def test_reading_goes_on_until_no_build_is_in_the_way(folder):
    places = []

    def read(place):
        places.append(place)
        if len(places) == 1:
            moved_aside(folder)
        if len(places) == 2:
            os.replace(place, folder)
        if len(places) <= 2:
            raise IndexFolderError("torn.")
        return "whole"

    assert read_steadily(folder, read) == "whole"
    assert [place.name for place in places] == ["idx", "old", "idx"]


def test_a_reader_gives_up_where_builds_never_end(folder, monkeypatch):
    monkeypatch.setattr(swap, "_PAUSE_S", 0)
    calls = []

    def read(place):
        calls.append(place)
        os.utime(place / "meta.json", ns=(0, len(calls)))  # as if another index stood there
        raise IndexFolderError("torn.")

    with pytest.raises(IndexFolderError, match="torn"):
        read_steadily(folder, read)
    assert len(calls) == swap._MAX_SWAPS + 1


# What cannot be read --------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files cannot be locked away here")
@pytest.mark.parametrize("name", ["meta.json", "index.faiss"])
def test_a_file_that_may_not_be_read_is_no_reason_to_delete_an_index(name, tmp_path, refused):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as shelf:  # not below tmp_path, which only its owner may enter
        os.chmod(shelf, 0o755)
        folder = Path(shelf) / "idx"
        folder.mkdir()
        random_index().write(folder, ".")
        for path in folder.iterdir():
            path.chmod(0o444)
        folder.chmod(0o555)
        (folder / name).chmod(0)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)
            said = refused(PatchIndex.load, folder)
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)
        assert f"{name} cannot be read (Permission denied): check its permissions" in said and "delete" not in said
        (folder / name).chmod(0o444)
        folder.chmod(0o555)
        try:
            if root:
                os.seteuid(65534)
            assert len(PatchIndex.load(folder).images) == 5  # a read-only index is an index
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)


def test_a_disk_that_fails_while_it_is_read(folder, monkeypatch, refused):
    def fail(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(integrity, "_read_at", fail)
    said = refused(PatchIndex.load, folder)
    assert "index.faiss cannot be read (Input/output error)" in said and "delete" not in said


def test_a_file_cut_while_it_is_read_is_not_whole(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(bytes(100))
    monkeypatch.setattr(integrity, "_read_at", lambda file, at, size, lock: b"")
    with open(tmp_path / "x", "rb") as file:
        assert not is_intact(file, listed(bytes(100), 1, 1000))


def test_reading_at_a_place_without_pread(monkeypatch):
    monkeypatch.delattr(os, "pread", raising=False)
    assert integrity._read_at(io.BytesIO(b"0123456789"), 3, 4, threading.Lock()) == b"3456"
