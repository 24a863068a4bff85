"""Files that were changed by accident or by intent, and files that mean harm: right, or refused in one line."""

import json
import os
import subprocess
import sys
import tarfile
import time
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from t2f_dist.config.index import IndexRecipe
from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.data.shards import Shards
from t2f_dist.shard import format as shard_format
from t2f_dist.shard import index as shard_index
from t2f_dist.shard import parquet as table_of_tar
from t2f_dist.shard import triplet
from t2f_dist.shard.build import build
from t2f_dist.shard.encode import clean_caption
from t2f_dist.shard.manifest import MANIFEST, Manifest, digest
from t2f_dist.shard.sources import face2text, table
from t2f_dist.shard.sources.webdataset import contents as tar_contents
from t2f_dist.shard.sources.webdataset import tars
from t2f_dist.shard.tar import scan
from t2f_dist.shard.triplet import TEXT_BYTES_MAX, Fields, triplets
from t2f_dist.text.vocabulary import FORMAT, VERSION, Vocabulary
from tests import fuzz
from tests.data import mixed
from tests.shard.img2dataset import sample, write
from tests.shard.judge import check, contents
from tests.shard.mutation import MUTATIONS, Mutations
from tests.shard.raw import draw
from tests.shard.victims import Victims, write_manifest
from tests.web import served

NAMES = (
    "tar, ustar", "tar, gnu", "tar, pax", "own tar", "own index", "own small", "own manifest", "own index, signed",
    "own manifest, signed", "foreign tar", "foreign index", "foreign small", "foreign index, signed",
    "foreign manifest", "foreign manifest, signed", "image, JPEG", "image, PNG", "image, WEBP", "image, GIF",
    "image, TIFF", "image, BMP", "image, JPEG2000", "image, PPM", "image, TGA", "image, AVIF",
    "image, progressive JPEG", "voice", "vocabulary", "embeddings", "facts", "table", "array", "archive",
)  # fmt: skip


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Victims:
    return Victims(tmp_path_factory.mktemp("victims"))


def test_every_victim_is_tried(victims: Victims):
    assert tuple(sorted(victims.names)) == tuple(sorted(NAMES))
    for home in (victims.own, victims.foreign):
        assert check(home, contents(home), honest=True) == "same"


@pytest.mark.filterwarnings("ignore")  # of odd pictures
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=5, deadline=20_000, suppress_health_check=list(HealthCheck))
@given(mutations=MUTATIONS)
def test_what_is_changed_is_right_or_refused(victims: Victims, name: str, mutations: Mutations):
    assert victims.names[name](mutations)


@pytest.mark.slow
def test_ten_thousand_of_them():
    table, escapes = fuzz.run(10_000, 0)
    assert not escapes and sum(sum(counts.values()) for counts in table.values()) == 10_000


@pytest.mark.parametrize(
    "name",
    ["../x.tar", "/etc/passwd", "a/b.tar", "", ".", "..", ".hidden", "a\\b.tar", "a\nb.tar", "a\0b", "x" * 300,
     "pipe:ls", "ftp://h/x.tar", "s3://", "file://elsewhere/x.tar", "zip::file:///x.tar", "https://h/../x.tar"],
)  # fmt: skip
@pytest.mark.parametrize("field", ["name", "index", "small"])
def test_names_that_lead_out(tmp_path: Path, field: str, name: str):
    folder = mixed.write(tmp_path / "shards")
    content = json.loads((folder / MANIFEST).read_bytes())
    content["splits"]["train"]["shards"][0][field] = name
    write_manifest(folder, content)
    with pytest.raises(ValueError, match="manifest.json: splits.train.shards.0") as error:
        Manifest.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["file:///etc/passwd", "FILE:///etc/passwd", "file://localhost/etc/passwd"])
def test_a_manifest_from_elsewhere_names_no_local_files(tmp_path: Path, name: str):
    folder = mixed.write(tmp_path / "shards")
    content = json.loads((folder / MANIFEST).read_bytes())
    content["splits"]["validation"]["shards"][0]["name"] = name
    write_manifest(folder, content)
    Manifest.load(folder)  # as `index` writes them here
    with served() as web, pytest.raises(ValueError, match="may not name local files") as error:
        Manifest.load(web.put_folder(folder))
    assert "\n" not in str(error.value)


