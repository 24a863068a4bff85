"""The HDF5 files of Text-to-Image-Synthesis."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.build import build
from tests.shard.raw import encoded, planned, reasons

SIZE = 8
CAPTIONS = 3
SIDES = {"train": "train", "valid": "validation", "test": "test"}
NAMES = {side: [f"{side}_bird_{number}" for number in range(2)] for side in SIDES}
ALL = [name for names in NAMES.values() for name in names]


def vector(name: str, number: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=10 * ALL.index(name) + number)).standard_normal(SIZE)


def example(group, name: str, kind: str, caption: str, embedding: np.ndarray, image: bytes) -> None:
    """An example with the datasets as the published scripts write them."""
    group["name"] = name
    group.create_dataset("img", data=np.void(image))
    group.create_dataset("embeddings", data=embedding)
    group["class"] = kind
    group.create_dataset("txt", data=np.array(caption).astype(object), dtype=h5py.special_dtype(vlen=str))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two images a side, three captions each, the class of an image the same on all its examples."""
    with h5py.File(tmp_path / "birds.hdf5", "w") as file:
        for side, names in NAMES.items():
            group = file.create_group(side)
            for name in names:
                image = encoded(ALL.index(name))
                for number in range(CAPTIONS):
                    example(
                        group.create_group(f"{name}_{number}"),
                        name,
                        f"{side}.class",
                        f"{name} says {number}\n",
                        vector(name, number),
                        image,
                    )
    return tmp_path / "birds.hdf5"


def test_examples_of_one_image_are_joined(path: Path):
    found, entries = planned(layout="hdf5", faces=str(path))
    assert set(entries) == set(ALL)
    assert found.found == {"images": len(ALL), "captions": len(ALL) * CAPTIONS}
    for side, names in NAMES.items():
        for name in names:
            entry = entries[name]
            assert entry.identity == f"{side}.class"
            assert entry.captions == tuple(f"{name} says {number}" for number in range(CAPTIONS))
            assert entry.image.read() == encoded(ALL.index(name))
            expected = np.stack([vector(name, number) for number in range(CAPTIONS)]).astype(np.float32)
            assert np.array_equal(entry.embeddings.read(), expected)


def test_its_own_split_is_kept_or_the_class_decides(path: Path):
    given, _ = planned(layout="hdf5", faces=str(path), split={"given": True})
    assert {side: sorted(entry.path for entry in entries) for side, entries in given.splits.items()} == {
        ours: sorted(NAMES[theirs]) for theirs, ours in SIDES.items()
    }
    by_class, _ = planned(layout="hdf5", faces=str(path))
    assert len(by_class.splits["train"]) == len(ALL)


@pytest.mark.parametrize(
    ("trailing", "options"),
    [
        (b"\0\0", {"data": np.void(encoded(7) + b"\0\0")}),  # what follows a whole PNG must not be cut off either
        (b"", {"data": np.bytes_(encoded(7))}),
        (b"", {"data": np.frombuffer(encoded(7), dtype=np.uint8), "chunks": (64,), "compression": "gzip"}),
    ],
    ids=["opaque", "string", "array"],
)
def test_images_as_opaque_string_or_array(tmp_path: Path, trailing: bytes, options: dict):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        group = file.create_group("train/a_0")
        example(group, "a", "x", "a bird", np.zeros(SIZE), b"replaced")
        del group["img"]
        group.create_dataset("img", **options)
    _, entries = planned(layout="hdf5", faces=str(tmp_path / "a.hdf5"))
    assert entries["a"].image.read() == encoded(7) + trailing


