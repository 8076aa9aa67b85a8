"""imaging.filenames: a name leads to its file in any spelling, or to a clear error."""

from __future__ import annotations

import os
import time
import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.imaging.filenames import LISTING_TTL_S, FileFinder, FileNameError, may_escape, name_key, picture_path

SPELLINGS = {
    "as it is": lambda name: name,
    "NFD": lambda name: unicodedata.normalize("NFD", name),
    "NFC": lambda name: unicodedata.normalize("NFC", name),
    "upper": lambda name: name.swapcase(),
    "backslash": lambda name: name.replace("/", "\\"),
    "percent": lambda name: quote(name),
    "percent twice": lambda name: quote(quote(name)),
    "percent all": lambda name: quote(name, safe=""),
    "dot": lambda name: "./" + name,
    "all": lambda name: quote(unicodedata.normalize("NFD", name).replace("/", "\\").upper(), safe=""),
}


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return FileFinder(folder)


@pytest.mark.parametrize("here", SPELLINGS)
@pytest.mark.parametrize("there", ["as it is", "NFD", "NFC", "upper", "percent"])
def test_every_spelling_of_either_side_is_found(here, there, tmp_path):
    """Whether the dataset or the file system has the unusual spelling."""
    name = "Föhn & Café/My Photo (1) é.JPG"
    on_disk = SPELLINGS[there](name)
    files = make(tmp_path, on_disk, "other/photo.jpg")
    assert files.find(SPELLINGS[here](name)) == on_disk


@pytest.mark.parametrize(
    "name", ["computer%20vision.png", "100% cotton.png", "a#b?c&d=e.png", "%", "%zz%41.png", "a+b.png"]
)
def test_an_exact_name_takes_precedence(name, tmp_path):
    files = make(tmp_path, name, "computer vision.png", "%zzA.png", "a b.png")
    assert files.find(name) == name and not files.respelled


def test_a_file_with_a_backslash_in_its_name(tmp_path):
    """As unzip creates them from an archive made on Windows."""
    if os.sep == "\\":
        pytest.skip("a backslash separates folders here")
    files = make(tmp_path, "images\\a.png")
    assert files.find("images/a.png") == "images\\a.png"


def test_several_matches_are_named_and_none_is_used(tmp_path):
    files = make(tmp_path, "A.jpg", "a.JPG")
    if len(os.listdir(tmp_path)) < 2:
        pytest.skip("this file system does not tell letter cases apart")
    with pytest.raises(FileNameError, match=r"2 files have similar names: '.\....', '.\....'"):
        files.find("a.jpg")
    assert files.find("A.jpg") == "A.jpg"  # an exact match


def test_similar_names_are_suggested(tmp_path):
    files = make(tmp_path, "holiday/IMG_0001.png", "deep/er/x.jpg", "zebra.gif")
    for wanted, there in [
        ("IMG_0001.png", "holiday/IMG_0001.png"),
        ("holiday/IMG_0001.jpg", "IMG_0001.png"),
        ("x.jpg", "deep/er"),
    ]:
        with pytest.raises(FileNameError, match=r"is missing \(similar names there: ") as error:
            files.find(wanted)
        assert there in str(error.value) and "zebra" not in str(error.value)
    with pytest.raises(FileNameError, match=r"^is missing$"):
        files.find("IMG_0001.png", suggest=False)
    with pytest.raises(FileNameError, match=r"^is missing$"):
        files.find("nothing like it")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a.png", "x/../../a.png", "..\\a.png", "C:\\a.png", "C:a.png", "\\\\host\\share\\a.png"]
)
def test_nothing_leads_out(name, tmp_path):
    make(tmp_path, "a.png")
    assert may_escape(name)
    with pytest.raises(FileNameError, match="leads out"):
        make(tmp_path / "in", "b.png").find(name)


def test_encoded_dots_do_not_lead_out(tmp_path):
    make(tmp_path, "a.png")
    files = make(tmp_path / "in", "b.png")
    for name in ("%2e%2e/a.png", "%2e%2e%2fa.png", "..%5ca.png", "x/%2e%2e/%2e%2e/a.png"):
        with pytest.raises(FileNameError):
            files.find(name)


