"""The page: nothing that a corpus holds becomes markup, and nothing outside of it is asked for."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from t2f_dist.inspection.census import Census, Rejection, take
from t2f_dist.inspection.excerpt import Excerpt, excerpts
from t2f_dist.inspection.markup import element
from t2f_dist.inspection.page import page
from t2f_dist.shard.build import build
from tests.shard.raw import Corpus

HOSTILE = [
    "<script>alert(1)</script>",
    "</li></ul></figcaption><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "'\"--><!--",
    "]]></style><script>alert(1)</script>",
    "&lt;script&gt; &#60;b&#62; &amp;",
    "javascript:alert(1) https://example.com/x.png",
    "a\u202etxt.exe",
]


class Reader(HTMLParser):
    """The tags with their attributes, and the text between them."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def census(shards: Path) -> Census:
    return take(shards, progress=False)


@pytest.fixture(scope="module")
def shown(shards: Path) -> list[Excerpt]:
    return excerpts(shards, "train", 9)


def test_pictures_captions_and_voices_are_in_it(census: Census, shown: list[Excerpt]):
    read = Reader(page(census, "train", shown))
    for caption in (caption for each in shown for caption in each.captions):
        assert caption in read.text
    pictures = read.of("img")
    assert len(pictures) == len(shown)
    for picture, each in zip(pictures, shown, strict=True):
        content = base64.b64decode((picture["src"] or "").removeprefix("data:image/png;base64,"), validate=True)
        with Image.open(io.BytesIO(content)) as image:
            assert image.tobytes() == each.image.tobytes()
    voices = read.of("audio")
    assert 0 < len(voices) <= 6
    for voice in voices:
        content = base64.b64decode((voice["src"] or "").removeprefix("data:audio/flac;base64,"), validate=True)
        samples, rate = soundfile.read(io.BytesIO(content))
        assert rate == 16_000 and len(samples) == 800
    charts = read.of("svg")
    assert len(charts) > 6
    assert {"Words a caption", "Speech a voice", "Source width", "Captions an image"} <= set(read.text)


def test_no_script_nothing_from_elsewhere_and_a_policy_that_says_so(census: Census, shown: list[Excerpt]):
    text = page(census, "train", shown)
    read = Reader(text)
    (policy,) = [meta["content"] for meta in read.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    assert re.search(r"img-src data:;.*media-src data:;.*style-src 'sha256-[A-Za-z0-9+/]{43}='", policy)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in read.tags}
    for tag, attributes in read.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset", "action")]
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    css = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in css and "@import" not in css


def test_hostile_captions_are_text(tmp_path: Path):
    """From the corpus on, through shards: also in keys, identities and reasons."""
    corpus = Corpus(tmp_path / "corpus", people=4)
    corpus.rows[0]["captions"] = HOSTILE
    corpus.rows.append({"image": "<script>no</script>.jpg", "captions": ["x<script>"]})
    corpus.write()
    build(corpus.recipe(tmp_path / "<b>shards", split={"validation": 0, "test": 0}), workers=1, progress=False)
    census = take(tmp_path / "<b>shards", progress=False)
    shown = excerpts(tmp_path / "<b>shards", "train", 100)
    plain = Reader(page(census, "train", [replace(each, captions=["plain"] * 6, num_captions=8) for each in shown]))
    census.rejections = [Rejection("captions", "rejected", HOSTILE[0], 3)]
    read = Reader(page(census, "train", [replace(each, captions=HOSTILE[:6], num_captions=8) for each in shown]))
    # of reasons, a table more
    assert [tag for tag, _ in read.tags if tag not in ("table", "tr", "td", "th", "div", "svg", "rect")] == [
        tag for tag, _ in plain.tags if tag not in ("table", "tr", "td", "th", "div", "svg", "rect")
    ]
    assert f"rejected: {HOSTILE[0]}" in read.text and "<b>shards" in read.text
    assert sum(text == HOSTILE[1] for text in read.text) == len(shown)


@settings(max_examples=200, deadline=None)
@given(st.text(), st.text())
def test_any_text_is_text(content: str, value: str):
    read = Reader(element("p", {"title": value}, content).html)
    assert [tag for tag, _ in read.tags] == ["p"]
    unprintable = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
    assert "".join(read.text) == unprintable.sub("\ufffd", content)
    assert read.tags[0][1]["title"] == unprintable.sub("\ufffd", value)


def test_large_pictures_are_reduced(census: Census, shown: list[Excerpt]):
    large = replace(shown[0], image=Image.effect_noise((1024, 1024), 90).convert("RGB"))
    (picture,) = Reader(page(census, "train", [large])).of("img")
    assert (picture["src"] or "").startswith("data:image/jpeg") and picture["width"] == "360"


def test_shards_without_captions_and_voices_have_a_page(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=3)
    recipe = corpus.recipe(tmp_path / "out", captions=None, speech=None, split={"validation": 0, "test": 0})
    build(recipe, workers=1, progress=False)
    read = Reader(page(take(tmp_path / "out", progress=False), "train", excerpts(tmp_path / "out", "train", 2)))
    assert "Words a caption" not in read.text and not read.of("audio")
    assert any("no captions" in text for text in read.text)
