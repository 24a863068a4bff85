"""WebDatasets of img2dataset: bytes by their place in a tar, and tars that mean harm."""

import tarfile
from pathlib import Path

import pytest

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.build import build
from tests.shard.img2dataset import facts, link, sample, write
from tests.shard.raw import encoded, planned, reasons


def read(place: Path | str, **changes):
    return planned(layout="webdataset", faces=str(place), **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tars and what img2dataset writes beside them."""
    root = tmp_path / "cc3m"
    write(root / "00000.tar", sample("000000000") + sample("000000001", "png"))
    write(root / "00001.tar", sample("000010000", "webp") + sample("000010003"))
    (root / "00000_stats.json").write_text("{}")
    (root / "00000.parquet").write_bytes(b"PAR1")
    return root


def test_bytes_are_those_of_the_members(folder: Path):
    _, entries = read(folder)
    assert {path: entry.image.read() for path, entry in entries.items()} == {
        "00000/000000000.jpg": encoded(0, "JPEG"),
        "00000/000000001.png": encoded(1),
        "00001/000010000.webp": encoded(10000, "WEBP"),
        "00001/000010003.jpg": encoded(10003, "JPEG"),
    }
    assert {entry.captions for entry in entries.values()} == {
        (f"a face {path[6:15]}",) for path, entry in entries.items()
    }
    assert {path: entry.identity for path, entry in entries.items()} == {
        path: f"cc3m/{path.partition('.')[0]}" for path in entries
    }


@pytest.mark.parametrize("pattern", ["cc3m/*.tar", "cc3m/0000?.tar", "**/*.tar", "cc3m/0000[01].tar"])
def test_a_pattern(folder: Path, pattern: str):
    _, entries = read(folder.parent / pattern)
    assert {path[-len("00000/000000000.jpg") :] for path in entries} >= {"00000/000000000.jpg", "00001/000010003.jpg"}
    _, entries = read(folder / "00001.tar")
    assert sorted(entries) == ["00001/000010000.webp", "00001/000010003.jpg"]


def test_nothing_at_a_pattern(folder: Path):
    for place in (folder / "*.zip", folder / "nowhere", folder.parent / "empty.tar"):
        with pytest.raises(FileNotFoundError, match=r"no \.tar at"):
            read(place)


def test_a_field_of_the_json_is_the_identity(folder: Path):
    write(folder / "00002.tar", sample("000020000", album=None) + sample("000020002", album=" "))
    found, entries = read(folder, webdataset={"identity_field": "album"})
    assert {path: entry.identity for path, entry in entries.items()} == {
        "00000/000000000.jpg": "0",
        "00000/000000001.png": "0",
        "00001/000010000.webp": "5000",
        "00001/000010003.jpg": "5001",
    }
    assert reasons(found, "images") == {
        f"00002/{key}.jpg": "its json has no text or number 'album'" for key in ("000020000", "000020002")
    }


def test_every_fault_is_counted(tmp_path: Path):
    ok = sample("000000000")
    members = [
        *ok,
        *ok,  # every member twice
        *sample("000000001", status="failed_to_resize", error_message="image decoding error"),
        ("000000002.json", facts("000000002", status="failed_to_download", error_message="HTTP Error 404")),
        ("000000003.jpg", encoded(3)),  # alone: the caption is that of the json, and there is none
        ("000000004.txt", b"a caption of nothing"),
        ("000000005.jpg", encoded(5)),
        ("000000005.txt", b"\xff\xfe"),
        ("000000006.jpg", encoded(6)),
        ("000000006.json", b"[" * 100_000),
        ("000000007.jpg", encoded(7)),
        ("000000007.json", b"[1]"),
        ("000000008.jpg", encoded(8)),
        ("000000008.json", facts("000000008")),  # its caption
        ("000000009.jpg", encoded(9)),
        ("000000009.txt", b"x" * ((1 << 20) + 1)),
        ("000000010.json", facts("000000010")),
        ("._000000000.jpg", b"of another system"),
        ("000000000.cls", b"7"),
    ]
    write(tmp_path / "00000.tar", members)
    found, entries = read(tmp_path)
    assert {path: entry.captions for path, entry in entries.items()} == {
        "00000/000000000.jpg": ("a face 000000000",),
        "00000/000000008.jpg": ("caption of 000000008",),
    }
    images, captions = reasons(found, "images"), reasons(found, "captions")
    assert images["00000/000000000.jpg"] == "its key stands twice in the tar"
    assert captions["00000/000000000.txt"] == "its key stands twice in the tar"
    assert images["00000/000000001.jpg"] == "its status is failed_to_resize: image decoding error"
    assert captions["00000/000000001.jpg"] == "its image is rejected"
    assert images["00000/000000002"] == "its status is failed_to_download: HTTP Error 404"
    assert images["00000/000000003.jpg"] == "no caption or voice names it"
    assert captions["00000/000000004"] == "names no image"
    assert captions["00000/000000005.jpg"] == "not text"
    assert "its json is not readable" in images["00000/000000006.jpg"]
    assert images["00000/000000007.jpg"] == "its json is not an object"
    assert "has 1048577 bytes" in images["00000/000000009.jpg"]
    assert images["00000/000000010"] == "no image in its sample"
    assert found.found["images"] == 11


@pytest.mark.parametrize(
    ("name", "member", "reason"),
    [
        ("1.jpg", link("1.jpg", "/etc/passwd"), "1.jpg is a link"),
        ("1.jpg", link("1.jpg", "000000000.jpg", tarfile.LNKTYPE), "1.jpg is a link"),
        ("1.jpg", link("1.jpg", "", tarfile.FIFOTYPE), "1.jpg is a fifo"),
        ("1.jpg", link("1.jpg", "", tarfile.CHRTYPE), "1.jpg is a device"),
        ("../1.jpg", None, "../1.jpg leads out of the folder"),
        ("/1.jpg", None, "/1.jpg leads out of the folder"),
        ("a/../../1.jpg", None, "a/../../1.jpg leads out of the folder"),
        ("a\\1.jpg", None, "leads out of the folder"),
    ],
)
def test_members_that_mean_harm(tmp_path: Path, name: str, member, reason: str):
    write(tmp_path / "00000.tar", sample("000000000") + [member or (name, encoded(1))])
    found, entries = read(tmp_path)
    assert set(entries) == {"00000/000000000.jpg"}
    assert [refusal.reason for refusal in found.refusals if reason in refusal.reason]


def test_a_caption_that_is_a_link_spoils_its_sample(tmp_path: Path):
    bad = [("000000001.jpg", encoded(1)), link("000000001.txt", "/etc/passwd"), ("000000001.json", facts("000000001"))]
    write(tmp_path / "00000.tar", sample("000000000") + bad)
    found, _ = read(tmp_path)
    assert reasons(found, "images") == {"00000/000000001.jpg": "000000001.txt is a link"}


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_a_tar_that_is_cut_off(tmp_path: Path, share: float):
    path = write(tmp_path / "00000.tar", [member for number in range(9) for member in sample(f"00000000{number}")])
    whole = path.read_bytes().rstrip(b"\0")
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"00000\.tar: damaged at byte \d+: ") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_a_tar_that_is_cut_off_between_two_members(tmp_path: Path):
    path = write(tmp_path / "00000.tar", sample("000000000") + sample("000000001"))
    with tarfile.open(path) as tar:
        cut = tar.getmembers()[3].offset
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=f"damaged at byte {cut}: cut off"):
        read(tmp_path)


def test_damage_in_the_middle(tmp_path: Path):
    path = write(tmp_path / "00000.tar", sample("000000000") + sample("000000001"))
    with tarfile.open(path) as tar:
        start = tar.getmembers()[3].offset
    content = bytearray(path.read_bytes())
    content[start : start + 512] = b"x" * 512
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"00000\.tar: damaged at byte \d+: "):
        read(tmp_path)


def test_other_files_named_tar(tmp_path: Path):
    write(tmp_path / "00000.tar", sample("000000000"), "w:gz")
    with pytest.raises(ValueError, match=r"compressed \(gzip\); unpack it first"):
        read(tmp_path)
    (tmp_path / "00000.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"00000\.tar"):
        read(tmp_path)
    write(tmp_path / "00000.tar", [("readme.md", b"x")])
    with pytest.raises(ValueError, match="no image in the tars"):
        read(tmp_path)


def test_shards_of_tars(folder: Path, tmp_path: Path):
    bad = sample("000010001")
    bad[0] = (bad[0][0], bad[0][1][:200])
    write(folder / "00002.tar", bad)
    recipe = ShardRecipe(
        layout="webdataset",
        faces=str(folder),
        out=str(tmp_path / "out"),
        image={"resolution": 16},
        split={"validation": 0, "test": 0},
        samples_per_shard=2,
    )
    totals = build(recipe, workers=2, progress=False).totals
    assert totals["images"].model_dump() == {"found": 5, "stored": 4, "rejected": 1, "unmatched": 0}
    assert totals["captions"].model_dump() == {"found": 5, "stored": 4, "rejected": 1, "unmatched": 0}


def test_a_tar_that_became_shorter_after_the_plan(folder: Path):
    _, entries = read(folder)
    (folder / "00001.tar").write_bytes((folder / "00001.tar").read_bytes()[:600])
    with pytest.raises(ValueError, match="bytes in the tar where its header says"):
        entries["00001/000010003.jpg"].image.read()
