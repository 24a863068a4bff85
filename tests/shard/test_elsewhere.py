"""A corpus in a store becomes the same samples as on a disk, whatever its layout, and what it names stays there."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from t2f_dist.config.recipe import AudioRecipe, ImageRecipe, ShardRecipe
from t2f_dist.shard.ahead import AHEAD, Asked, ahead
from t2f_dist.shard.build import build
from t2f_dist.shard.corpus import Entry
from t2f_dist.shard.encode import Rejected, encode_image, encode_speech
from t2f_dist.shard.inventory import Inventory
from t2f_dist.shard.manifest import MANIFEST, Manifest
from t2f_dist.shard.sources import File
from t2f_dist.shard.sources.webdataset import Slice
from t2f_dist.storage.folder import Folder
from t2f_dist.storage.patience import Unreachable
from t2f_dist.storage.stage import release, room, staged
from tests import s3
from tests.flaky import flaky
from tests.shard.raw import Corpus, draw, encoded, planned, reasons, speak
from tests.storage.silent import silent

Make = Callable[[Path], dict[str, Any]]


def tables(root: Path) -> dict[str, Any]:
    Corpus(root, people=3)
    return {"faces": "faces", "captions": "captions.jsonl", "speech": "speech.csv"}


def texts(root: Path) -> dict[str, Any]:
    for number, name in enumerate(("a/1", "a/ü #2", "b/1")):
        draw(root / "faces" / f"{name}.png", number)
        (root / "text" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "text" / f"{name}.txt").write_text(f"one of {number}\n\ntwo of {number}\r\n")
        speak(root / "voices" / f"{name}.wav", number)
    draw(root / "faces" / ".hidden" / "x.png", 9)
    return {"faces": "faces", "captions": "text", "speech": "voices"}


def birds(root: Path) -> dict[str, Any]:
    """Embeddings of each kind: a class in one file, an image a file, an archive, HDF5."""
    (root / "held").mkdir()
    for kind in range(4):
        values = {f"x{number}": np.full((2, 5), 10 * kind + number, np.float32) for number in range(2)}
        for number, stem in enumerate(values):
            draw(root / "images" / f"c{kind}" / f"{stem}.jpg", 10 * kind + number)
            (root / "text" / f"c{kind}").mkdir(parents=True, exist_ok=True)
            (root / "text" / f"c{kind}" / f"{stem}.txt").write_text(f"bird {kind}\nwing {number}\n")
        if kind == 0:
            np.save(root / "held" / "c0.npy", np.stack(list(values.values())))
        elif kind == 1:
            (root / "held" / "c1").mkdir()
            for stem, value in values.items():
                np.save(root / "held" / "c1" / f"{stem}.npy", value)
        elif kind == 2:
            np.savez(root / "held" / "c2.npz", **values)
        else:
            with h5py.File(root / "held" / "c3.h5", "w") as file:
                for stem, value in values.items():
                    file[stem] = value
    return {"layout": "cub", "faces": "images", "captions": "text", "cub": {"embeddings": "held"}}


def hdf5(root: Path) -> dict[str, Any]:
    with h5py.File(root / "birds.h5", "w") as file:
        for number in range(3):
            group = file.create_group(f"train/{number}")
            group["name"] = f"bird_{number}"
            group.create_dataset("img", data=np.void(encoded(number)))
            group["embeddings"] = np.full(4, number, np.float32)
            group["class"] = f"kind {number}"
            group["txt"] = f"bird {number} sings"
    return {"layout": "hdf5", "faces": "birds.h5"}


def celeba(root: Path) -> dict[str, Any]:
    for number in range(3):
        draw(root / "images" / f"{number}.jpg", number)
    (root / "list.txt").write_text("3\nMale Smiling\n" + "".join(f"{n}.jpg 1 -1\n" for n in range(3)))
    (root / "people.txt").write_text("".join(f"{n}.jpg {n % 2}\n" for n in range(3)))
    return {"layout": "celeba", "faces": "images", "captions": "list.txt", "celeba": {"identities": "people.txt"}}


def wav2pix(root: Path) -> dict[str, Any]:
    for speaker in ("ana", "ben"):
        draw(root / "all" / speaker / "cropped_5.png", 1)
        speak(root / "all" / speaker / "voice_5.wav", 2)
    return {"layout": "wav2pix", "faces": "all"}


def below(place: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recipe with their places below a folder."""
    inner = {"cub", "celeba"} & fields.keys()
    found = {name: {key: f"{place}/{value}" for key, value in fields[name].items()} for name in inner}
    return (
        fields | found | {name: f"{place}/{fields[name]}" for name in ("faces", "captions", "speech") if name in fields}
    )


