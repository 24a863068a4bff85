"""Shards that mean harm: what they say is no reason for a traceback, for much memory, or to obey a terminal's code."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from t2f_dist import cli
from t2f_dist.inspection.census import Rejection, take
from t2f_dist.inspection.excerpt import excerpts
from t2f_dist.inspection.sheet import sheet
from t2f_dist.inspection.table import text
from t2f_dist.inspection.verify import Damage, verify
from t2f_dist.shard import format as shard_format
from t2f_dist.shard.manifest import Embedding, Manifest, Shard
from t2f_dist.shard.writer import write_index
from t2f_dist.storage.folder import Folder
from tests.web import served

CODES = "\x1b[2J\x9b\x07\r\u202e"  # clear the screen, ring, begin the line anew, write from right to left


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copy"))


ROW = {"kind": "images", "status": "rejected", "reason": "too small"}


@pytest.mark.parametrize(
    "row",
    [
        *({**ROW, field: value} for field in ROW for value in (3, None, [], {})),
        {**ROW, "kind": CODES},
        {**ROW, "status": CODES},
        {"kind": "images"},
        [ROW],
        None,
    ],
)
def test_rows_that_are_no_rejections_are_named(copy: Path, row: object):
    (copy / "rejected.jsonl").write_text(f"{json.dumps(ROW)}\n{json.dumps(row)}\n")
    with pytest.raises(ValueError, match="^rejected.jsonl, line 2, is not a line of rejections"):
        take(copy, progress=False)


def test_no_control_character_reaches_the_terminal(copy: Path):
    rows = [{**ROW, "reason": CODES}, {**ROW, "reason": "\ud800"}]
    (copy / "rejected.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = Manifest.load(copy)
    record = Embedding(size=3, model=CODES, sha256="0" * 64, source="model")
    manifest.model_copy(update={"embedding": record}).save(copy)
    census = take(copy, progress=False)
    assert census.rejections is not None
    census.rejections.append(Rejection(CODES, CODES, CODES, 2))
    assert all(line.isprintable() for line in text(census).split("\n"))
    result = CliRunner().invoke(cli.main, ["inspect", str(copy), "--json"])
    assert result.exit_code == 0, result.output
    assert result.stdout.rstrip("\n").isprintable() and result.stdout.isascii()
    assert json.loads(result.stdout)["embedding"]["model"] == CODES
    assert str(Damage("a", CODES, CODES)).isprintable()
    (copy / f"{CODES}.tar").touch()
    result = CliRunner().invoke(cli.main, ["verify", str(copy), "--workers", "1"])
    assert ".tar: not in the manifest" in result.stdout
    assert all(line.isprintable() for line in result.stdout.split("\n"))


def test_a_key_of_several_lines_is_drawn(shards: Path):
    (shown,) = excerpts(shards, "train", 1)
    assert sheet([replace(shown, key=f"a\n{CODES}")], 1).size == sheet([shown], 1).size


def test_lists_are_read_piece_by_piece(copy: Path, monkeypatch: pytest.MonkeyPatch):
    whole = Folder.read

    def read(self: Folder, name: str, *values: int) -> bytes:
        assert not name.endswith(".jsonl")
        return whole(self, name, *values)

    monkeypatch.setattr(Folder, "read", read)
    assert verify(copy, progress=False) == [] and take(copy, progress=False).rejections == []
    (copy / "rejected.jsonl").write_bytes(json.dumps({**ROW, "reason": "x" * (1 << 24)}).encode())
    with pytest.raises(ValueError, match="line 1, is not a line of rejections"):
        take(copy, progress=False)
    (copy / "rejected.jsonl").unlink()
    os.mkfifo(copy / "rejected.jsonl")
    assert [str(found) for found in verify(copy, progress=False)] == ["rejected.jsonl: not a plain file"]


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"lod_length": 5000}, 1 << 16),
        ({"captions_offset": 0, "captions_length": shard_format.MEMBER_BYTES_MAX + 1}, 1 << 29),
    ],
)
def test_what_a_record_claims_of_the_small_file_is_bounded(copy: Path, fields: dict[str, int], size: int):
    manifest = Manifest.load(copy)
    first, *rest = manifest.shards("train")
    index = np.array(shard_format.open_index(copy / first.index, first))
    for name, value in fields.items():
        index[name][1] = value
    os.truncate(copy / first.small, size)  # of which no block is on the disk
    index_sha256 = write_index(copy / first.index, list(index)).sha256
    changed: Shard = first.model_copy(update={"index_sha256": index_sha256, "small_bytes": size})
    train = manifest.splits["train"].model_copy(update={"shards": (changed, *rest)})
    manifest.model_copy(update={"splits": manifest.splits | {"train": train}}).save(copy)
    (damage,) = verify(copy, progress=False)
    assert damage.file == first.index and f"a member {next(iter(fields)).partition('_')[0]} of more than" in damage.what
    for look in (lambda: take(copy, progress=False), lambda: excerpts(copy, "train", 1)):
        with pytest.raises(ValueError, match="a member (lod|captions) of more than"):
            look()


def test_no_more_is_fetched_than_the_manifest_says(shards: Path):
    with served() as web:
        place = web.put_folder(shards)
        shard = Manifest.load(shards).shards("train")[0]
        for name in (shard.name, shard.small):
            path = f"/{shards.name}/{name}"
            content, web.files[path] = web.files[path], web.files[path] + bytes(1 << 23)
            (damage,) = verify(place, progress=False)
            assert damage.file == name and "has more than" in damage.what
            web.files[path] = content
