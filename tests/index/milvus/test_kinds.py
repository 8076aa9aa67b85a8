"""open_store, and addresses, index kinds and names in Milvus."""

from __future__ import annotations

import numpy as np
import pytest

from patchify_core.gallery import read_gallery
from patchify_core.index import open_store
from patchify_core.index.build import build_index
from patchify_core.index.milvus.collection import build_params, checked_kind, checked_name, code_bytes, search_params
from patchify_core.index.milvus.connect import Address
from patchify_core.index.milvus.store import _best_patches, rescore
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.store import Hits, PatchStore
from tests.tiny import write_pictures


def test_a_folder_of_faiss_opens_as_a_patch_index(tmp_path, tiny):
    build_index(read_gallery(write_pictures(tmp_path / "pictures", range(3))), tmp_path / "index", tiny)
    store: PatchStore = open_store(tmp_path / "index")
    assert isinstance(store, PatchIndex)
    assert isinstance(store, PatchStore)


def test_what_is_no_index_is_refused(tmp_path, refused):
    assert "not an index folder" in refused(open_store, tmp_path)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        (None, "Say where Milvus is"),
        ("patches", "neither an address nor a file"),
        ("ftp://host:1", "is not the address"),
        ("http://", "is not the address"),
        ("http://host:99999", "is not the address"),
        ("http://user:secret@host:19530", "MILVUS_TOKEN"),
        ("tcp://user:secret@host:19530", "MILVUS_TOKEN"),
        ("user:secret@host:19530", "MILVUS_TOKEN"),
        ("https://user:secret@host:0", "MILVUS_TOKEN"),
        ("https://user:secret@host:99999", "MILVUS_TOKEN"),
        ("https://host:19530?token=secret", "MILVUS_TOKEN"),
        ("missing/patches.db", "no folder"),
    ],
)
def test_addresses_that_are_refused(uri, why, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refused(Address.of, uri)
    assert why in message and "secret" not in message


def test_tls_options_need_tls_and_a_certificate_that_is_there(tmp_path, refused):
    assert "for TLS" in refused(Address.of, "http://host:1", None, "ca.pem")
    assert "--ca" in refused(Address.of, "https://host:1", None, str(tmp_path / "ca.pem"))


def test_the_token_comes_from_the_environment_and_is_not_shown(monkeypatch):
    monkeypatch.setenv("MILVUS_TOKEN", "root:secret")
    address = Address.of("http://host:19530")
    assert address.token == "root:secret" and "secret" not in repr(address)


def test_index_kinds(refused):
    assert checked_kind(None, lite=True) == "FLAT" and checked_kind(None, lite=False) == "HNSW"
    assert checked_kind("ivf_pq", lite=False) == "IVF_PQ"
    assert "IVF_PQ" in refused(checked_kind, "ivf_pq", True)
    assert 128 % build_params("IVF_PQ", 128)["m"] == 0
    assert search_params("HNSW", 500)["ef"] >= 500  # a server refuses less
    assert search_params("FLAT", 500) == {}


@pytest.mark.parametrize("dim", [1, 3, 7, 24, 128, 1280])
def test_code_bytes_divide_the_dimensions(dim):
    assert dim % code_bytes(dim) == 0 and 1 <= code_bytes(dim) <= max(1, dim // 4)


def test_collection_names(refused):
    assert checked_name("patchify_1") == "patchify_1"
    for name in ("a b", "1a", "", "a-b", "x" * 256):
        assert "collection" in refused(checked_name, name)


def test_the_best_patch_of_each_picture_is_the_coarser_of_equals():
    patches = Hits(
        np.array([4, 2, 4, 2, 9]), np.array([0.5, 0.9, 0.5, 0.1, 0.9], np.float32), np.array([7, 3, 1, 0, 5])
    )
    best = _best_patches(patches)
    assert best.rows.tolist() == [2, 9, 4] and best.cells.tolist() == [3, 5, 1]


def test_pictures_found_by_codes_are_ordered_by_whole_vectors():
    vectors = {1: np.eye(2, dtype=np.float32), 2: np.full((2, 2), 0.9, np.float32)}
    hits = Hits(np.array([1, 2]), np.array([0.99, 0.98], np.float32), np.array([0, 0]))
    again = rescore(hits, np.array([0, 1], np.float32), 1, 2, lambda n: np.stack([vectors[i] for i in n.tolist()]))
    assert again.rows.tolist() == [2, 1] and again.scores.tolist() == pytest.approx([0.9, 0.0])