def content(entry: Entry) -> tuple[Any, ...]:
    """All that becomes part of a sample, read from where it stands."""
    voice = (entry.voice.source, entry.voice.content.read()) if entry.voice else None
    vectors = entry.embeddings.read().tobytes() if entry.embeddings else None
    return entry.key, entry.identity, entry.captions, entry.image.read(), voice, vectors


@pytest.mark.parametrize("make", [tables, texts, birds, hdf5, celeba, wav2pix])
def test_a_layout_in_a_store_is_read_as_on_a_disk(
    make: Make, s3_server: s3.Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert s3_server.root is not None
    here = s3_server.root / bucket.removeprefix("s3://") / "corpus"
    here.mkdir()
    fields = make(here)
    local, there = planned(**below(str(here), fields)), planned(**below(f"{bucket}/corpus", fields))
    assert there[0].found == local[0].found
    assert there[0].refusals == local[0].refusals
    assert {name: content(entry) for name, entry in there[1].items()} == {
        name: content(entry) for name, entry in local[1].items()
    }
    assert Inventory.of(there[0]).sha256 == Inventory.of(local[0]).sha256, "one corpus, wherever it stands"
    release()
    assert list(tmp_path.rglob("*.*")) == [], "no copy is left"


@pytest.mark.parametrize("value", ["/etc/hostname", "../../../../etc/hostname", "../out.wav", "s3://other/x.wav", ""])
def test_a_table_elsewhere_names_nothing_here(value: str, s3_server: s3.Server, bucket: str, tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=2)
    speak(tmp_path / "corpus" / "out.wav", 1)
    (corpus.root / "deep").mkdir()
    with open(corpus.root / "deep" / "speech.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("image", "audio"), ("p00/p00_0.jpg", value)])
    s3.put(corpus.root, f"{bucket}/corpus")
    place = f"{bucket}/corpus"
    found, entries = planned(
        faces=f"{place}/faces", captions=f"{place}/captions.jsonl", speech=f"{place}/deep/speech.csv"
    )
    voice = entries["p00/p00_0.jpg"].voice
    if value == "../out.wav":  # beside the table's folder, in the same bucket
        assert voice is not None and voice.content.read() == (tmp_path / "corpus" / "out.wav").read_bytes()
    else:
        assert voice is None
        assert reasons(found, "voices")["p00/p00_0.jpg"] in ("no such file", "no path of an audio file")


def shards(place: str) -> dict[str, bytes]:
    folder = Folder(place)
    return {entry.name: folder.read(entry.name) for entry in folder.list() if entry.name != MANIFEST}


def test_shards_of_a_store_in_a_store_are_those_of_the_disk(bucket: str, tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=6)
    s3.put(corpus.root, f"{bucket}/corpus")
    local = build(corpus.recipe(tmp_path / "out"), workers=1, progress=False)
    fields = {name: f"{bucket}/corpus/{name}" for name in ("faces", "captions.jsonl", "speech.csv")}
    places = {name.partition(".")[0]: place for name, place in fields.items()}
    recipe = ShardRecipe(**corpus.recipe(tmp_path / "out").model_dump() | places | {"out": f"{bucket}/shards/v1"})
    there = build(recipe, workers=1, progress=False)
    assert shards(f"{bucket}/shards/v1") == shards(str(tmp_path / "out"))
    assert there.splits == local.splits
    assert Manifest.load(f"{bucket}/shards/v1") == there
    assert build(recipe, workers=1, progress=False) == there, "nothing is done twice"


@pytest.mark.slow
def test_the_command_with_stores_and_a_bad_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    corpus = Corpus(tmp_path / "corpus")
    build(corpus.recipe(tmp_path / "out"), workers=1, progress=False)
    with s3.seaweed(tmp_path / "weed") as server:
        server.into(monkeypatch)
        bucket = server.make("corpora")
        s3.put(corpus.root, f"{bucket}/corpus")
        # Every connection breaks in the midst of an answer, after a few pictures.
        monkeypatch.setattr("tests.flaky._CUT_BYTES", 30_000)
        with flaky(server.port, ["reset", "busy", *["cut"] * 1000]) as proxy:
            server.behind(proxy.port).into(monkeypatch)
            places = [f"--faces={bucket}/corpus/faces", f"--captions={bucket}/corpus/captions.jsonl"]
            places += [f"--speech={bucket}/corpus/speech.csv", f"--out={bucket}/shards"]
            changes = ("image.resolution=16", "samples_per_shard=8", "split.validation=0.2", "split.test=0.2")
            options = ["--workers=2", *(f"--set={change}" for change in changes)]
            command = [sys.executable, "-m", "t2f_dist.cli", "shard", *places, *options]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
            assert done.returncode == 0, done.stderr
            assert proxy.connections > 10
        server.into(monkeypatch)
        assert shards(f"{bucket}/shards") == shards(str(tmp_path / "out"))


def test_a_picture_that_cannot_be_asked_for_is_not_refused(
    bucket: str, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch
):
    Folder(bucket).write("a.png", encoded(1))
    image, none = File(bucket, "a.png"), File(bucket, "none.png")
    assert encode_image(image, ImageRecipe(resolution=16)).size == (40, 40)
    for encode in (
        lambda: encode_image(none, ImageRecipe(resolution=16)),
        lambda: encode_speech(none, AudioRecipe()),
    ):
        with pytest.raises(Rejected, match="no such file"):
            encode()
    s3_server.into(monkeypatch, secret="wrong")
    for encode in (
        lambda: encode_image(image, ImageRecipe(resolution=16)),
        lambda: encode_speech(image, AudioRecipe()),
    ):
        with pytest.raises(Unreachable):
            encode()


def test_pictures_are_asked_for_ahead_and_come_in_order(bucket: str):
    for number in range(2 * AHEAD):
        Folder(bucket).write(f"{number}.png", b"%d" % number)
    asked = []

    def entries():
        for number in range(3 * AHEAD):
            asked.append(number)
            yield Entry(f"{number}", f"{number}", "", (), None, File(bucket, f"{number}.png"))

    for number, entry in enumerate(ahead(entries())):
        assert number < len(asked) <= number + 1 + AHEAD
        if number < 2 * AHEAD:
            assert entry.image.read() == b"%d" % number
        else:
            with pytest.raises(FileNotFoundError):
                entry.image.read()
    assert len(asked) == 3 * AHEAD


def test_a_picture_that_has_changed_since_it_was_listed_is_refused(bucket: str):
    Folder(bucket).write("a.png", encoded(1))
    for size, said in ((5, "more than 5 bytes"), (99_999, "and 99999 when the corpus was listed")):
        with pytest.raises(Rejected, match=said):
            encode_image(File(bucket, "a.png", size, ""), ImageRecipe(resolution=16))


def test_a_picture_in_a_tar_elsewhere_is_asked_for_ahead_too(bucket: str, tmp_path: Path):
    Folder(bucket).write("a.tar", b"..one..two")
    (tmp_path / "a.tar").write_bytes(b"..one..two")
    there, here = Slice(f"{bucket}/a.tar", 2, 3), Slice(str(tmp_path / "a.tar"), 7, 3)
    entries = [Entry(text, text, "", (), None, image) for text, image in (("one", there), ("two", here))]
    found = list(ahead(entries))
    assert [entry.image.read() for entry in found] == [b"one", b"two"]
    assert [isinstance(entry.image, Asked) for entry in found] == [True, False]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"faces": "https://host/faces"}, "cannot be listed"),
        ({"faces": "ftp://host/faces"}, "'ftp' is not allowed"),
        ({"faces": "pipe:ls"}, "'pipe' is not allowed"),
        ({"faces": "BUCKET/none"}, "no image below"),
        ({"faces": "BUCKET", "captions": "BUCKET/none.csv"}, "no .txt below"),
        ({"faces": "BUCKET", "captions": "BUCKET/a.png"}, "expected .json"),
        ({"layout": "hdf5", "faces": "BUCKET/none.h5"}, "no such HDF5 file"),
        ({"layout": "hdf5", "faces": "BUCKET/a.png"}, "not a whole HDF5 file"),
    ],
)
def test_a_place_without_a_corpus_is_told_in_one_line(fields: dict[str, str], message: str, bucket: str):
    Folder(bucket).write("a.png", encoded(1))
    with pytest.raises((ValueError, OSError)) as caught:
        planned(**{name: value.replace("BUCKET", bucket) for name, value in fields.items()})
    assert message in str(caught.value) and "\n" not in str(caught.value)
    release()