def test_a_deep_manifest(tmp_path: Path):
    folder = mixed.write(tmp_path / "shards")
    for depth in (200, 900, 990, 5_000, 200_000):
        (folder / MANIFEST).write_text(
            '{"format": "t2f-dist-shards", "version": 3, "recipe": ' + "[" * depth + "]" * depth + "}"
        )
        with pytest.raises(ValueError, match="is damaged"):
            Manifest.load(folder)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("image_offset", 2**64 - 1, "outside"),
        ("image_offset", 2**63, "outside"),
        ("image_offset", 0, "without an image"),
        ("image_length", 2**32 - 1, "outside"),
        ("image_length", 0, "without an image"),
        ("lod_offset", 2**64 - 1, "outside"),
        ("captions_length", 2**32 - 1, "outside"),
        ("speech_offset", 2**64 - 10, "outside"),
    ],
)
def test_records_that_lead_out(tmp_path: Path, field: str, value: int, reason: str):
    folder = mixed.write(tmp_path / "shards")
    shard = Manifest.load(folder).shards("train")[0]
    index = shard_format.open_index(folder / shard.index, shard).copy()
    index[field][3] = value
    changed = shard_format.index_header(len(index)) + index.tobytes()
    (folder / shard.index).write_bytes(changed)
    with pytest.raises(ValueError, match=reason):
        shard_format.open_index(folder / shard.index, shard.model_copy(update={"index_sha256": digest(changed)}))


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|O', 'fortran_order': False, 'shape': (12,), }",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (12,), }",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (10**18,), }",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': " + b"(" * 5000 + b"), }",
        b"__import__('os').system('touch x')",
    ],
)
def test_an_index_of_another_kind(tmp_path: Path, header: bytes):
    folder = mixed.write(tmp_path / "shards")
    shard = Manifest.load(folder).shards("train")[0]
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(shard.index_bytes)
    (folder / shard.index).write_bytes(content)
    with pytest.raises(ValueError, match="is not an index of 12 samples"):
        shard_format.open_index(folder / shard.index, shard.model_copy(update={"index_sha256": digest(content)}))


def test_vocabularies():
    head = f'{{"format": "{FORMAT}", "version": {VERSION}, "words": '
    many = json.dumps([str(number) for number in range(100_000)] + ["99999"])
    for words in ("[" * 100_000, '["a", 1]', '["a", "a"]', "{}", "null", "1e999", many):
        with pytest.raises(ValueError, match="vocabulary"):
            Vocabulary.from_json(head + words + "}")


PIPES = ("pipe:touch {x}", "pipe:touch {x} |.tar", "PIPE:touch {x}", " pipe:touch {x}.tar", "ftp://h/x.tar", "scp://h/x.tar",
         "zip::pipe:touch {x}", "file::pipe:touch {x}.tar", "s3://b/x.tar::pipe:touch {x}")  # fmt: skip


@pytest.mark.parametrize("place", PIPES)
def test_no_other_scheme_is_let_through(tmp_path: Path, place: str):
    x = tmp_path / "touched"
    place = place.format(x=x)
    recipe = ShardRecipe(layout="webdataset", faces=place, out=str(tmp_path / "out"))
    for use in (
        lambda: tars(place),
        lambda: build(recipe, 1, progress=False),
        lambda: shard_index.index(IndexRecipe(tars=(place,), out=str(tmp_path / "out")), 1, progress=False),
        lambda: Shards(place, "train"),
    ):
        with pytest.raises(ValueError, match="not allowed|expected"):
            use()
    assert not x.exists()


