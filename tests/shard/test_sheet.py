"""Counts and the contact sheet."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2f_dist.shard import format as shard_format
from t2f_dist.shard.format import Manifest
from t2f_dist.shard.sheet import MARGIN, count, sheet, table
from t2f_dist.text.words import words


def test_counts(shards: Path):
    manifest = Manifest.load(shards)
    for split in shard_format.SPLITS:
        found = count(shards, split)
        metas, captions = [], []
        for shard in manifest.shards(split):
            descriptor = shard_format.open_shard(shards, shard)
            for record in shard_format.open_index(shards, shard):
                metas.append(json.loads(shard_format.member(descriptor, record, "meta")))
                captions += shard_format.captions(shard_format.member(descriptor, record, "captions"))
        assert found.samples == len(metas) == manifest.num_samples(split)
        assert found.identities == len({meta["identity"] for meta in metas})
        assert found.captions.sum() == len(found.words) == len(captions)
        assert found.words.sum() == sum(len(words(caption)) for caption in captions)
        assert found.seconds == pytest.approx([0.05] * sum(bool(meta["speech_source"]) for meta in metas))


def test_table_holds_the_totals(shards: Path):
    text = table(shards)
    manifest = Manifest.load(shards)
    assert manifest.fingerprint in text
    for kind, totals in manifest.totals.items():
        line = next(line for line in text.splitlines() if line.startswith(kind))
        assert line.split()[1:] == [str(number) for number in totals.model_dump().values()]


def test_table_names_the_embeddings(shards: Path, embedded: Path, tmp_path: Path):
    assert ", no embeddings," in table(shards).splitlines()[0]
    assert ", embeddings of 384 values by model," in table(embedded).splitlines()[0]
    copy = Path(shutil.copytree(embedded, tmp_path / "copy"))
    brought = shard_format.Embedding(size=384, model="", sha256="", source="corpus")
    Manifest.load(copy).model_copy(update={"embedding": brought}).save(copy)
    assert ", embeddings of 384 values of the corpus," in table(copy).splitlines()[0]


def test_the_sheet_shows_the_faces_pixel_by_pixel(shards: Path):
    page = np.asarray(sheet(shards, "train", num=5, columns=3))
    manifest = Manifest.load(shards)
    shard = manifest.shards("train")[0]
    descriptor = shard_format.open_shard(shards, shard)
    first = shard_format.member(descriptor, shard_format.open_index(shards, shard)[0], "image")
    with Image.open(io.BytesIO(first)) as image:
        face = np.asarray(image)
    enlarged = face.repeat(10, axis=0).repeat(10, axis=1)
    assert np.array_equal(page[MARGIN : MARGIN + 160, MARGIN : MARGIN + 160], enlarged)
    assert (page[MARGIN + 164 :, MARGIN:200] < 128).any()  # something is written under it


@pytest.mark.parametrize(("num", "columns"), [(1, 6), (500, 4), (7, 7)])
def test_any_number_of_faces(shards: Path, num: int, columns: int):
    page = sheet(shards, "test", num, columns)
    shown = min(num, Manifest.load(shards).num_samples("test"))
    assert page.width == MARGIN + min(columns, shown) * (220 + MARGIN)
