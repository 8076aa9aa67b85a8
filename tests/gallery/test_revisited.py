"""read_revisited against small sets in the published layout of ROxford5k and RParis6k, and hostile pickles."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import time

import numpy as np
import pytest
from PIL import Image

from patchify_core.gallery import detect_layout, read_dataset, read_revisited
from patchify_core.gallery.restricted_pickle import RestrictedPickleError, load_plain
from tests.checkpoints import Code
from tests.tiny import picture

WIDTH, HEIGHT = 40, 30
IMAGES = ["all_souls_000013", "all_souls_000026", "oxford_002985", "ashmolean_000058"]
QUERIES = ["all_souls_000051", "ashmolean_000000"]
TRUTH = [
    {"bbx": [4.5, 3.0, 30.0, 20.0], "easy": np.array([0]), "hard": np.array([1]), "junk": np.array([2])},
    {"bbx": [0, 0, 10, 10], "easy": np.array([], np.int64), "hard": np.array([3]), "junk": np.array([], np.int64)},
]


def plain(value):
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def write_truth(folder, protocol=2, name="roxford5k", **changes):
    data = {"imlist": IMAGES, "qimlist": QUERIES, "gnd": TRUTH, **changes}
    (folder / f"gnd_{name}.pkl").write_bytes(pickle.dumps(data, protocol))
    return folder


@pytest.fixture
def oxford(tmp_path):
    (tmp_path / "jpg").mkdir()
    for seed, name in enumerate((*IMAGES, *QUERIES)):
        picture(seed, (WIDTH, HEIGHT)).save(tmp_path / "jpg" / f"{name}.jpg")
    return write_truth(tmp_path)


@pytest.mark.parametrize("protocol", [*range(pickle.HIGHEST_PROTOCOL + 1), "json"])
def test_protocol(oxford, protocol):
    if protocol == "json":
        (oxford / "gnd_roxford5k.json").write_text(
            json.dumps(plain({"imlist": IMAGES, "qimlist": QUERIES, "gnd": TRUTH}))
        )
        os.remove(oxford / "gnd_roxford5k.pkl")
    else:
        write_truth(oxford, protocol)
    gallery = read_revisited(oxford)
    assert [image.file_name for image in gallery.images] == [f"jpg/{name}.jpg" for name in IMAGES]
    assert [image.id for image in gallery.images] == [1, 2, 3, 4]
    assert [query.file_name for query in gallery.queries] == [f"jpg/{name}.jpg" for name in QUERIES]
    assert [query.box.tolist() for query in gallery.queries] == [[4.5, 3, 30, 20], [0, 0, 10, 10]]
    assert [gallery.name(query.instance) for query in gallery.queries] == QUERIES
    assert gallery.positives(1) == {1: None, 2: None} and gallery.ignored(1) == {3}
    assert gallery.positives(2) == {4: None} and gallery.ignored(2) == frozenset()
    assert gallery.benchmark.name == "roxford5k" and gallery.notes == ()
    assert gallery.benchmark.values == {"hard": {(1, 1): 0.0, (1, 2): 1.0, (2, 4): 1.0}}


def test_read_dataset_detects_it(oxford, refused):
    assert detect_layout(oxford) == "revisited" and len(read_dataset(oxford).queries) == 2
    os.rename(oxford / "gnd_roxford5k.pkl", oxford / "gnd_rparis6k.pkl")
    assert read_dataset(oxford).benchmark.name == "rparis6k"
    assert "Only INSTRE and ILIAS have subsets" in refused(read_dataset, oxford, "revisited", "hard")


def test_a_bad_query_box_is_not_fatal(oxford):
    gnd = [{**TRUTH[0], "bbx": [5, 5, 5, 9]}, {**TRUTH[1], "bbx": [-3, 0, 10, 10]}]
    gallery = read_revisited(write_truth(oxford, gnd=gnd))
    assert gallery.queries[0].box is None and gallery.queries[1].box.tolist() == [0, 0, 10, 10]
    assert [note.partition(":")[0] for note in gallery.notes] == [
        "Boxes that cannot be used were left out",
        "Boxes were cut off at the edge of their picture",
        "Queries without a box are used whole",
    ]


def test_rotated_pictures_are_turned_upright_and_counted(oxford):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(9, (HEIGHT, WIDTH)).save(oxford / "jpg" / f"{IMAGES[1]}.jpg", exif=exif)
    gallery = read_revisited(oxford)
    assert (gallery.images[1].width, gallery.images[1].height) == (WIDTH, HEIGHT)
    assert "turned upright (revisitop's own reader does not): 1, first: 'jpg/all_souls_000026.jpg'" in gallery.notes[0]


# Refusals ---------------------------------------------------------------------------------------------------


def test_missing_files(oxford, refused, tmp_path):
    os.remove(oxford / "jpg" / f"{QUERIES[1]}.jpg")
    assert "1 of the 6 files that gnd_roxford5k.pkl needs are missing" in refused(read_revisited, oxford)
    assert "no gnd_roxford5k.pkl or gnd_rparis6k.pkl" in refused(read_revisited, tmp_path / "nowhere")


@pytest.mark.parametrize(
    "changes",
    [
        {"gnd": TRUTH[:1]},
        {"imlist": []},
        {"imlist": [1, 2, 3, 4]},
        {"imlist": [IMAGES[0]] * 4},
        {"gnd": [{**TRUTH[0], "easy": [4]}, TRUTH[1]]},
        {"gnd": [{**TRUTH[0], "easy": [-1]}, TRUTH[1]]},
        {"gnd": [{**TRUTH[0], "easy": [0.5]}, TRUTH[1]]},
        {"gnd": [{**TRUTH[0], "bbx": [1, 2, 3]}, TRUTH[1]]},
        {"gnd": [{"bbx": [1, 2, 3, 4]}, TRUTH[1]]},
        {"gnd": 7},
        {"qimlist": None},
    ],
)
def test_another_ground_truth(oxford, refused, changes):
    assert "is not the ground truth of revisited Oxford or Paris" in refused(
        read_revisited, write_truth(oxford, **changes)
    )


@pytest.mark.parametrize("length", [0, 1, 10, 100, -1, -30])
def test_a_ground_truth_that_is_cut_short(oxford, refused, length):
    file = oxford / "gnd_roxford5k.pkl"
    file.write_bytes(file.read_bytes()[:length])
    assert "gnd_roxford5k.pkl' is cut short or not a pickle" in refused(read_revisited, oxford)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_pickle_is_named_and_never_run(oxford, refused, protocol):
    write_truth(oxford, protocol, extra=Code(oxford / "ran"))
    message = refused(read_revisited, oxford)
    assert "contains" in message and "mkdir, which is not run" in message and not (oxford / "ran").exists()


HOSTILE = {
    "eval": b"cbuiltins\neval\n(V1\ntR.",
    "an attribute of what is allowed": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
    "a registered extension": b"\x80\x02\x82\x01.",
    "a persistent id": b"Pid\n.",
    "objects of an allowed class": b"\x80\x02cnumpy\ndtype\n(X\x01\x00\x00\x00OtR.",
    "an array of objects": pickle.dumps(np.array([Ellipsis, {}], object), 2),
    "texts as an array": pickle.dumps(np.array(["a", "b"]), 2),
    "an array larger than its bytes": pickle.dumps(np.arange(3), 2).replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"),
    "another codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.",
    "bytes by their number": b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.",
    "a memo of two billion": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "a frame of many bytes": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x0fN.",
    "bytes of many bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.",
    "lists shared in 40 levels": b"\x80\x02]" + b"2\x86" * 40 + b".",
    "a dict's key shared in 40 levels": b"\x80\x02})" + b"2\x86" * 40 + b"Ns.",
    "a set": b"\x80\x04\x8f(\x8f\x90.",
    "an array that is shared": b"\x80\x02(" + pickle.dumps(np.arange(3000), 2)[2:-1] + b"2" * 3000 + b"l.",
    "an array of nothing": pickle.dumps(np.zeros((1, 0)), 2).replace(b"K\x01K\x00\x86", b"J\xff\xff\xff\x7fK\x00\x86"),
    "a function's defaults": b"c_codecs\nencode\n(N}S'__defaults__'\n(S'evil'\ntstb.",
    "a function's attribute": b"c_codecs\nencode\n}S'x'\nNsb.",
    "a class's attribute": b"cnumpy\nndarray\n}S'value'\nNsb.",
    "a function alone": b"c_codecs\nencode\n.",
    "a function as a key": b"\x80\x02}c_codecs\nencode\nNs.",
    "a dtype alone": b"\x80\x02]cnumpy\ndtype\nX\x02\x00\x00\x00i8\x85Ra.",
    "nested without end": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles(oxford, refused, case):
    (oxford / "gnd_roxford5k.pkl").write_bytes(HOSTILE[case])
    message = refused(read_revisited, oxford)
    assert "gnd_roxford5k.pkl" in message and "download it again" in message


def test_a_hostile_pickle_changes_nothing_for_the_next_one():
    for case in ("a function's defaults", "a function's attribute", "a class's attribute"):
        with pytest.raises(RestrictedPickleError):
            load_plain(io.BytesIO(HOSTILE[case]))
    bytes_of_two = b"\x80\x02c_codecs\nencode\nX\x02\x00\x00\x00ab\x85R."
    assert load_plain(io.BytesIO(bytes_of_two)) == b"ab"
    assert (load_plain(io.BytesIO(pickle.dumps(np.arange(3), 2))) == [0, 1, 2]).all()


def test_shared_values_count_at_each_use():
    row = list(range(100))
    assert load_plain(io.BytesIO(pickle.dumps([row] * 10, 2))) == [row] * 10
    start = time.thread_time()
    with pytest.raises(RestrictedPickleError, match="far more values than it has bytes"):
        load_plain(io.BytesIO(b"\x80\x02)" + b"2\x86" * 23 + b"."))
    assert time.thread_time() - start < 1
    text = b"X\x00\x00\x10\x00" + b"a" * (1 << 20)  # one megabyte, which 1000 calls encode
    calls = b"\x80\x02c_codecs\nencode\nq\x00" + text + b"\x85q\x01(" + b"h\x00h\x01R" * 1000 + b"l."
    found = load_plain(io.BytesIO(calls))
    assert len(found) == 1000 and len({id(each) for each in found}) == 1


def test_a_file_too_large_is_not_read(oxford, refused, monkeypatch):
    monkeypatch.setattr("patchify_core.gallery.revisited.MAX_TRUTH_BYTES", 100)
    assert "too large" in refused(read_revisited, oxford)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_loaded_like_pickle_does(protocol):
    arrays = [np.arange(6, dtype=code).reshape(2, 3) for code in ("<i8", ">i4", "<f4", "u1", "f8")]
    value = {
        "a": [1, 2.5, None, True, "é", b"\x00\xff", (3, -4)],
        "b": {"c": np.int64(7), "d": np.float32(0.5)},
        3: arrays,
    }
    value["f"] = np.asfortranarray(arrays[0])
    found = load_plain(io.BytesIO(pickle.dumps(value, protocol)))
    assert found["a"] == [1, 2.5, None, True, "é", b"\x00\xff", [3, -4]] and found["b"] == {"c": 7, "d": 0.5}
    for one, other in zip([*found[3], found["f"]], [*arrays, arrays[0]], strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other)


def test_text_of_python_2_pickles():
    data = b"(dp0\nS'imlist'\np1\n(lp2\nS'all_souls_000013'\np3\nas."
    pickletools.dis(data, io.StringIO())
    assert load_plain(io.BytesIO(data)) == {"imlist": ["all_souls_000013"]}
    with pytest.raises(RestrictedPickleError):
        load_plain(io.BytesIO(b"garbage"))
