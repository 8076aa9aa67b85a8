"""Files of learned re-rankers: the published ones, others, none, and downloads."""

from __future__ import annotations

import functools
import http.server
import socket
import threading

import pytest
import torch

from patchify_core.retrieval.rerank import LEARNED, LearnedSettings, learned, load_reranker
from patchify_core.retrieval.rerank.networks import MATCHERS, Detector
from tests.checkpoints import BAD, save_bad
from tests.retrieval.rerank.weights import KINDS, detector_shapes, files, published_shapes, random_state, reranker, save
from tests.timing import shortest
from tests.tiny import DIM

# Files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "binary"), KINDS)
def test_the_networks_have_the_published_tensors(name, binary):
    shapes = {key: tuple(value.shape) for key, value in MATCHERS[name](768, binary).state_dict().items()}
    assert shapes == published_shapes(name, 768, binary)
    assert {key: tuple(value.shape) for key, value in Detector(768).state_dict().items()} == detector_shapes(768)


@pytest.mark.parametrize(("name", "binary"), KINDS)
@pytest.mark.parametrize("how", ["training", "state dict", "safetensors"])
def test_published_files_load(name, binary, how, tmp_path):
    state = random_state(published_shapes(name, 768, binary))
    network = learned.load_matcher(name, save(tmp_path / "w.pt", state, how))
    assert network.channels == 768 and network.binary == binary and not network.training
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_half_precision_is_read(tmp_path):
    state = random_state(published_shapes("elvis", 8))
    network = learned.load_matcher("elvis", save(tmp_path / "w.pt", {key: v.half() for key, v in state.items()}))
    assert all(
        v.dtype == torch.float32 and torch.equal(v, state[k].half().float()) for k, v in network.state_dict().items()
    )


@pytest.mark.parametrize("name", LEARNED)
def test_without_files_one_sentence_says_what_to_do(name, refused, tmp_path):
    said = refused(load_reranker, name)
    assert "--rerank-weights FILE" in said and "--allow-torch-hub" in said and learned.PUBLISHED in said
    chosen = files(tmp_path, name)
    said = refused(reranker, name, chosen, detector=None)
    assert "dinov2_detector.pt" in said and "--rerank-detector FILE" in said


def test_the_environment_may_name_the_files(tmp_path, monkeypatch):
    from patchify_core.demo.reranking import Rerankers

    assert not set(LEARNED) & set(Rerankers().names)  # the page offers what is configured
    chosen = files(tmp_path, "elvis")
    monkeypatch.setenv("PATCHIFY_ELVIS", str(chosen.weights))
    monkeypatch.setenv("PATCHIFY_RERANK_DETECTOR", str(chosen.detector))
    assert load_reranker("elvis").recipe["weights"] == reranker("elvis", chosen).recipe["weights"]
    assert set(LEARNED) & set(Rerankers().names) == {"elvis"}
    assert Rerankers().load("elvis").name == "elvis"


@pytest.mark.parametrize("which", ["weights", "detector"])
@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_checkpoint(which, kind, tmp_path, refused):
    chosen = files(tmp_path, "elvis")
    bad = save_bad(kind, getattr(chosen, which), tmp_path)
    said = refused(reranker, "elvis", chosen, **{which: bad})
    assert str(bad) in said and not (tmp_path / "ran").exists()


