"""The contact sheet."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2f_dist.inspection.excerpt import excerpts
from t2f_dist.inspection.sheet import MARGIN, sheet
from t2f_dist.shard import format as shard_format
from t2f_dist.shard.manifest import Manifest


def test_the_sheet_shows_the_faces_pixel_by_pixel(shards: Path):
    page = np.asarray(sheet(excerpts(shards, "train", 5), columns=3))
    manifest = Manifest.load(shards)
    shard = manifest.shards("train")[0]
    descriptor = shard_format.open_shard(shards / shard.name, shard)
    first = shard_format.member(descriptor, shard_format.open_index(shards / shard.index, shard)[0], "image")
    with Image.open(io.BytesIO(first)) as image:
        face = np.asarray(image)
    enlarged = face.repeat(10, axis=0).repeat(10, axis=1)
    assert np.array_equal(page[MARGIN : MARGIN + 160, MARGIN : MARGIN + 160], enlarged)
    assert (page[MARGIN + 164 :, MARGIN:200] < 128).any()  # something is written under it


@pytest.mark.parametrize(("num", "columns"), [(1, 6), (500, 4), (7, 7)])
def test_any_number_of_faces(shards: Path, num: int, columns: int):
    page = sheet(excerpts(shards, "test", num), columns)
    shown = min(num, Manifest.load(shards).num_samples("test"))
    assert page.width == MARGIN + min(columns, shown) * (220 + MARGIN)


def test_samples_are_spread_over_all_shards(shards: Path):
    manifest = Manifest.load(shards)
    total = manifest.num_samples("train")
    everything = [each.key for each in excerpts(shards, "train", total)]
    assert len(set(everything)) == total
    few = [each.key for each in excerpts(shards, "train", 4)]
    assert few[0] == everything[0] and few[-1] == everything[-1]
    assert [everything.index(key) for key in few] == np.linspace(0, total - 1, 4).round().astype(int).tolist()
