"""What shards hold as one HTML page that needs nothing else: histograms, faces with their captions, a few voices.

Captions, keys and reasons are what a corpus brought: they are escaped wherever they stand, pictures and voices are
decoded and encoded anew, and the page forbids its browser all scripts and all that is not in the page itself.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import PurePath

import soundfile
from PIL import Image

from t2f_dist.inspection.census import Census
from t2f_dist.inspection.chart import histogram, share, stack, swatch
from t2f_dist.inspection.excerpt import Excerpt
from t2f_dist.inspection.markup import Markup, document, element, joined, style
from t2f_dist.inspection.spread import Spread
from t2f_dist.inspection.table import figure
from t2f_dist.shard.format import MEMBERS

PICTURE_MAX = 360  # pixels a side; larger ones are reduced
PIXELS_MAX = 96  # up to here a picture is enlarged pixel by pixel, and kept without loss
QUALITY = 88
VOICES_MAX = 6
VOICE_SECONDS_MAX = 10.0
CAPTIONS_SHOWN = 6
REASONS_SHOWN = 20
NAMES = {"image": "images", "meta": "meta", "lod": "small levels"}  # of members that are called otherwise


def page(census: Census, split: str, shown: Sequence[Excerpt]) -> str:
    """The page of a census, with pictures of some samples of `split`."""
    css = resources.files("t2f_dist.inspection").joinpath("page.css").read_text(encoding="utf-8")
    body = [
        _head(census),
        _tiles(census),
        _splits(census),
        _charts(census),
        _gallery(census, split, shown),
        _refused(census),
        _bytes(census),
        _recipe(census),
        element("footer", {}, f"fingerprint {census.manifest.fingerprint}"),
    ]
    return document(_meta(census, css), element("main", {}, *body))


def _meta(census: Census, css: str) -> Markup:
    allowed = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{allowed}';"
        " base-uri 'none'; form-action 'none'"
    )
    return joined(
        [
            element("meta", {"charset": "utf-8"}),
            element("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
            element("meta", {"name": "referrer", "content": "no-referrer"}),
            element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
            element("link", {"rel": "icon", "href": "data:,"}),  # else it would be asked for
            element("title", {}, f"{_name(census)} · t2f-dist"),
            style(css),
        ]
    )


def _name(census: Census) -> str:
    return PurePath(census.place).name or census.place


def _head(census: Census) -> Markup:
    manifest = census.manifest
    side = manifest.image_resolution
    facts = [f"{side}×{side} pixels, {manifest.image_format}" if manifest.squared else f"read as {side}×{side} pixels"]
    facts += [f"vocabulary of {manifest.vocabulary.num_words:,} words"] if manifest.vocabulary else ["no captions"]
    facts += [f"voices at {manifest.sample_rate_hz:,} Hz"] if manifest.sample_rate_hz else ["no voices"]
    if manifest.embedding:
        by = f" by {manifest.embedding.model}" if manifest.embedding.source == "model" else " of the corpus"
        facts.append(f"embeddings of {manifest.embedding.size:,} values{by}")
    if manifest.extensions:
        facts.append(f"extended {len(manifest.extensions):,} times")
    facts += ["manifest and indices only"] if census.quick else []
    return element(
        "header",
        {},
        element("p", {"class": "kicker"}, "shards"),
        element("h1", {}, _name(census)),
        element("p", {}, " · ".join(facts)),
    )


def _tiles(census: Census) -> Markup:
    whole = census.whole
    num, exact = _identities(census)
    total = sum(whole.bytes.values())
    tiles = [
        (f"{whole.samples:,}", "samples"),
        (f"{round(whole.captions.sum):,}", "captions"),
        (f"{whole.voices:,}", f"voices, {_time(whole.seconds.sum)}"),
        (f"{'' if exact else '≈ '}{num:,}", "identities"),
        (_size(total), f"in {whole.shards:,} shards"),
    ]
    tiles = [tile for tile in tiles if tile[0] != "0"]
    if census.manifest.duplicates is not None:
        tiles.append((f"{census.manifest.duplicates:,}", "duplicates found"))
    cards = [element("div", {"class": "card"}, element("b", {}, value), element("span", {}, of)) for value, of in tiles]
    return element("div", {"class": "tiles"}, *cards)


def _identities(census: Census) -> tuple[int, bool]:
    sides = [split.identities for split in census.splits.values()]
    return sum(side.num for side in sides) - census.shared_identities, all(side.exact for side in sides)


def _splits(census: Census) -> Markup:
    columns = ("samples", "identities", "samples an identity", "voices", "without captions", "shards", "size")
    rows = [_row("th", "split", *columns)]
    for name, split in census.splits.items():
        each = split.identities.occurrences()
        values = (
            f"{split.samples:,}",
            f"{'' if split.identities.exact else '≈ '}{split.identities.num:,}",
            _range(each),
            f"{split.voices:,}",
            f"{split.without_captions:,}",
            f"{split.shards:,}",
            _size(sum(split.bytes.values())),
        )
        rows.append(_row("td", name, *values))
    parts = [(name, split.samples) for name, split in census.splits.items() if split.samples]
    shared = []
    if census.shared_identities:
        shared = [element("p", {}, f"{census.shared_identities:,} identities are in more than one split.")]
    card = [stack(parts), _legend(parts), element("div", {"class": "scroll"}, element("table", {}, *rows)), *shared]
    return joined([element("h2", {}, "Splits"), element("div", {"class": "card"}, *card)])


def _charts(census: Census) -> Markup:
    whole = census.whole
    charts = [
        ("Captions an image", whole.captions, "captions", 1.0),
        ("Words a caption", whole.words, "words", 1.0),
        ("Speech a voice", whole.seconds, "s", 1.0),
        ("Source width", whole.width, "px", 1.0),
        ("Source height", whole.height, "px", 1.0),
        ("Stored image", whole.image_bytes, "kB", 1e-3),
        ("Samples an identity, train", census.splits["train"].identities.occurrences(), "samples", 1.0),
        ("Samples a shard", whole.shard_samples, "samples", 1.0),
    ]
    # of a few shards, or of identities of one sample each, the figures say it all
    plain = ("Samples an identity, train", "Samples a shard")
    charts = [chart for chart in charts if chart[1].count and chart[1].max > (chart[1].min if chart[0] in plain else 0)]
    cards = [_chart(*chart) for chart in charts]
    return joined([element("h2", {}, "How they are spread"), element("div", {"class": "charts"}, *cards)])


def _chart(title: str, spread: Spread, unit: str, factor: float) -> Markup:
    figures = [("min", spread.min, ""), ("median", spread.median, "at"), ("mean", spread.mean, ""),
               ("max", spread.max, "")]  # fmt: skip
    spans = [
        element("span", {"class": mark} if mark else {}, f"{name} ", element("b", {}, figure(value * factor)))
        for name, value, mark in figures
    ]
    line = element("div", {"class": "figures"}, *spans, element("span", {}, unit))
    return element("div", {"class": "card"}, element("h3", {}, title), line, histogram(spread, unit, factor))


def _gallery(census: Census, split: str, shown: Sequence[Excerpt]) -> Markup:
    heard = {id(each) for each in [each for each in shown if each.speech][:VOICES_MAX]}
    figures = [_figure(each, id(each) in heard) for each in shown]
    total = census.splits[split].samples
    title = f"{len(shown):,} of {total:,} samples, evenly over {split}"
    return joined([element("h2", {}, title), element("div", {"class": "gallery"}, *figures)])


def _figure(shown: Excerpt, heard: bool) -> Markup:
    image = shown.image
    small = image.width <= PIXELS_MAX
    if image.width > PICTURE_MAX:
        image = image.resize((PICTURE_MAX, PICTURE_MAX), Image.Resampling.BOX)
    stream = io.BytesIO()
    image.save(stream, "PNG" if small else "JPEG", quality=QUALITY)
    values = {
        "src": _data("image/png" if small else "image/jpeg", stream.getvalue()),
        "alt": shown.captions[0] if shown.captions else shown.key,
        "width": image.width,
        "height": image.height,
    }
    facts = [element("span", {"title": shown.key}, shown.key)]
    facts += [element("span", {}, f"{shown.seconds:.1f} s")] if shown.seconds else []
    lines = [element("li", {"dir": "auto"}, caption) for caption in shown.captions[:CAPTIONS_SHOWN]]
    if shown.num_captions > len(lines):
        lines.append(element("li", {"class": "soft"}, f"and {shown.num_captions - len(lines):,} more"))
    caption = [element("div", {"class": "key"}, *facts), element("ul", {}, *lines)]
    caption += [_voice(shown.speech)] if heard else []
    picture = element("img", values | ({"class": "pixels"} if small else {}))
    return element("figure", {"class": "card"}, picture, element("figcaption", {}, *caption))


def _voice(speech: bytes) -> Markup:
    """The beginning of a voice, to be heard."""
    try:
        with soundfile.SoundFile(io.BytesIO(speech)) as file:
            rate, samples = file.samplerate, file.read(round(VOICE_SECONDS_MAX * file.samplerate), dtype="int16")
    except (soundfile.SoundFileError, RuntimeError) as error:
        return element("p", {"class": "soft"}, f"voice: {error}")
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="FLAC", subtype="PCM_16")
    return element("audio", {"controls": "", "preload": "none", "src": _data("audio/flac", stream.getvalue())})


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _refused(census: Census) -> Markup:
    columns = ("found", "stored", "rejected", "unmatched")
    rows = [_row("th", "", *columns)]
    for kind, total in census.manifest.totals.items():
        rows.append(_row("td", kind, *(f"{total.model_dump()[column]:,}" for column in columns)))
    parts = [element("div", {"class": "scroll"}, element("table", {}, *rows))]
    if census.rejections:
        most = census.rejections[0].count
        titles = ("what", "how many", "")
        head = [element("th", {}, title) for title in titles] + [element("th", {"class": "text"}, "why")]
        rows = [element("tr", {}, *head)]
        for each in census.rejections[:REASONS_SHOWN]:
            cells = (
                element("td", {}, each.kind),
                element("td", {}, f"{each.count:,}"),
                element("td", {"class": "share"}, share(each.count / most)),
                element("td", {"class": "text", "dir": "auto"}, f"{each.status}: {each.reason}"),
            )
            rows.append(element("tr", {}, *cells))
        rest = sum(each.count for each in census.rejections[REASONS_SHOWN:])
        if rest:
            rows.append(_row("td", "", f"{rest:,}", "", "other reasons"))
        parts.append(element("div", {"class": "scroll"}, element("table", {}, *rows)))
    title = element("h2", {}, "What became of everything found")
    return joined([title, element("div", {"class": "card"}, *parts)])


def _bytes(census: Census) -> Markup:
    whole = census.whole
    held = {NAMES.get(name, name): whole.member_bytes[name] for name in MEMBERS}
    held["captions"] *= 2  # in the tar, and beside the small levels
    held["headers and indices"] = sum(whole.bytes.values()) - sum(held.values())
    parts = [(name, num) for name, num in held.items() if num > 0]
    card = [stack(parts), _legend(parts, _size)]
    return joined([element("h2", {}, "Where the bytes are"), element("div", {"class": "card"}, *card)])


def _legend(parts: Sequence[tuple[str, float]], shown=lambda value: f"{value:,}") -> Markup:
    lines = [
        element("li", {}, swatch(number), name, " ", element("span", {"class": "soft"}, shown(value)))
        for number, (name, value) in enumerate(parts, start=1)
    ]
    return element("ul", {"class": "legend"}, *lines)


def _recipe(census: Census) -> Markup:
    recipe = json.dumps(census.manifest.recipe, indent=1, ensure_ascii=False)
    return element(
        "details", {"class": "card"}, element("summary", {}, "The recipe they were made by"), element("pre", {}, recipe)
    )


def _row(cell: str, *values: str) -> Markup:
    return element("tr", {}, *(element(cell, {}, value) for value in values))


def _range(spread: Spread) -> str:
    if not spread.count:
        return "–"
    return figure(spread.min) + (f" to {figure(spread.max)}" if spread.max > spread.min else "")


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{figure(round(num_bytes, 1))} {unit}"
        num_bytes /= 1000
    return f"{figure(round(num_bytes, 1))} TB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{figure(round(seconds, 1))} s"
    return f"{figure(round(seconds / 60))} min" if seconds < 7200 else f"{figure(round(seconds / 3600, 1))} h"
