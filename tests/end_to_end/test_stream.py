"""A launch of two ranks with loader processes that trains on tars in a bucket, without manifest, index or copy."""

import json
from pathlib import Path

import pytest

from t2f_dist.shard.manifest import Manifest
from t2f_dist.storage.folder import Folder
from tests.end_to_end.launches import finish, log_of
from tests.training.small import config


@pytest.mark.slow
def test_two_ranks_stream_from_a_bucket(portrait_shards: Path, bucket: str, tmp_path: Path):
    tars = Manifest.load(portrait_shards).shards("train")
    for name in (*(shard.name for shard in tars), "vocabulary.json"):
        Folder(bucket).store(portrait_shards / name, name)
    pattern = f"data.shards={bucket}/train-{{000000..{len(tars) - 1:06d}}}.tar"
    words = f"data.vocabulary={bucket}/vocabulary.json"
    settings = config("both", portrait_shards, tmp_path / "run", pattern, words, "data.num_workers=2")
    assert finish(settings) == 0, log_of(settings)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["outcome"] == "finished"
    assert not list((tmp_path / "run").glob("damaged-*")), "nothing was skipped"
