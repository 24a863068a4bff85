"""Only the allowed schemes pass, however a URL is written; names never lead out; messages hold no secrets."""

import urllib.parse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.storage import url

# What webdataset, fsspec and urllib would each do something with.
FORBIDDEN = [
    "pipe:cat /etc/passwd", "PIPE:ls", " pipe:ls", "pi\npe:ls", "\x00pipe:ls", "pipe://ls", "data:text/plain,x",
    "data://x", "ssh://host/x", "sftp://host/x", "ftp://host/x", "ftps://h/x", "memory://x", "github://a:b@c/x",
    "zip://a.txt::s3://bucket/x.zip", "simplecache::s3://bucket/x", "s3://bucket/x::pipe:ls", "local://x", "root://h/x",
    "ais://bucket/x", "reference://x", "smb://h/x", "hdfs://h/x", "abfs://c@h/x", "http:x", "s3:/bucket/x", "s3:bucket",
    "file:relative", "file://relative/x", "file:///a/../b", "file:///a/%2e%2e/b", "s3://bucket/../x", "s3://",
    "s3:///key", "https://", "http://h/a/%2E%2E/b", "http://[bad/x", "http://h:port/x", "s3://key:secret@bucket/x",
    "gs://key@bucket/x", "s3://bucket/a\nb", "http://h/%00", "", " ", "a::b", "./x::pipe:ls",
]  # fmt: skip
ALLOWED = [
    "faces", "/data/faces", "./a:b", "../x", "s3://bucket", "s3://bucket/a b/[c]{d}*?.tar", "gs://b/x", "hf://datasets/u/r@main/x",
    "http://host:80/x?a=b", "https://user:word@host/x", "file:///abs/path.tar", "S3://bucket/x", "HTTPS://h/x",
]  # fmt: skip


@pytest.mark.parametrize("place", FORBIDDEN)
def test_a_forbidden_place_is_refused_in_one_line(place: str):
    with pytest.raises(ValueError) as caught:
        url.check(place)
    message = str(caught.value)
    assert "\n" not in message and "secret" not in message and len(message) < 600


@pytest.mark.parametrize("place", ALLOWED)
def test_an_allowed_place_passes(place: str):
    assert url.check(place).partition("://")[2] == place.partition("://")[2]


SCHEMES = st.sampled_from(
    ["pipe", "s3", "gs", "http", "https", "hf", "file", "ftp", "ssh", "data", "zip", "simplecache", "memory"]
)
TEXTS = st.text(st.sampled_from("abAB/:.\\ \t\n\x00{}*@?#%2e[]é-+~"), max_size=24)


@given(st.one_of(st.text(max_size=30), st.builds(lambda a, s, b, c: a + s + b + c, TEXTS, SCHEMES, TEXTS, TEXTS)))
def test_nothing_outside_the_schemes_passes(place: str):
    try:
        checked = url.check(place)
    except ValueError as error:
        if "\n" in str(error):
            raise
        return
    assert urllib.parse.urlparse(checked.replace("[", "(").replace("]", ")")).scheme in ("", *url.SCHEMES)
    assert "::" not in checked
    assert not url.is_url(checked) or checked.startswith(tuple(f"{scheme}://" for scheme in url.SCHEMES))
    assert url.check(checked) == checked


@pytest.mark.parametrize(
    "folder", ["faces", "/data", "s3://bucket", "s3://b/x/", "gs://b/x", "http://h/a?token=x", "https://h", "file:///d"]
)
@given(name=st.lists(st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/"), min_size=1)))
def test_a_name_is_joined_below_its_folder_or_refused(folder: str, name: list[str]):
    text = "/".join(name)
    try:
        joined = url.join(folder, text)
    except ValueError:
        assert not name or any(part in (".", "..") for part in name) or "::" in text
        return
    if "::" in text:
        return  # a local name, which is never a place of its own
    assert url.name(joined) == name[-1]
    assert url.join(*url.split(joined)) == joined
    if url.is_url(folder):
        assert url.check(joined).startswith(url.check(folder).partition("?")[0].rstrip("/") + "/")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".", "a/.", "a/", "x\0y"])
@pytest.mark.parametrize("folder", ["/data", "s3://bucket/x", "http://h/x", "file:///data"])
def test_a_name_that_leads_out_is_refused(folder: str, name: str):
    with pytest.raises(ValueError):
        url.join(folder, name)


def test_no_secret_is_shown():
    for place in ("https://user:secret@host/a?X-Amz-Signature=secret#secret", "s3://key:secret@bucket/x"):
        assert "secret" not in url.shown(place)
    assert url.shown("https://user:secret@host:81/a/b.tar?x=1") == "https://host:81/a/b.tar"
    assert url.shown("s3://bucket/what?.tar") == "s3://bucket/what?.tar"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("x", ["x"]),
        ("x-{000..002}.tar", ["x-000.tar", "x-001.tar", "x-002.tar"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{a,b}{1..2}", ["a1", "a2", "b1", "b2"]),
        ("{a,b{0..1},}", ["a", "b0", "b1", ""]),
        ("{a}{", ["{a}{"]),
        ("{{a,b}}", ["{a}", "{b}"]),
        ("s3://b/{train,test}/{00..01}.tar", [f"s3://b/{s}/{n}.tar" for s in ("train", "test") for n in ("00", "01")]),
    ],
)
def test_braces_name_places(pattern: str, expected: list[str]):
    assert url.expand(pattern) == expected


@pytest.mark.parametrize(
    "pattern", ["{0..1000000}", "{0..999}{0..999}{0..1}", "{0..99999999999999}", "{" * 2000 + "a" + "}" * 2000]
)
def test_a_pattern_is_bounded(pattern: str):
    with pytest.raises(ValueError):
        url.expand(pattern)


@given(st.text(st.sampled_from("{},.019ab"), max_size=40))
def test_any_pattern_ends(pattern: str):
    try:
        places = url.expand(pattern)
    except ValueError:
        return
    assert 1 <= len(places) <= url.EXPANDED_MAX


def test_the_path_of_a_local_place(tmp_path: Path):
    path = tmp_path / "a b%20ü"
    assert url.local(path.as_uri()) == path
    assert url.local(path) == path
    assert url.local("s3://bucket/x") is None