def test_files_of_a_corpus_that_are_none(tmp_path: Path):
    """A pipe that nobody writes to, a device without end, a file of 4 GB, and one that stands in its own folder."""
    faces = tmp_path / "faces"
    for number in range(3):
        draw(faces / f"{number}.png", number)
    os.mkfifo(faces / "pipe.jpg")
    (faces / "zero.jpg").symlink_to("/dev/zero")
    (faces / "missing.jpg").symlink_to("nowhere")
    (faces / "again").symlink_to(faces)
    with open(faces / "large.png", "wb") as stream:
        stream.truncate(4 << 30)
    recipe = ShardRecipe(
        faces=str(faces),
        out=str(tmp_path / "out"),
        image={"resolution": 16},  # pyright: ignore[reportArgumentType]
        split={"validation": 0, "test": 0},  # pyright: ignore[reportArgumentType]
    )
    manifest = build(recipe, 1, progress=False)
    rows = [json.loads(line) for line in (tmp_path / "out" / manifest.rejected.file).read_text().splitlines()]
    reasons = {row["image"]: row["reason"] for row in rows}
    assert manifest.totals["images"].stored == 3
    assert reasons.keys() == {"pipe.jpg", "zero.jpg", "missing.jpg", "large.png"}
    assert "not a plain file" in reasons["pipe.jpg"] and "not a plain file" in reasons["zero.jpg"]
    assert reasons["missing.jpg"] == "no such file" and "at most" in reasons["large.png"]


BOUNDED = """
import resource, sys
from t2f_dist.config.index import IndexRecipe
from t2f_dist.data.image import decode, decode_foreign
from t2f_dist.data.speech import listen
from t2f_dist.shard.format import DamagedSample
from t2f_dist.shard.picture import Rejected
from tests.shard import bombs
from tests.shard.victims import brought

image = IndexRecipe(tars=("x",), out="x", image={"resolution": 64}).image
made = {name: make() for name, make in bombs.IMAGES.items()}
voices = {"hours": bombs.flac(3600 * 24), "channels": bombs.flac(3600, 655_350, 2)}
resource.setrlimit(resource.RLIMIT_AS, (1 << 30,) * 2)
for name, content in made.items():
    for read in (
        lambda: brought(content, image),
        lambda: decode_foreign(content, 64, image),
        lambda: decode(content, 64, 64),
    ):
        try:
            read()
            print("read", name)
        except (Rejected, DamagedSample) as error:
            assert "\\n" not in str(error) and "at 0x" not in str(error), str(error)
for name, content in voices.items():
    try:
        print(name, len(listen(content, 10.0, 0.5)))
    except DamagedSample:
        pass
"""


