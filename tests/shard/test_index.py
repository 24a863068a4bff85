"""An index beside tars of others: what is in it, what is not, and that it comes out the same however it is made."""

import functools
import hashlib
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import Image
from pyarrow import parquet

from t2f_dist.cli import main
from t2f_dist.config.index import IndexRecipe
from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.inspection.verify import verify
from t2f_dist.shard import format as shard_format
from t2f_dist.shard import index as shard_index
from t2f_dist.shard import levels
from t2f_dist.shard.build import build
from t2f_dist.shard.manifest import MANIFEST, REJECTED, SPLITS, Manifest, locate
from t2f_dist.storage.folder import Folder
from t2f_dist.text.vocabulary import Vocabulary
from tests.shard.img2dataset import corpus, facts, link, sample, write
from tests.shard.raw import encoded


def recipe(tars: str | Path | list[str], out: Path, **changes) -> IndexRecipe:
    listed = tars if isinstance(tars, list) else [str(tars)]
    fields = {"tars": listed, "out": str(out), "image": {"resolution": 16}, "split": {"validation": 0.2, "test": 0.2}}
    return IndexRecipe(**fields | changes)


def indexed(tars: str | Path | list[str], out: Path, workers: int = 1, overwrite: bool = False, **changes):
    return shard_index.index(recipe(tars, out, **changes), workers, overwrite, progress=False)


def samples(out: Path, split: str) -> Iterator[tuple[dict[str, bytes], np.void, bytes]]:
    """The image, as the tar has it, and the captions and levels of the small file; the record; the levels."""
    manifest = Manifest.load(out)
    for shard in manifest.shards(split):
        index = shard_format.open_index(out / shard.index, shard)
        small = (out / shard.small).read_bytes()
        assert hashlib.sha256(small).hexdigest() == shard.small_sha256
        descriptor = shard_format.open_shard(locate(out, shard.name), shard)
        try:
            for record in index:
                image = shard_format.member(descriptor, record, "image")
                meta = shard_format.member(descriptor, record, "meta")
                start = int(record["lod_offset"])
                end = start + int(record["lod_length"])
                text = small[end : end + int(record["captions_length"])]
                yield {"image": image, "meta": meta, "captions": text}, record, small[start:end]
        finally:
            os.close(descriptor)


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def rejected(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / REJECTED).read_text().splitlines()]


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("tars") / "cc3m")


def test_every_sample_is_that_of_the_tar(tars: Path, tmp_path: Path):
    before = {path: path.read_bytes() for path in tars.iterdir()}
    manifest = indexed(tars, tmp_path / "out").manifest
    assert manifest == Manifest.load(tmp_path / "out")
    assert {path: path.read_bytes() for path in tars.iterdir()} == before
    found = {}
    for split in SPLITS:
        for members, record, small in samples(tmp_path / "out", split):
            key = json.loads(members["meta"])["key"]
            assert shard_format.captions(members["captions"]) == [f"a face {key}"]
            assert record["num_captions"] == 1
            with Image.open(io.BytesIO(members["image"])) as image:
                pixels = image.convert("RGB").resize((16, 16), Image.Resampling.BOX)
            assert small == levels.record(pixels)
            assert record["identity"] == shard_format.identity_number(f"cc3m/{key[:5]}/{key}")
            found[key] = members["image"]
    assert len(found) == 36 and manifest.totals["images"].stored == 36
    assert found["000000000"] == encoded(0, "JPEG") and found["000020001"] == encoded(20001)
    assert all(0 < manifest.num_samples(split) < 36 for split in SPLITS)
    vocabulary = Vocabulary.from_json(manifest.read_vocabulary(tmp_path / "out"))
    held_out = {json.loads(members["meta"])["key"] for members, *_ in samples(tmp_path / "out", "test")}
    assert "face" in vocabulary and not any(key in vocabulary for key in held_out)  # words of train alone