def test_many_captions_in_one_example(tmp_path: Path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        group = file.create_group("train/a")
        example(group, "a", "x", "", np.arange(2 * SIZE).reshape(2, SIZE), encoded(1))
        del group["txt"]
        group.create_dataset("txt", data=["red", "blue"], dtype=h5py.string_dtype())
    _, entries = planned(layout="hdf5", faces=str(tmp_path / "a.hdf5"))
    assert entries["a"].captions == ("red", "blue")
    assert np.array_equal(entries["a"].embeddings.read(), np.arange(2 * SIZE, dtype=np.float32).reshape(2, SIZE))


def test_the_same_name_with_another_picture(path: Path):
    name = NAMES["train"][0]
    with h5py.File(path, "r+") as file:
        group = file[f"train/{name}_1"]
        del group["img"]
        group.create_dataset("img", data=np.void(encoded(99, size=(20, 20))))
    found, entries = planned(layout="hdf5", faces=str(path))
    assert entries[name].captions == (f"{name} says 0", f"{name} says 2")
    assert np.array_equal(entries[name].embeddings.read()[1], vector(name, 2).astype(np.float32))
    assert "another of the same name" in reasons(found, "captions")[name]


def test_embeddings_may_be_left_out(path: Path):
    _, entries = planned(layout="hdf5", faces=str(path), hdf5={"embeddings": False})
    assert all(entry.embeddings is None and len(entry.captions) == CAPTIONS for entry in entries.values())


def replaced(name: str, value):
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            group = file[f"train/{NAMES['train'][0]}_0"]
            del group[name]
            if value is not None:
                group[name] = value

    return spoil


def cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def text(path: Path) -> None:
    path.write_text("no HDF5")


def emptied(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("other")


def stored_elsewhere(path: Path) -> None:
    secret = path.with_name("secret")
    secret.write_bytes(b"x" * 100)
    with h5py.File(path, "r+") as file:
        group = file[f"train/{NAMES['train'][0]}_0"]
        del group["img"]
        group.create_dataset("img", (100,), dtype=np.uint8, external=[(str(secret), 0, 100)])


def claiming_much(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        group = file[f"train/{NAMES['train'][0]}_0"]
        del group["img"]
        group.create_dataset("img", (1 << 40,), dtype=np.uint8, chunks=(1 << 20,))


def flat(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["train"] = np.zeros(3)


def flat_example(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["train/a_0"] = np.zeros(3)


def split_in_two(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.copy(f"train/{NAMES['train'][0]}_0", "test/again_0")


@pytest.mark.parametrize(
    ("spoil", "changes", "message"),
    [
        (cut, {}, "not a whole HDF5 file"),
        (text, {}, "not a whole HDF5 file"),
        (emptied, {}, "none of the groups train, valid, test, only other"),
        (replaced("txt", None), {}, "has no dataset 'txt'"),
        (replaced("name", 7), {}, "name is not text"),
        (replaced("embeddings", np.zeros((2, SIZE))), {}, r"embeddings \[2, 8\] for 1 captions"),
        (replaced("embeddings", np.zeros(SIZE + 1)), {}, "an embedding of 8 values, where those before have 9"),
        (replaced("img", h5py.ExternalLink("/etc/passwd", "/")), {}, "img is a link to another place"),
        (replaced("txt", h5py.SoftLink("/train")), {}, "txt is a link to another place"),
        (stored_elsewhere, {}, "has its values in another file"),
        (claiming_much, {}, "img claims 1099511627776 bytes"),
        (flat, {}, "train is not a group"),
        (flat_example, {}, "train/a_0 is not a group"),
        (replaced("txt", h5py.Empty("f")), {}, "txt is not text"),
        (replaced("class", "another"), {}, "has the identity"),
        (split_in_two, {"split": {"given": True}}, "on another side too; set split.given=false"),
    ],
)
def test_files_that_are_refused(path: Path, spoil, changes: dict, message: str):
    spoil(path)
    with pytest.raises(ValueError, match=message) as error:
        planned(layout="hdf5", faces=str(path), **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("image", [h5py.Empty("u1"), np.zeros(3), "text"])
def test_an_image_that_is_none_is_refused_when_it_is_read(path: Path, tmp_path: Path, image):
    replaced("img", image)(path)
    name = NAMES["train"][0]
    with h5py.File(path, "r+") as file:
        for number in range(1, CAPTIONS):
            del file[f"train/{name}_{number}"]
    recipe = ShardRecipe(
        layout="hdf5", faces=str(path), out=str(tmp_path / "out"), image={"resolution": 16}, split={"given": True}
    )
    totals = build(recipe, workers=1, progress=False).totals
    assert totals["images"].rejected == totals["captions"].rejected == 1


def test_embeddings_that_are_no_numbers(path: Path):
    replaced("embeddings", np.array([b"a"] * SIZE))(path)
    _, entries = planned(layout="hdf5", faces=str(path))
    with pytest.raises(ValueError, match="not numbers"):
        entries[NAMES["train"][0]].embeddings.read()


def test_a_file_that_broke_after_the_plan_refuses_the_sample(path: Path):
    _, entries = planned(layout="hdf5", faces=str(path))
    cut(path)
    with pytest.raises(ValueError, match="not a whole HDF5 file"):
        entries[ALL[0]].image.read()


def test_shards_of_the_file(path: Path, tmp_path: Path):
    recipe = ShardRecipe(
        layout="hdf5",
        faces=str(path),
        out=str(tmp_path / "out"),
        image={"resolution": 16},
        split={"given": True},
    )
    manifest = build(recipe, workers=2, progress=False)
    assert manifest.num_samples("validation") == 2
    assert manifest.totals["captions"].stored == len(ALL) * CAPTIONS


def test_without_h5py_the_line_says_what_to_install(path: Path):
    program = (
        "import sys; sys.modules['h5py'] = None\n"
        "from t2f_dist.config.recipe import ShardRecipe\n"
        "from t2f_dist.shard.corpus import plan\n"
        f"plan(ShardRecipe(layout='hdf5', faces={str(path)!r}, out='o'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith(
        "needs h5py: `make install` brings it; else `pip install -e '.[hdf5]'` in a clone"
    )
