"""`t2f-dist checkpoints`: what it lists, of a folder and of a bucket, whole and damaged."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from t2f_dist import cli
from t2f_dist.training.checkpoints.archive import Archive
from t2f_dist.training.checkpoints.last_save import LastSave
from t2f_dist.training.run import status
from tests.training.test_archive import FILES, body, content

STAGES = [
    {"resolution": 4, "stable_images": 100, "fade_images": 0, "batch_size": 4},
    {"resolution": 8, "stable_images": 100, "fade_images": 50, "batch_size": 4},
]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["checkpoints", *arguments])


def rows(*arguments: str) -> list[dict]:
    done = run("--json", *arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["checkpoints"]


def filled(place: str | Path, *moments: int) -> Archive:
    times = iter(range(1_700_000_000, 1_800_000_000, 3600))
    archive = Archive(place, clock=lambda: next(times))
    for images in moments:
        archive.write(images, content(images), body(images) | {"config": {"stages": STAGES}}, pytest.fail)
    return archive


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    filled(tmp_path / "checkpoints", 40, 100, 120, 250)
    return tmp_path


def test_each_with_its_moment_and_stage(folder: Path):
    newest, fading, grown, first = rows(str(folder))
    assert [row["images"] for row in (newest, fading, grown, first)] == [250, 120, 100, 40]
    assert (newest["stage"], newest["resolution"], newest["alpha"]) == ("2/2", 8, 1.0)
    assert (fading["stage"], fading["resolution"], fading["alpha"]) == ("2/2", 8, 0.4)
    assert (grown["stage"], grown["alpha"], first["stage"], first["resolution"]) == ("2/2", 0.0, "1/2", 4)
    assert newest["saved"] == "2023-11-15T01:13:20Z"
    assert [row["resumes"] for row in (newest, fading, grown, first)] == [True, False, False, False]
    sizes = {path.parent.name: 0 for path in folder.rglob("state.json")}
    for path in folder.glob("checkpoints/*/*"):
        sizes[path.parent.name] += path.stat().st_size
    assert {row["name"]: row["bytes"] for row in (newest, fading, grown, first)} == sizes
    text = run(str(folder)).stdout.splitlines()
    assert len(text) == 5
    assert text[1].startswith(">") and "250" in text[1] and text[1].endswith("valid")
    assert "2/2, 8 px, fading in 40%" in text[2]


def test_what_is_wrong_with_each(folder: Path):
    def path(images: int, file: str) -> Path:
        return folder / "checkpoints" / f"images-{images:012d}" / file

    flipped = bytearray(path(250, FILES[0]).read_bytes())
    flipped[7] ^= 1
    path(250, FILES[0]).write_bytes(flipped)
    path(120, FILES[1]).write_bytes(path(120, FILES[1]).read_bytes()[:-1])
    path(100, "damaged.json").write_text("{}")
    path(300, "").mkdir()
    assert [(row["images"], row["state"], row["resumes"]) for row in rows(str(folder))] == [
        (300, "unfinished", False),
        (250, "damaged", False),
        (120, "damaged", False),
        (100, "marked", False),
        (40, "valid", True),
    ]
    problems = {row["images"]: row["problem"] for row in rows(str(folder))}
    assert problems[250] == "networks.safetensors does not match its checksum"
    found = Archive(folder / "checkpoints").newest_valid(lambda _: None)
    assert found is not None
    assert found.name == "images-000000000040", "as the command says"


def test_without_reading_only_sizes_are_compared(folder: Path):
    whole = folder / "checkpoints" / f"images-{250:012d}" / FILES[0]
    whole.write_bytes(bytes(len(whole.read_bytes())))
    short = folder / "checkpoints" / f"images-{120:012d}" / FILES[0]
    short.write_bytes(b"short")
    assert [row["state"] for row in rows(str(folder), "--no-verify")] == ["valid", "damaged", "valid", "valid"]
    assert [row["state"] for row in rows(str(folder))] == ["damaged", "damaged", "valid", "valid"]


def test_the_folder_that_the_configuration_of_a_run_names(folder: Path, tmp_path: Path, bucket: str):
    for place in (str(tmp_path / "far away"), f"{bucket}/run 1"):
        filled(place, 8)
        run_folder = tmp_path / "run"
        run_folder.mkdir(exist_ok=True)
        (run_folder / "config.yaml").write_text(f"seed: 1\ncheckpoint:\n  folder: {place}\n")
        for given in (place, str(run_folder)):
            (row,) = rows(given)
            assert (row["images"], row["state"], row["resumes"]) == (8, "valid", True)
    assert len(rows(str(folder / "checkpoints"))) == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere", "no such folder; give the folder of a run, or where its checkpoints are"),
        ("s3://no-such-bucket-t2f/run", "no such file: s3://no-such-bucket-t2f"),
        ("http://127.0.0.1:9/run", "cannot be listed"),
        ("ftp://host/run", "the scheme 'ftp' is not allowed"),
    ],
)
def test_what_cannot_be_listed_is_one_line(bucket: str, given: str, said: str):
    done = run(given)
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_none_yet_and_none_whole(folder: Path, tmp_path: Path):
    (tmp_path / "new").mkdir()
    done = run(str(tmp_path / "new"))
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'new'}: no checkpoint yet\n")
    assert rows(str(tmp_path / "new")) == []
    for path in folder.glob("checkpoints/*"):
        (path / FILES[0]).unlink()
    done = run(str(folder))
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == f"error: {folder / 'checkpoints'}: none of 4 checkpoints is whole"
    for path in folder.glob("checkpoints/*"):
        shutil.rmtree(path)
        path.mkdir()
    assert [row["state"] for row in rows(str(folder))] == ["unfinished"] * 4


def test_none_where_some_were_saved_and_a_folder_that_is_no_run(tmp_path: Path):
    """Neither is a run that has just begun."""
    inner = tmp_path / "runs" / "one"
    inner.mkdir(parents=True)
    status.write(inner, "running", "training")
    assert run(str(inner)).stdout == f"{inner}: no checkpoint yet\n"
    done = run(str(inner.parent))
    assert (done.exit_code, done.stderr) == (1, f"error: {inner.parent} is no run: did you mean {inner}?\n")
    for place, where in ((str(inner), "there"), ("/disk/one", "in /disk/one")):
        LastSave(1234, place).write(inner)
        done = run(str(inner))
        assert done.exit_code == 1
        assert f"holds no checkpoint, and the run had saved 1,234 images {where}" in done.stderr


def test_letters_of_others_move_no_cursor(folder: Path):
    state = {"config": {"stages": [{"resolution": "\x1b[2J", "stable_images": 9, "fade_images": 0}]}}
    Archive(folder / "checkpoints").write(900, content(900), body(900) | state, pytest.fail)
    assert "\x1b" not in run(str(folder)).stdout