def test_workers_and_order_of_the_split_do_not_matter(tars: Path, tmp_path: Path):
    indexed(tars, tmp_path / "one")
    indexed(tars, tmp_path / "two", workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    indexed([str(tars / "00001.tar")], tmp_path / "less")
    all_tars, one = Manifest.load(tmp_path / "one"), Manifest.load(tmp_path / "less")
    for split in SPLITS:  # a tar's files are its own, whichever tars there are beside it
        assert set(one.shards(split)) <= set(all_tars.shards(split))


def test_tars_in_the_folder_of_the_index(tmp_path: Path):
    root = corpus(tmp_path / "cc3m", num_tars=1)
    manifest = indexed(root / "*.tar", root).manifest
    assert {shard.name for split in SPLITS for shard in manifest.shards(split)} == {"00000.tar"}
    root.rename(tmp_path / "elsewhere")
    assert len(list(samples(tmp_path / "elsewhere", "train"))) == manifest.num_samples("train")
    with pytest.raises(FileExistsError, match="--overwrite replaces it"):
        indexed(tmp_path / "elsewhere", tmp_path / "elsewhere")
    indexed(tmp_path / "elsewhere", tmp_path / "elsewhere", overwrite=True, levels=False)


def test_without_levels_only_captions_are_kept(tars: Path, tmp_path: Path):
    indexed(tars, tmp_path / "out", levels=False)
    assert all(not small and members["captions"] for members, _, small in samples(tmp_path / "out", "train"))


def test_names_in_the_manifest(tars: Path, tmp_path: Path):
    odd = tmp_path / "odd ä#%20 name.tar"
    odd.write_bytes((tars / "00000.tar").read_bytes())
    manifest = indexed(odd, tmp_path / "out").manifest
    (name,) = {shard.name for split in SPLITS for shard in manifest.shards(split)}
    assert name == odd.as_uri()
    assert len(list(samples(tmp_path / "out", "train"))) == manifest.num_samples("train") > 0


def test_every_fault_is_counted_with_its_place(tmp_path: Path):
    key = "00000000{}".format
    members = [
        *sample(key(0)),
        *sample(key(0)),  # every member twice
        *sample(key(1), status="failed_to_resize"),
        (f"{key(2)}.jpg", b"no image"),
        (f"{key(2)}.txt", b"a face"),
        (f"{key(3)}.jpg", encoded(3)),  # without a caption
        (f"{key(4)}.txt", b"of nothing"),
        (f"{key(5)}.jpg", encoded(5)),
        (f"{key(5)}.txt", b" ."),
        (f"{key(6)}.jpg", encoded(6, size=(12, 40))),
        (f"{key(6)}.txt", b"too small"),
        link(f"{key(7)}.jpg", "/etc/passwd"),
        (f"{key(8)}.jpg", b""),
        (f"{key(8)}.txt", b"empty"),
        (f"../{key(9)}.jpg", encoded(9)),
        (f"{key(9)}a.jpg", encoded(9)),
        (f"{key(9)}a.txt", b"x " * 40_000),
    ]
    tar = write(tmp_path / "00000.tar", members)
    totals = indexed(tmp_path, tmp_path / "out", split={"validation": 0, "test": 0}).manifest.totals
    rows = rejected(tmp_path / "out")
    reasons = {(row["kind"], row["image"].partition("/")[2]): row["reason"] for row in rows}
    assert totals["images"].model_dump() == {"found": 11, "stored": 1, "rejected": 9, "unmatched": 1}
    assert totals["captions"].model_dump() == {"found": 9, "stored": 1, "rejected": 7, "unmatched": 1}
    for kind in ("images", "captions"):
        assert sum(row["kind"] == kind for row in rows) == totals[kind].rejected + totals[kind].unmatched
    assert (
        reasons["images", f"{key(0)}.jpg"] == reasons["captions", f"{key(0)}.txt"] == "its key stands twice in the tar"
    )
    assert reasons["images", f"{key(1)}.jpg"].startswith("its status is failed_to_resize")
    assert reasons["images", f"{key(2)}.jpg"] == "unreadable image: not an image"
    assert reasons["captions", f"{key(2)}.jpg"] == "its image is rejected"
    assert reasons["images", f"{key(3)}.jpg"] == "no caption names it"
    assert reasons["captions", key(4)] == "names no image"
    assert reasons["captions", f"{key(5)}.jpg"] == "a caption without a word"
    assert "smaller than the resolution" in reasons["images", f"{key(6)}.jpg"]
    assert "is a link" in reasons["images", key(7)]
    assert reasons["images", f"{key(8)}.jpg"] == "an empty file"
    assert "leads out of the folder" in reasons["images", f"../{key(9)}"]
    assert "a caption of 79999 bytes" in reasons["captions", f"{key(9)}a.jpg"]
    content = tar.read_bytes()
    for row in rows:
        assert row["where"] == str(tar)
        name = row["image"].partition("/")[2].partition(".j")[0].partition(".t")[0].encode()
        assert content[row["position"] :].startswith(name)


def test_a_damaged_tar_is_refused_whole_and_the_others_go_on(tmp_path: Path):
    root = corpus(tmp_path / "cc3m")
    content = (root / "00001.tar").read_bytes()
    (root / "00001.tar").write_bytes(content[:40_000])
    found = indexed(root, tmp_path / "out", workers=2)
    (row,) = rejected(tmp_path / "out")
    assert row["kind"] == "tars" and row["where"].endswith("cc3m/00001.tar")
    assert 0 < row["position"] <= 40_000 and row["position"] % 512 == 0
    assert found.manifest.totals["images"].found == 24 and found.num_tars == 2
    (line,) = found.damaged
    assert f"00001.tar: damaged at byte {row['position']}: " in line
    indexed(root, root)
    assert not verify(root, progress=False)  # one that is left out is no damage of the index


def test_nothing_usable(tmp_path: Path):
    write(tmp_path / "00000.tar", [("readme.md", b"x")])
    with pytest.raises(ValueError, match="no usable sample in train"):
        indexed(tmp_path, tmp_path / "out")
    (tmp_path / "00000.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="most often: an empty file"):
        indexed(tmp_path, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no \.tar at"):
        indexed(tmp_path / "*.zip", tmp_path / "out")
    with pytest.raises(ValueError, match="'pipe' is not allowed"):
        indexed("pipe:touch /tmp/x.tar", tmp_path / "out")
    with pytest.raises(ValueError, match="password") as error:
        indexed("https://me:secret@127.0.0.1:9/00000.tar", tmp_path / "out")
    assert "secret" not in str(error.value)
    with pytest.raises(ValueError, match="the query of a URL.*s3://.*in the environment") as error:
        indexed("https://127.0.0.1:9/00000.tar?X-Amz-Signature=secret", tmp_path / "out")
    assert "secret" not in str(error.value)


def test_the_table_and_the_stats_beside_a_tar(tmp_path: Path):
    keys = [f"00000000{number}" for number in range(4)]
    members = [(f"{key}.jpg", encoded(number)) for number, key in enumerate(keys)]
    members.append((f"{keys[0]}.json", json.dumps({"key": keys[0], "caption": "of the json"}).encode()))
    write(tmp_path / "00000.tar", members)
    table = {
        "key": keys,
        "caption": ["no", "of the table", "failed", None],
        "status": ["success", "success", "failed_to_resize", "success"],
        "error_message": [None, None, "x", None],
    }
    parquet.write_table(pa.table(table), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text('{"successes": 5}')
    split = {"validation": 0, "test": 0}
    found = indexed(tmp_path, tmp_path / "out", split=split)
    captions = [shard_format.captions(members["captions"]) for members, *_ in samples(tmp_path / "out", "train")]
    assert captions == [["of the json"], ["of the table"]]
    reasons = {row["image"]: row["reason"] for row in rejected(tmp_path / "out") if row["kind"] == "images"}
    assert reasons == {
        "00000/000000002.jpg": "its status is failed_to_resize: x",
        "00000/000000003.jpg": "no caption names it",
    }
    (note,) = found.notes
    assert "00000.tar holds 4 images, where its _stats.json counts 5" in note
    (tmp_path / "00000.parquet").write_bytes(b"PAR1 and then nothing")
    found = indexed(tmp_path, tmp_path / "out", split=split, overwrite=True)
    assert found.manifest.num_samples("train") == 1
    assert any("00000.parquet: not a readable table" in note for note in found.notes)


def test_captions_and_identities_of_other_fields(tmp_path: Path):
    members = []
    for number in range(8):
        key = f"00000000{number}"
        members += [(f"{key}.jpg", encoded(number)), (f"{key}.txt", b"the text")]
        members.append((f"{key}.json", facts(key, alt=[f"first {number}", "second"], album=number // 2)))
    write(tmp_path / "00000.tar", members)
    indexed(tmp_path, tmp_path / "out", captions="alt", identity="album", split={"validation": 0.4, "test": 0})
    side = {}
    for split in SPLITS:
        for held, record, _ in samples(tmp_path / "out", split):
            assert shard_format.captions(held["captions"])[1] == "second" and record["num_captions"] == 2
            assert side.setdefault(int(record["identity"]), split) == split
    assert set(side) == {shard_format.identity_number(str(album)) for album in range(4)}


KILLED = """
import sys
from pathlib import Path
from tests.shard.test_index import indexed
indexed(sys.argv[1], Path(sys.argv[2]), workers=2)
"""


def test_after_a_kill_only_unfinished_tars_are_redone(tmp_path: Path):
    root = corpus(tmp_path / "cc3m", num_tars=6)
    indexed(root, tmp_path / "whole")
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", KILLED, root, out], start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(out.glob(".index/*.json")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in out.glob(".index/*.json")}
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*-0*-*.small") if done}
    assert not (out / MANIFEST).exists() or len(done) == 0
    (out / f".train-00000-{'a' * 12}.small.77-0a.tmp").touch()  # what is cut off has such a name
    indexed(root, out)
    assert files(out) == files(tmp_path / "whole")
    for record in done:
        for path in out.glob(f"*-{record.stem}.small"):
            assert path.stat().st_mtime_ns == kept.get(path, path.stat().st_mtime_ns)


@pytest.fixture
def server(tars: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tars))) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()
        thread.join()


def test_tars_behind_a_url(server: str, tars: Path, tmp_path: Path):
    manifest = indexed(server + "/{00000..00002}.tar", tmp_path / "out").manifest
    assert manifest.shards("train")[0].name == f"{server}/00000.tar"
    assert manifest.totals["images"].stored == 36
    local = indexed(tars, tmp_path / "local").manifest
    for split in SPLITS:
        assert [shard.sha256 for shard in local.shards(split)] == [
            hashlib.sha256((tars / shard.name.rpartition("/")[2]).read_bytes()).hexdigest()
            for shard in local.shards(split)
        ]
    assert {shard.sha256 for shard in manifest.shards("train")} == {shard.sha256 for shard in local.shards("train")}


def test_what_cannot_be_read_is_tried_again_by_the_same_command(server: str, tmp_path: Path):
    root, out = corpus(tmp_path / "more", num_tars=1), tmp_path / "out"
    places = [str(root / "00000.tar"), f"{server}/00003.tar"]
    with pytest.raises(OSError, match=r"1 of 2 tars could not be read, such as 00003-.*the same command goes on"):
        indexed(places, out)
    (record,) = out.glob(".index/00000-*.json")
    done = record.stat().st_mtime_ns
    with pytest.raises(OSError, match="1 of 2"):
        indexed(places, out)
    assert record.stat().st_mtime_ns == done
    write(root / "00000.tar", sample("000000000"))  # another than before
    with pytest.raises(OSError, match="1 of 2"):
        indexed(places, out)
    assert json.loads(record.read_bytes())["stored"]["images"] == 1


def test_tars_of_any_format(tmp_path: Path):
    for number, form in enumerate((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        with tarfile.open(tmp_path / f"{number}.tar", "w", format=form) as tar:
            for name, content in sample(f"{number:09d}"):
                header = tarfile.TarInfo(f"{'d' * 60}/{'e' * 60}/{name}")
                header.size = len(content)
                header.mtime = 1.5 if form == tarfile.PAX_FORMAT else 0
                tar.addfile(header, io.BytesIO(content))
    assert indexed(tmp_path, tmp_path / "out").manifest.totals["images"].stored == 3


def test_the_command(tars: Path, tmp_path: Path):
    arguments = ["index", str(tars), "--out", str(tmp_path / "out"), "--resolution", "16", "--workers", "1"]
    done = CliRunner().invoke(main, [*arguments, "--set", "image.fit=pad"])
    assert done.exit_code == 0, done.output
    assert "images: 36 found = 36 stored + 0 rejected + 0 unmatched" in done.output
    assert "in 3 tars; train with --set data.shards=" in done.output
    assert Manifest.load(tmp_path / "out").image.fit == "pad"
    for faulty, message in (
        (arguments, "holds a finished index; --overwrite replaces it"),
        (["index", "--out", "x"], "tars"),
        ([*arguments, "--set", "image.resoluton=3"], "resolution"),
        (["index", "pipe:ls", "--out", "x"], "'pipe' is not allowed"),
        (["index", str(tars), "--out", "s3://bucket/x"], "written to a local folder"),
    ):
        done = CliRunner().invoke(main, faulty)
        assert done.exit_code == 1 and message in done.output and done.output.count("\n") == 1, done.output


@pytest.mark.slow
def test_tars_in_a_bucket(bucket: str, tars: Path, tmp_path: Path):
    """Listed by a pattern, read once each, and nothing of them is kept here."""
    for path in tars.glob("*.tar"):
        Folder(bucket).store(path, f"cc3m/{path.name}")
    found = indexed(f"{bucket}/cc3m/*.tar", tmp_path / "out", workers=2).manifest
    local = indexed(tars, tmp_path / "local").manifest
    for split in SPLITS:  # the split is the same there and here, and so are the samples
        assert [(shard.sha256, shard.index_sha256, shard.small_sha256) for shard in found.shards(split)] == [
            (shard.sha256, shard.index_sha256, shard.small_sha256) for shard in local.shards(split)
        ]
    assert found.shards("train")[0].name == f"{bucket}/cc3m/00000.tar"
    assert not list((tmp_path / "out").glob("*.tar"))
    recipe = {"layout": "webdataset", "image": {"resolution": 16}, "split": {"validation": 0, "test": 0}}
    there = build(ShardRecipe(faces=f"{bucket}/cc3m", out=str(tmp_path / "1"), **recipe), 1, progress=False)
    here = build(ShardRecipe(faces=str(tars), out=str(tmp_path / "2"), **recipe), 1, progress=False)
    assert there.splits == here.splits  # the images by reads of their part of the tar