STAGE = """
import sys
from t2f_dist.storage.stage import staged
path = staged(sys.argv[1])
print(path, flush=True)
sys.stdin.readline()
print(path.read_bytes().decode(), flush=True)
"""


def test_a_copy_is_shared_by_processes_and_goes_with_the_last(bucket: str, tmp_path: Path):
    Folder(bucket).write("table.csv", b"content")
    environment = os.environ | {"TMPDIR": str(tmp_path)}

    def start() -> tuple[subprocess.Popen[str], Path]:
        command = [sys.executable, "-c", STAGE, f"{bucket}/table.csv"]
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    first, path = start()
    written = path.stat().st_mtime_ns
    second, same = start()
    assert same == path and path.stat().st_mtime_ns == written, "fetched once"
    assert first.communicate("\n", timeout=30)[0].strip() == "content"
    assert path.is_file(), "another uses it still"
    second.kill()
    second.communicate()
    assert path.is_file(), "a killed process removes nothing"
    third, same = start()
    assert same == path and path.stat().st_mtime_ns == written
    assert third.communicate("\n", timeout=30)[0].strip() == "content"
    assert list(path.parent.iterdir()) == []


def test_a_copy_is_of_the_file_as_it_is_now(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for text in (b"one", b"other"):
        Folder(bucket).write("table.csv", text)
        assert staged(f"{bucket}/table.csv").read_bytes() == text
        release()
    (tmp_path / f"t2f-dist-{os.getuid()}").chmod(0o755)
    with pytest.raises(ValueError, match="of this user alone"):
        staged(f"{bucket}/table.csv")


ROOM = """
import sys
from t2f_dist.storage.stage import room
with room() as path:
    (path / "half.tar").write_bytes(b"half")
    print(path, flush=True)
    sys.stdin.readline()
"""


def test_the_room_of_a_killed_process_is_cleared_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", ROOM], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        with room() as ours:
            assert ours != theirs and ours.parent == theirs.parent
            assert (theirs / "half.tar").is_file(), "its process lives"
        process.kill()
        process.wait()
    assert theirs.is_dir()
    with room() as ours:
        assert not theirs.exists()
    assert list(ours.parent.iterdir()) == []


def test_no_more_is_copied_than_is_allowed(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Folder(bucket).write("table.csv", bytes(1000))
    with pytest.raises(ValueError, match="1000 bytes; at most 999 are fetched"):
        staged(f"{bucket}/table.csv", 999)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with silent(bytes(1000)) as place:
        assert Folder(place).entry("table.csv") == ("table.csv", -1, "")
        with pytest.raises(ValueError, match="more than 999 bytes, of which no more are fetched"):
            staged(f"{place}/table.csv", 999)
        assert File(place, "x").read() == bytes(1000)
        monkeypatch.setattr("t2f_dist.shard.sources.IMAGE_BYTES_MAX", 999)
        with pytest.raises(ValueError, match="more than 999 bytes"):
            File(place, "x").read()
    release()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
