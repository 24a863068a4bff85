"""Tars of others, behind an index: counted, shown and verified like our own, each tar once."""

from pathlib import Path

import pytest

from t2f_dist.inspection.census import take
from t2f_dist.inspection.excerpt import excerpts
from t2f_dist.inspection.page import page
from t2f_dist.inspection.verify import verify
from t2f_dist.shard.manifest import SPLITS, Manifest
from tests.shard.img2dataset import corpus, facts, write
from tests.shard.raw import encoded
from tests.shard.test_index import indexed
from tests.web import served


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Three tars of twelve pictures of 40 pixels, and one whose two pictures are of other sizes."""
    root = corpus(tmp_path / "tars")
    members = []
    for key, size in (("000030000", (90, 60)), ("000030001", (24, 130))):
        members += [
            (f"{key}.jpg", encoded(1, "JPEG", size)),
            (f"{key}.txt", b"<b>large</b>"),
            (f"{key}.json", facts(key, original_width=size[0], original_height=size[1])),
        ]
    write(root / "00003.tar", members)
    return root


def test_counted_and_shown(tars: Path, tmp_path: Path):
    indexed(tars, tmp_path / "out")
    census = take(tmp_path / "out", progress=False)
    assert census.whole.samples == 38 and census.whole.captions.sum == 38
    assert (census.whole.width.max, census.whole.height.max, census.whole.width.count) == (90, 130, 2)
    on_disk = sum(path.stat().st_size for path in tars.glob("*.tar"))
    assert census.tar_bytes == census.whole.bytes["tars"] == census.to_dict()["tar_bytes"] == on_disk
    shown = excerpts(tmp_path / "out", "train", 100)
    assert {each.image.size for each in shown} == {(16, 16)}
    assert {each.captions[0] for each in shown if each.key.startswith("00003")} <= {"<b>large</b>"}
    assert "<b>large" not in page(census, "train", shown)


@pytest.mark.parametrize("workers", [1, 2])
def test_verified_each_tar_once(tars: Path, tmp_path: Path, workers: int):
    indexed(tars, tmp_path / "out")
    assert verify(tmp_path / "out", decode=True, workers=workers, progress=False) == []
    manifest = Manifest.load(tmp_path / "out")
    broken, gone = sorted(tars.glob("*.tar"))[:2]
    content = bytearray(broken.read_bytes())
    content[600] ^= 1  # of the first picture
    broken.write_bytes(content)
    gone.unlink()
    damage = verify(tmp_path / "out", decode=True, workers=workers, progress=False)
    assert [(Path(each.file).name, each.key) for each in damage if "image" in each.what] == [
        (broken.name, "000000000"),
    ]
    assert [each.what for each in damage if Path(each.file).name == gone.name] == ["missing"]
    assert sum(len(manifest.shards(split)) for split in SPLITS) > 4


def test_a_remote_tar_is_fetched_once_to_be_verified_and_in_parts_to_be_shown(tars: Path, tmp_path: Path):
    with served() as web:
        remote = [web.put(f"/{path.name}", path.read_bytes()) for path in sorted(tars.glob("*.tar"))]
        indexed(remote, tmp_path / "out")
        web.gets.clear()
        assert verify(tmp_path / "out", decode=True, progress=False) == []
        assert set(web.gets.values()) == {1} and len(web.gets) == 4
        shown = excerpts(tmp_path / "out", "train", 3)
        assert [each.image.size for each in shown] == [(16, 16)] * 3
        assert take(tmp_path / "out", progress=False).whole.width.count == 0
        web.files["/00002.tar"] = web.files["/00002.tar"][:-512] + b"x" * 512
        (damage,) = verify(tmp_path / "out", progress=False)
        assert damage.file.endswith("00002.tar")