def test_bombs():
    """In a gigabyte, and in seconds."""
    done = subprocess.run([sys.executable, "-c", BOUNDED], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("", "")


def test_members_of_gigabytes(tmp_path: Path):
    """A caption, a JSON and images of 4 GB each, of which nothing stands on the disk, are not read."""
    path = write(tmp_path / "00000.tar", sample("000000000"))
    with open(path, "r+b") as stream:
        stream.seek(max(member.offset + -(-member.size // 512) * 512 for member in scan(path)))
        for name in ("1.jpg", "2.txt", "3.json"):
            header = tarfile.TarInfo(name)
            header.size = 4 << 30
            stream.write(header.tobuf(tarfile.USTAR_FORMAT))
            stream.seek(header.size, os.SEEK_CUR)
        stream.write(bytes(10240))
    found, _ = triplets(path)
    assert [each.fault for each in found.values() if not each.fault] == [""]
    assert all(f"{4 << 30} bytes; at most" in found[key].fault for key in "123")


def test_texts_of_a_tar_are_read_one_by_one(tmp_path: Path):
    """Two hundred captions of a mebibyte each, of which nothing stands on the disk."""
    path = write(tmp_path / "00000.tar", sample("000000000"))
    with open(path, "r+b") as stream:
        stream.seek(max(member.offset + -(-member.size // 512) * 512 for member in scan(path)))
        for number in range(200):
            header = tarfile.TarInfo(f"{number}.txt")
            header.size = TEXT_BYTES_MAX
            stream.write(header.tobuf(tarfile.USTAR_FORMAT))
            stream.seek(header.size, os.SEEK_CUR)
        stream.write(bytes(10240))
    (tar,) = tars(str(path))
    tracemalloc.start()
    with tar_contents(tar, path, Fields()) as held:
        lengths = [sum(len(str(caption)) for caption in said.captions) for _, said in held.samples]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert lengths[1:] == [TEXT_BYTES_MAX] * 200
    assert peak < 20 * TEXT_BYTES_MAX


def test_keys_that_repeat_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(triplet, "TRIPLETS_MAX", 5)
    member = ("1.txt", b"x")
    assert len(triplets(write(tmp_path / "5.tar", [member] * 5))[1]) == 4
    with pytest.raises(ValueError, match="more than 5 keys in one tar"):
        triplets(write(tmp_path / "9.tar", [member] * 9))


def test_a_table_of_long_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A text that every row repeats is held once; more of different texts than there is room for are refused."""
    path = tmp_path / "00000.parquet"
    keys = [str(number) for number in range(1000)]
    parquet.write_table(pa.table({"key": keys[:100], "caption": ["x" * (1 << 20)] * 100}), path)
    tracemalloc.start()
    assert len(table_of_tar.rows(path, ("caption",))) == 100
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 << 20
    monkeypatch.setattr(table_of_tar, "TABLE_LENGTH_MAX", 10_000)
    parquet.write_table(pa.table({"key": keys, "caption": [f"{number:020d}" for number in range(1000)]}), path)
    with pytest.raises(ValueError, match="not a readable table: more than 10,000 letters"):
        table_of_tar.rows(path, ("caption",))


@pytest.mark.parametrize("key", ["a b", "ä", "x" * 600, "..x", "con.d"])
def test_keys_of_any_kind(tmp_path: Path, key: str):
    image = sample("000000001")[0][1]
    write(tmp_path / "00000.tar", [(f"{key}.jpg", image), (f"{key}.txt", b"a face")])
    (tar,) = tars(str(tmp_path))
    assert tar.name == "00000.tar"
    recipe = IndexRecipe(
        tars=(str(tmp_path),),
        out=str(tmp_path / "out"),
        image={"resolution": 16},  # pyright: ignore[reportArgumentType]
        split={"validation": 0, "test": 0},  # pyright: ignore[reportArgumentType]
    )
    if key == "..x":  # an empty key: all up to the first dot
        with pytest.raises(ValueError, match="no usable sample"):
            shard_index.index(recipe, 1, progress=False)
    elif key == "con.d":
        with pytest.raises(ValueError, match=r"con\.d\.jpg is no image of a key, which ends at the first dot"):
            shard_index.index(recipe, 1, progress=False)
    else:
        assert shard_index.index(recipe, 1, progress=False).manifest.totals["images"].stored == 1


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=60))
def test_patterns_of_any_kind(text: str):
    with pytest.raises((ValueError, OSError)) as error:
        tars(f"/nonexistent/{text}")
    assert "\n" not in str(error.value)


def test_marks_without_end():
    """Half a million of them would take minutes to be put in order."""
    started = time.monotonic()
    assert len(clean_caption("a" + "\u0301\u0323" * 250_000 + " face")) < 40
    assert time.monotonic() - started < 10
    assert clean_caption("cafe\u0301 a\u0323\u0302") == "café ậ"


def test_tars_that_are_none(tmp_path: Path):
    """A pipe that nobody writes to, a device, a link to nothing: each is told, and the tar beside them is read."""
    root = write(tmp_path / "cc3m" / "00000.tar", sample("000000000")).parent
    os.mkfifo(root / "00001.tar")
    (root / "00002.tar").symlink_to("/dev/zero")
    recipe = IndexRecipe(
        tars=(str(root),),
        out=str(tmp_path / "out"),
        image={"resolution": 16},  # pyright: ignore[reportArgumentType]
        split={"validation": 0, "test": 0},  # pyright: ignore[reportArgumentType]
    )
    found = shard_index.index(recipe, 1, progress=False)
    assert [line.rpartition(": ")[2] for line in found.damaged] == ["not a plain file"] * 2
    (root / "00003.tar").symlink_to("nowhere")
    with pytest.raises(OSError, match="1 of 4 tars could not be read, such as 00003-"):
        shard_index.index(recipe, 1, overwrite=True, progress=False)


def test_a_deep_line_and_a_long_one(tmp_path: Path):
    path = tmp_path / "captions.jsonl"
    for line, message in (("[" * 100_000, "line 1 is not JSON"), ("x" * (1 << 25), "line 1 has more than")):
        path.write_text(line)
        with pytest.raises(ValueError, match=message):
            list(table.read(path, "image", None, table.CAPTION_COLUMNS, "identity").mentions)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not JSON"):
        face2text.read(path)