def test_a_checkpoint_of_another_model(tmp_path, refused):
    ames, elvis = files(tmp_path, "ames"), files(tmp_path, "elvis")
    wide = files(tmp_path, "elvis", channels=32)
    cases = [
        ("ames", {"weights": elvis.weights}, "AMES"),
        ("elvis", {"weights": ames.weights}, "ELViS"),
        ("ames", {"weights": ames.detector}, "AMES"),
        ("ames", {"detector": elvis.weights}, f"a detector for {DIM} numbers"),
        ("elvis", {"detector": wide.detector}, f"a detector for {DIM} numbers"),
    ]
    for name, changes, title in cases:
        [path] = changes.values()
        assert f"{path} is not a checkpoint of {title}" in refused(
            reranker, name, ames if name == "ames" else elvis, **changes
        )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dust_bin": None}, "differ in 'dust_bin'"),
        ({"more": torch.zeros(2)}, "differ in 'more'"),
        ({"f.0.weight": torch.zeros(8, 1)}, "differ in 'f.0.weight'"),
        ({"remap_local.0.weight": torch.zeros(128)}, "differ in 'remap_local.0'"),
        ({"remap_local.0.weight": torch.zeros(64, 8)}, "differ in 'remap_local.0'"),
        ({"remap_local.0.weight": torch.ones(1, 1).expand(128, 10**9)}, "differ in 'remap_local.0'"),
        ({"g.0.bias": torch.zeros(64, device="meta")}, "differ in 'g.0.bias'"),
        ({"g.0.bias": torch.zeros(64, dtype=torch.complex64)}, "differ in 'g.0.bias'"),
        ({"g.0.bias": torch.full((64,), torch.nan)}, "not finite"),
    ],
)
def test_a_damaged_checkpoint(changes, said, tmp_path, refused):
    chosen = files(tmp_path, "elvis")
    state = random_state(published_shapes("elvis", DIM)) | changes
    path = save(tmp_path / "bad.pt", {key: value for key, value in state.items() if value is not None})
    assert said in refused(reranker, "elvis", chosen, weights=path)


# Downloads ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server in the place of the authors', and an empty cache: the folder that it serves, and the cache."""
    served, cache = tmp_path / "served", tmp_path / "hub"
    for file in learned.FILES.values():
        (served / file).parent.mkdir(parents=True, exist_ok=True)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(learned, "PUBLISHED", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(cache))
    yield served, cache / "checkpoints"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", LEARNED)
def test_files_are_downloaded_once_and_only_if_that_is_allowed(name, hub, refused):
    served, cache = hub
    save(served / learned.FILES[name], random_state(published_shapes(name, DIM)))
    save(served / learned.FILES["detector"], random_state(detector_shapes(DIM)))
    assert "--allow-torch-hub" in refused(load_reranker, name)
    assert not cache.exists()
    first = reranker(name, LearnedSettings(), allow_hub=True).recipe
    names = sorted(path.name for path in cache.iterdir())
    assert names == sorted([learned.FILES[name].rpartition("/")[2], "dinov2_detector.pt"])
    for file in (name, "detector"):
        (served / learned.FILES[file]).unlink()
    assert reranker(name, LearnedSettings(), allow_hub=True).recipe == first


def test_half_a_download_is_not_kept(hub, refused):
    served, cache = hub
    path = save(served / learned.FILES["elvis"], random_state(published_shapes("elvis", DIM)))
    path.write_bytes(path.read_bytes()[:-1000])
    assert "cannot be downloaded" in refused(reranker, "elvis", LearnedSettings(), allow_hub=True)
    assert list(cache.iterdir()) == []
    save(path, random_state(published_shapes("elvis", DIM)))
    assert "dinov2_detector.pt cannot be downloaded" in refused(reranker, "elvis", LearnedSettings(), allow_hub=True)


def test_offline_one_sentence(hub, refused, monkeypatch):
    said: list[str] = []

    def ask() -> None:
        said.append(refused(reranker, "ames", LearnedSettings(), allow_hub=True))

    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call and says nothing
        monkeypatch.setattr(learned, "PROBE_S", 0.3)
        for address in ("http://127.0.0.1:9/", f"http://127.0.0.1:{silent.getsockname()[1]}/"):
            monkeypatch.setattr(learned, "PUBLISHED", address)
            assert shortest(ask, 5) < 5
            assert "dinov2_ames.pt cannot be downloaded" in said[-1] and "--rerank-weights FILE" in said[-1]