def test_a_web_address_is_refused(tmp_path):
    with pytest.raises(FileNameError, match="is an address"):
        FileFinder(tmp_path).find("https://example.org/a.png")


NAMES = st.text(st.sampled_from("aÀ ß%é.-_2İ1ǰ"), min_size=1, max_size=8).filter(lambda text: text.strip(". ") == text)


def test_a_combining_accent_does_not_complete_an_escape(tmp_path):
    """NFD of "%1À" begins with "%1A", an escaped control character."""
    files = make(tmp_path, "%1À.png")
    assert files.find(unicodedata.normalize("NFD", "%1À.png")) == "%1À.png"


@settings(max_examples=80, deadline=None)
@given(st.sets(NAMES, min_size=1, max_size=6), st.sampled_from(sorted(SPELLINGS)), st.data())
def test_never_another_file(tmp_path_factory, names, spelling, data):
    """A file that is found has the same key, and is the only one or has exactly that name."""
    folder = tmp_path_factory.mktemp("names")
    files = make(folder, *names)
    there = os.listdir(folder)
    name = data.draw(st.sampled_from(sorted(names)))
    try:
        asked = SPELLINGS[spelling](name)
        found = files.find(asked)
    except FileNameError:
        assert [name_key(each) for each in there].count(name_key(name)) != 1 or may_escape(asked)
    else:
        assert found in there and name_key(found) == name_key(name)


def test_an_indexed_picture_is_found_under_another_spelling(tmp_path):
    """For example after a copy from macOS or through a zip from Windows."""
    make(tmp_path, "Föhn/A b.png")
    for name in ("Föhn/A b.png", "fo\u0308hn\\a%20B.PNG"):
        assert picture_path(tmp_path, name) == tmp_path / "Föhn" / "A b.png"
    assert picture_path(tmp_path, "gone.png") == tmp_path / "gone.png"
    make(tmp_path, "late.png")  # after the first listing of the folder
    assert picture_path(tmp_path, "late.png").is_file()


def test_a_picture_that_is_put_back_under_another_spelling_is_found(tmp_path, monkeypatch):
    """Even if it was missing at an earlier lookup, in a notebook or on a server."""
    assert not picture_path(tmp_path, "Late.png").is_file()
    make(tmp_path, "late.PNG")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + LISTING_TTL_S)
    assert picture_path(tmp_path, "Late.png") == tmp_path / "late.PNG"


@pytest.mark.parametrize("name", ["a:1.png", "sub/../sub/b.png", "sub//b.png", "./sub/./b.png"])
def test_names_that_only_seem_to_lead_out(name, tmp_path):
    if os.sep == "\\" and ":" in name:
        pytest.skip("a colon has another meaning here")
    files = make(tmp_path, "a:1.png" if os.sep == "/" else "a.png", "sub/b.png")
    assert (tmp_path / files.find(name)).is_file() and ".." not in files.find(name)
    assert files.find(str(tmp_path / "sub" / "b.png")) == "sub/b.png"  # absolute, but below the folder


def test_absolute_names_through_a_link(tmp_path):
    """For example /tmp on macOS, or a home on another disk: either side may contain the link."""
    make(tmp_path / "disk", "sub/b.png")
    try:
        (tmp_path / "link").symlink_to(tmp_path / "disk", target_is_directory=True)
    except OSError:
        pytest.skip("no links here")
    for root, said in (("disk", "link"), ("link", "disk")):
        assert FileFinder(tmp_path / root).find(str(tmp_path / said / "sub" / "b.png")) == "sub/b.png"
    make(tmp_path / "other", "sub/b.png")
    with pytest.raises(FileNameError, match="leads out"):
        FileFinder(tmp_path / "disk").find(str(tmp_path / "other" / "sub" / "b.png"))


def test_a_name_that_leads_out_suggests_similar_ones(tmp_path):
    files = make(tmp_path, "images/f0.png", "images/f1.png")
    for name in ("/home/bob/data/f0.png", "C:\\Users\\bob\\f0.png", "../elsewhere/f0.png"):
        with pytest.raises(FileNameError, match=r"leads out of .* \(similar names there: 'images/f0.png'"):
            files.find(name)
