"""Birds and flowers as published for text to image, with and without embeddings."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.build import build
from tests.shard.raw import draw, encoded, planned, reasons

CLASSES = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
PHOTOS = 3
CAPTIONS = 10
SIZE = 6


def stems(name: str) -> list[str]:
    return [f"{name[4:]}_{photo:04d}_{796100 - photo}" for photo in range(PHOTOS)]  # not in sorted order at the end


def caption(name: str, stem: str, line: int) -> str:
    return f"bird {stem[-6:]} of {name[:3]} has wings {line}."


def embedding(name: str, stem: str) -> np.ndarray:
    """[CAPTIONS, SIZE], other numbers for each image."""
    seed = CLASSES.index(name) * PHOTOS + stems(name).index(stem)
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal((CAPTIONS, SIZE)).astype(np.float32)


@pytest.fixture
def birds(tmp_path: Path) -> dict:
    for number, name in enumerate(CLASSES):
        (tmp_path / "text_c10" / name).mkdir(parents=True)
        for stem in stems(name):
            draw(tmp_path / "images" / name / f"{stem}.jpg", number)
            lines = "".join(caption(name, stem, line) + "\n" for line in range(CAPTIONS))
            (tmp_path / "text_c10" / name / f"{stem}.txt").write_text(lines)
    return {"layout": "cub", "faces": str(tmp_path / "images"), "captions": str(tmp_path / "text_c10")}


def test_birds(birds: dict):
    _, entries = planned(**birds)
    assert set(entries) == {f"{name}/{stem}.jpg" for name in CLASSES for stem in stems(name)}
    for name in CLASSES:
        for stem in stems(name):
            entry = entries[f"{name}/{stem}.jpg"]
            assert entry.identity == name
            assert entry.captions == tuple(caption(name, stem, line) for line in range(CAPTIONS))
            assert entry.embeddings is None


def test_flowers_stand_in_one_folder_and_have_the_class_of_their_captions(tmp_path: Path):
    for number in range(1, 5):
        name, flower = f"class_0000{(number + 1) // 2}", f"image_0000{number}"
        draw(tmp_path / "jpg" / f"{flower}.jpg", number)
        (tmp_path / "text_c10" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "text_c10" / name / f"{flower}.txt").write_text("petals\nmany petals\n")
    _, entries = planned(layout="cub", faces=str(tmp_path / "jpg"), captions=str(tmp_path / "text_c10"))
    identities = {path: entry.identity for path, entry in entries.items()}
    assert identities == {f"image_0000{number}.jpg": f"class_0000{(number + 1) // 2}" for number in range(1, 5)}


def write_npy(root: Path, name: str) -> None:
    np.save(root / f"{name}.npy", np.stack([embedding(name, stem) for stem in sorted(stems(name))]))


def write_npz(root: Path, name: str) -> None:
    np.savez(root / f"{name}.npz", **{stem: embedding(name, stem) for stem in stems(name)})


def write_each(root: Path, name: str) -> None:
    (root / name).mkdir()
    for stem in stems(name):
        np.save(root / name / f"{stem}.npy", embedding(name, stem).astype(np.float64))


def write_h5(root: Path, name: str) -> None:
    with h5py.File(root / f"{name}.h5", "w") as file:
        for stem in stems(name):
            file[stem] = embedding(name, stem)


@pytest.mark.parametrize("write", [write_npy, write_npz, write_each, write_h5])
def test_embeddings_stay_with_their_captions(birds: dict, tmp_path: Path, write):
    (tmp_path / "vectors").mkdir()
    for name in CLASSES:
        write(tmp_path / "vectors", name)
    spoiled = Path(birds["captions"], CLASSES[0], f"{stems(CLASSES[0])[0]}.txt")
    lines = spoiled.read_text().splitlines()
    lines[3] = "..."  # refused, and its row with it
    spoiled.write_text("\n".join(lines))
    _, entries = planned(**birds, cub={"embeddings": str(tmp_path / "vectors")})
    for name in CLASSES:
        for stem in stems(name):
            rows = [row for row in range(CAPTIONS) if (stem, row) != (stems(CLASSES[0])[0], 3)]
            entry = entries[f"{name}/{stem}.jpg"]
            assert len(entry.captions) == len(rows)
            found = entry.embeddings.read()
            assert found.dtype == np.float32
            assert np.array_equal(found, embedding(name, stem)[rows])


def test_embeddings_in_one_file(birds: dict, tmp_path: Path):
    with h5py.File(tmp_path / "all.h5", "w") as file:
        for name in CLASSES[:2]:
            for stem in stems(name):
                file[f"{name}/{stem}"] = embedding(name, stem)
    found, entries = planned(**birds, cub={"embeddings": str(tmp_path / "all.h5")})
    assert {entry.identity for entry in entries.values()} == set(CLASSES[:2])
    assert len(reasons(found, "images")) == PHOTOS
    assert set(reasons(found, "captions").values()) == {"the corpus brings no embedding of it"}


def test_another_number_of_rows_is_refused_image_by_image(birds: dict, tmp_path: Path):
    (tmp_path / "vectors").mkdir()
    for name in CLASSES:
        write_each(tmp_path / "vectors", name)
    stem = stems(CLASSES[1])[1]
    np.save(tmp_path / "vectors" / CLASSES[1] / f"{stem}.npy", np.zeros((9, SIZE)))
    found, entries = planned(**birds, cub={"embeddings": str(tmp_path / "vectors")})
    assert len(entries) == 8
    assert f"embeddings [9, {SIZE}] for 10 captions" in reasons(found, "captions")[f"{CLASSES[1]}/{stem}"]


def t7(root: Path) -> None:
    (root / f"{CLASSES[0]}.t7").write_bytes(b"\x04\0\0\0")


def t7_each(root: Path) -> None:
    (root / CLASSES[0]).mkdir()
    (root / CLASSES[0] / f"{stems(CLASSES[0])[0]}.t7").write_bytes(b"\x04\0\0\0")


def objects(root: Path) -> None:
    np.save(root / f"{CLASSES[0]}.npy", np.array([{"a": 1}] * 3, dtype=object), allow_pickle=True)


def objects_in_archive(root: Path) -> None:
    np.savez(root / f"{CLASSES[0]}.npz", **{stems(CLASSES[0])[0]: np.array([None])})


def transposed(root: Path) -> None:
    np.save(root / f"{CLASSES[0]}.npy", np.zeros((PHOTOS + 1, CAPTIONS, SIZE)))


def cut(root: Path) -> None:
    write_npy(root, CLASSES[0])
    whole = (root / f"{CLASSES[0]}.npy").read_bytes()
    (root / f"{CLASSES[0]}.npy").write_bytes(whole[: len(whole) // 2])


def cut_h5(root: Path) -> None:
    write_h5(root, CLASSES[0])
    whole = (root / f"{CLASSES[0]}.h5").read_bytes()
    (root / f"{CLASSES[0]}.h5").write_bytes(whole[: len(whole) // 2])


def two_sizes(root: Path) -> None:
    write_npy(root, CLASSES[0])
    np.save(root / f"{CLASSES[1]}.npy", np.zeros((PHOTOS, CAPTIONS, SIZE + 1)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (t7, "Lua Torch file, which is not read; load it with torchfile, transpose .* numpy.save as 001"),
        (t7_each, "Lua Torch file"),
        (objects, "not a NumPy array of numbers"),
        (objects_in_archive, "allow_pickle=False"),
        (transposed, r"is \[4, 10, 6\], expected \[3 images, captions, D\]"),
        (cut, "not a NumPy array of numbers"),
        (cut_h5, "not a whole HDF5 file"),
        (two_sizes, "embeddings of 7 values for 002.* elsewhere of 6"),
        (lambda root: None, "has no embeddings of these captions"),
    ],
)
def test_embeddings_that_are_refused(birds: dict, tmp_path: Path, spoil, message: str):
    (tmp_path / "vectors").mkdir()
    spoil(tmp_path / "vectors")
    with pytest.raises(ValueError, match=message) as error:
        planned(**birds, cub={"embeddings": str(tmp_path / "vectors")})
    assert "\n" not in str(error.value)


def test_a_lua_torch_file_in_place_of_a_folder(birds: dict, tmp_path: Path):
    (tmp_path / "all.t7").write_bytes(b"\x04\0\0\0")
    with pytest.raises(ValueError, match="Lua Torch file"):
        planned(**birds, cub={"embeddings": str(tmp_path / "all.t7")})


def test_values_that_are_not_finite_are_found_when_they_are_read(birds: dict, tmp_path: Path):
    (tmp_path / "vectors").mkdir()
    np.save(tmp_path / "vectors" / f"{CLASSES[0]}.npy", np.full((PHOTOS, CAPTIONS, SIZE), np.nan))
    _, entries = planned(**birds, cub={"embeddings": str(tmp_path / "vectors")})
    entry = next(iter(entries.values()))
    with pytest.raises(ValueError, match=r"001.*npy: values that are not finite"):
        entry.embeddings.read()


def test_shards_of_birds(birds: dict, tmp_path: Path):
    (tmp_path / "vectors").mkdir()
    for name in CLASSES:
        write_npy(tmp_path / "vectors", name)
    broken = f"{CLASSES[2]}/{stems(CLASSES[2])[0]}.jpg"
    Path(birds["faces"], broken).write_bytes(encoded(1)[:100])
    recipe = ShardRecipe(
        **birds,
        out=str(tmp_path / "out"),
        cub={"embeddings": str(tmp_path / "vectors")},
        image={"resolution": 16},
        split={"validation": 0, "test": 0},
        samples_per_shard=4,
    )
    totals = build(recipe, workers=2, progress=False).totals
    assert totals["images"].model_dump() == {"found": 9, "stored": 8, "rejected": 1, "unmatched": 0}
    assert totals["captions"].model_dump() == {"found": 90, "stored": 80, "rejected": 10, "unmatched": 0}
