"""What is counted, against the members themselves; and how it is told: as a table and as JSON."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from t2f_dist.inspection.census import take
from t2f_dist.inspection.excerpt import excerpts
from t2f_dist.inspection.spread import Spread
from t2f_dist.inspection.table import text
from t2f_dist.inspection.verify import verify
from t2f_dist.shard import format as shard_format
from t2f_dist.shard.build import build
from t2f_dist.shard.manifest import SPLITS, Embedding, Manifest
from t2f_dist.text.words import words
from tests.shard.raw import Corpus, draw
from tests.web import served


def values(spread: Spread) -> list[int]:
    """All that was added, of whole numbers."""
    return np.repeat(np.arange(len(spread.cells)), spread.cells).tolist()


def test_counts_are_those_of_the_members(shards: Path):
    manifest = Manifest.load(shards)
    census = take(shards, progress=False)
    for name in SPLITS:
        found, metas, captions, num_bytes = census.splits[name], [], [], 0
        for shard in manifest.shards(name):
            descriptor = shard_format.open_shard(shards / shard.name, shard)
            for record in shard_format.open_index(shards / shard.index, shard):
                metas.append(json.loads(shard_format.member(descriptor, record, "meta")))
                captions.append(shard_format.captions(shard_format.member(descriptor, record, "captions")))
                num_bytes += len(shard_format.member(descriptor, record, "image"))
        assert found.samples == len(metas) == manifest.num_samples(name)
        assert found.identities.num == len({meta["identity"] for meta in metas})
        assert values(found.captions) == sorted(map(len, captions))
        assert values(found.words) == sorted(len(words(caption)) for each in captions for caption in each)
        assert values(found.width) == sorted(meta["source_width"] for meta in metas)
        assert found.voices == found.seconds.count == sum(bool(meta["speech_source"]) for meta in metas)
        assert found.seconds.mean == pytest.approx(0.05)
        assert found.image_bytes.sum == found.member_bytes["image"] == num_bytes
        assert found.bytes["small"] == sum((shards / shard.small).stat().st_size for shard in manifest.shards(name))
    assert census.shared_identities == 0


def test_sizes_and_reasons_of_a_mixed_corpus(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=6)
    for number, size in enumerate([(60, 44), (17, 90), (9, 40), (40, 8)]):
        draw(corpus.faces / f"p0{number}/p0{number}_0.jpg", number, size)
    corpus.rows[6]["captions"] += ["...", "?"]
    corpus.write()
    build(corpus.recipe(tmp_path / "shards", split={"validation": 0, "test": 0}), workers=1, progress=False)
    census = take(tmp_path / "shards", progress=False)
    train = census.splits["train"]
    assert (train.width.min, train.width.max, train.width.median) == (17, 60, 40)
    assert (train.shorter_side.min, train.shorter_side.max) == (17, 44)
    assert census.rejections is not None
    reasons = {(each.kind, each.reason): each.count for each in census.rejections}
    assert reasons["captions", "a caption without a word"] == 2
    # the images of 9x40 and 40x8 pixels, which differ in their numbers alone
    small = "NxN pixels after the crop, smaller than the resolution N (allow_upscale is off)"
    assert reasons["images", small] == 2
    assert sum(reasons.values()) == sum(each.rejected + each.unmatched for each in census.manifest.totals.values())


def test_quick_reads_no_more_than_manifest_and_indices(shards: Path, tmp_path: Path):
    (tmp_path / "bare").mkdir()
    for path in shards.iterdir():
        if path.name == "manifest.json" or path.name.endswith(".index.npy"):
            shutil.copy(path, tmp_path / "bare")
    quick, whole = take(tmp_path / "bare", quick=True, progress=False), take(shards, progress=False)
    assert quick.whole.words.count == quick.whole.width.count == 0 and quick.rejections is None
    one, other = quick.to_dict(), whole.to_dict()
    assert one.keys() == other.keys() and one["splits"]["test"].keys() == other["splits"]["test"].keys()
    for key in ("samples", "identities", "voices", "captions_per_image", "seconds_per_voice", "bytes"):
        assert one["splits"]["train"][key] == other["splits"]["train"][key]
    assert one["splits"]["train"]["words_per_caption"] is None
    assert text(quick)


def test_json_is_plain_and_says_what_the_table_says(shards: Path):
    census = take(shards, progress=False)
    content = json.loads(json.dumps(census.to_dict(), allow_nan=False))
    assert content["format"] == "t2f-dist-inspect" and content["version"] == 1
    assert content["fingerprint"] == Manifest.load(shards).fingerprint
    for name, split in content["splits"].items():
        for spread in (split["words_per_caption"], split["source_height"], split["seconds_per_voice"]):
            assert spread["min"] <= spread["median"] <= spread["max"]
            assert sum(spread["histogram"]["counts"]) == spread["count"]
        line = next(line for line in text(census).splitlines() if line.startswith(name))
        assert line.split()[1:4] == [str(split[key]) for key in ("samples", "identities", "voices")]
    for kind, total in content["totals"].items():
        line = next(line for line in text(census).splitlines() if line.startswith(kind))
        assert line.split()[1:] == [str(number) for number in total.values()]


def test_table_names_the_embeddings(shards: Path, embedded: Path, tmp_path: Path):
    assert ", no embeddings," in text(take(shards, progress=False)).splitlines()[0]
    assert ", embeddings of 384 values by model," in text(take(embedded, progress=False)).splitlines()[0]
    copy = Path(shutil.copytree(embedded, tmp_path / "copy"))
    brought = Embedding(size=384, model="", sha256="", source="corpus")
    Manifest.load(copy).model_copy(update={"embedding": brought}).save(copy)
    assert ", embeddings of 384 values of the corpus," in text(take(copy, progress=False)).splitlines()[0]


def test_damaged_samples_are_counted_and_the_rest_as_well(shards: Path, tmp_path: Path):
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    shard = Manifest.load(copy).shards("train")[0]
    record = shard_format.open_index(copy / shard.index, shard)[0]
    for file, place in (
        (shard.small, record["lod_offset"] + record["lod_length"]),
        (shard.name, record["meta_offset"]),
    ):
        content = bytearray((copy / file).read_bytes())
        content[int(place)] ^= 1
        (copy / file).write_bytes(content)
    found, whole = take(copy, progress=False), take(shards, progress=False)
    assert found.splits["train"].damaged == 2 and whole.splits["train"].damaged == 0
    assert found.splits["train"].words.count == whole.splits["train"].words.count - int(record["num_captions"])
    assert found.splits["train"].width.count == whole.splits["train"].width.count - 1
    assert "2 captions or sizes could not be read" in text(found)


def test_an_identity_on_two_sides_is_told(shards: Path, tmp_path: Path):
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    manifest = Manifest.load(copy)
    test = manifest.splits["test"]
    manifest.model_copy(update={"splits": manifest.splits | {"validation": test}}).save(copy)
    census = take(copy, progress=False)
    assert census.shared_identities == census.splits["test"].identities.num > 0
    assert f"{census.shared_identities} identities are in more than one split" in text(census)


def test_shards_at_a_url_are_counted_shown_and_verified_without_more_than_it_takes(shards: Path):
    with served() as web:
        place = web.put_folder(shards)
        remote, here = take(place, progress=False), take(shards, progress=False)
        tars = [path for path in web.gets if path.endswith(".tar")]
        assert not tars, "counted from the small files"
        for name in SPLITS:
            assert values(remote.splits[name].words) == values(here.splits[name].words)
            assert remote.splits[name].identities.num == here.splits[name].identities.num
        assert remote.to_dict()["splits"]["train"]["source_width"] is None and remote.rejections == []
        assert [each.key for each in excerpts(place, "train", 5)] == [each.key for each in excerpts(shards, "train", 5)]
        for one, other in zip(excerpts(place, "test", 3), excerpts(shards, "test", 3), strict=True):
            assert one.image.tobytes() == other.image.tobytes()
            assert (one.captions, one.speech) == (other.captions, other.speech)
        assert verify(place, decode=True, progress=False) == []
        tar = Manifest.load(shards).shards("train")[1].name
        web.files[f"/{shards.name}/{tar}"] = web.files[f"/{shards.name}/{tar}"][:-1000] + b"x" * 1000
        (damage,) = verify(place, progress=False)
        assert damage.file == tar
