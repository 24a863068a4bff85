"""A build that is killed, begun again, changed in between, or made in parts: the same bytes, or one line of refusal."""

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from t2f_dist.config.load import dump
from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.build import build, make
from t2f_dist.shard.manifest import Manifest
from t2f_dist.shard.manner import Manner
from tests.shard.crashes import every_crash
from tests.shard.raw import Corpus, draw
from tests.shard.test_build import files


@pytest.fixture
def small(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path / "corpus", people=6)


def finished(corpus: Corpus, out: Path, **changes) -> dict[str, bytes]:
    build(corpus.recipe(out, **changes), workers=1, progress=False)
    return files(out)


def command(recipe: ShardRecipe, folder: Path, *more: str) -> list[str]:
    (folder / "recipe.yaml").write_text(dump(recipe))
    return [sys.executable, "-m", "t2f_dist.cli", "shard", str(folder / "recipe.yaml"), *more]


def records(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob(".build/t*.json"))


def kill_group(line: list[str], out: Path, after: int, seconds: float = 60) -> None:
    """Run a command, and kill it with all its workers when so many records are there."""
    with subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        deadline = time.monotonic() + seconds
        while len(records(out)) < after and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_every_step_is_as_never_killed(small: Corpus, tmp_path: Path, step: int):
    """Before every rename, removal and sync that one process does, or every fifth, from the first to the last."""
    recipe = small.recipe(tmp_path / "out", samples_per_shard=4)
    whole = finished(small, tmp_path / "whole", samples_per_shard=4)
    steps = 0
    for steps in every_crash(lambda: build(recipe, workers=1, progress=False), step=step):
        build(recipe, workers=1, progress=False)
        assert files(tmp_path / "out") == whole, steps
        shutil.rmtree(tmp_path / "out")
    assert steps >= 60


def test_what_is_done_is_not_done_again(corpus: Corpus, tmp_path: Path):
    """Kills one after the other, of a group of processes, each further on."""
    recipe = corpus.recipe(tmp_path / "out", samples_per_shard=1)
    line = command(recipe, tmp_path, "--workers", "2")
    out = tmp_path / "out"
    for after in (3, 15):
        kill_group(line, out, after)
        assert len(records(out)) >= after
        assert not (out / "manifest.json").exists()
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.tar") if f"{path.stem}.json" in records(out)}
    report = make(recipe, Manner(progress=False))
    assert report.kept == len(times)
    assert report.written == 40 - len(times)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert files(out) == finished(corpus, tmp_path / "whole", samples_per_shard=1)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=60)
    whole = finished(corpus, tmp_path / "whole", samples_per_shard=2)
    line = command(corpus.recipe(tmp_path / "out", samples_per_shard=2), tmp_path, "--workers", "3")
    random = np.random.Generator(np.random.Philox(key=0))
    for _ in range(12):
        with subprocess.Popen(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            time.sleep(random.uniform(0.3, 3))
            os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert files(tmp_path / "out") == whole


def test_a_damaged_or_missing_file_of_a_done_shard_is_made_again(small: Corpus, tmp_path: Path):
    recipe = small.recipe(tmp_path / "out", samples_per_shard=2)
    make(recipe, Manner(part=(0, 2), progress=False))
    tars = sorted((tmp_path / "out").glob("*.tar"))
    tars[0].unlink()
    os.truncate(tars[1], 100)
    record = tmp_path / "out/.build" / f"{tars[2].stem}.json"
    record.write_text(record.read_text()[:50])
    report = make(recipe, Manner(progress=False))
    assert report.kept == len(tars) - 3
    assert files(tmp_path / "out") == finished(small, tmp_path / "whole", samples_per_shard=2)


def test_finished_is_finished(small: Corpus, tmp_path: Path):
    whole = finished(small, tmp_path / "out")
    (tmp_path / "out/.build").mkdir()
    (tmp_path / "out/.build/plan.json").write_text("{}")
    with pytest.raises(ValueError, match=r"plan\.json is damaged"):
        make(small.recipe(tmp_path / "out"), Manner(progress=False))
    shutil.rmtree(tmp_path / "out/.build")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    report = make(small.recipe(tmp_path / "out"), Manner(progress=False))
    assert report.note.startswith("nothing to do")
    assert report.written == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    for row in small.rows:  # times alone do not count any more
        os.utime(small.faces / row["image"], (1, 1))
    assert "nothing to do" in make(small.recipe(tmp_path / "out"), Manner(progress=False)).note
    assert files(tmp_path / "out") == whole


def change(corpus: Corpus, what: str) -> None:
    row = corpus.rows[2]
    if what == "image":
        draw(corpus.faces / row["image"], 999, size=(50, 50))
    elif what == "caption":
        row["captions"][0] += " now"
    elif what == "removed":
        (corpus.faces / row["image"]).unlink()
        corpus.rows.remove(row)
        corpus.voices = [pair for pair in corpus.voices if pair[0] != row["image"]]
    elif what == "added":
        draw(corpus.faces / "new/face.png", 1)
        corpus.rows.append({"image": "new/face.png", "captions": ["a new face"]})
    elif what == "voice":
        corpus.voices = corpus.voices[1:]
    corpus.write()


CHANGES = [
    ("image", r"1 changed \(such as 'p01/p01_0\.jpg'\)"),
    ("caption", r"1 changed \(such as 'p01/p01_0\.jpg'\)"),
    ("voice", r"1 changed \(such as 'p00/p00_0\.jpg'\)"),
    ("removed", r"1 removed \(such as 'p01/p01_0\.jpg'\)"),
    ("added", r"1 added \(such as 'new/face\.png'\)"),
]


@pytest.mark.parametrize(("what", "said"), CHANGES)
def test_a_changed_corpus_is_refused_by_name(small: Corpus, tmp_path: Path, what: str, said: str):
    recipe = small.recipe(tmp_path / "out", samples_per_shard=2)
    begun = small.recipe(tmp_path / "begun", samples_per_shard=2)
    build(recipe, workers=1, progress=False)
    make(begun, Manner(part=(0, 2), progress=False))
    before = files(tmp_path / "out"), files(tmp_path / "begun")
    change(small, what)
    with pytest.raises(FileExistsError, match=f"finished shards of another corpus: {said}; --overwrite") as error:
        build(recipe, workers=1, progress=False)
    assert ("--extend" in str(error.value)) == (what == "added")
    assert "\n" not in str(error.value)
    with pytest.raises(FileExistsError, match=f"an unfinished build of another corpus: {said}; .*--overwrite"):
        build(begun, workers=1, progress=False)
    assert (files(tmp_path / "out"), files(tmp_path / "begun")) == before
    fresh = finished(small, tmp_path / "fresh", samples_per_shard=2)
    for changed in (recipe, begun):
        build(changed, workers=1, overwrite=True, progress=False)
        assert files(Path(changed.out)) == fresh


def test_a_file_that_is_written_anew_counts_while_the_build_is_unfinished(small: Corpus, tmp_path: Path):
    recipe = small.recipe(tmp_path / "out", samples_per_shard=2)
    make(recipe, Manner(part=(0, 2), progress=False))
    path = small.faces / small.rows[2]["image"]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(FileExistsError, match=r"another corpus: 1 changed"):
        build(recipe, workers=1, progress=False)


@pytest.mark.parametrize("unfinished", [True, False])
def test_another_recipe_is_refused_by_its_keys(small: Corpus, tmp_path: Path, unfinished: bool):
    manner = Manner(progress=False, part=(0, 2) if unfinished else None)
    make(small.recipe(tmp_path / "out", samples_per_shard=4), manner)
    image = {"resolution": 32, "quality": 90}
    with pytest.raises(FileExistsError) as error:
        build(small.recipe(tmp_path / "out", samples_per_shard=4, image=image), workers=1, progress=False)
    assert "another recipe: image.resolution 16 -> 32, image.quality 95 -> 90; " in str(error.value)
    assert "--overwrite" in str(error.value)


@pytest.mark.parametrize(
    ("overwrite", "step"), [(True, 29), (False, 29), pytest.param(False, 3, marks=pytest.mark.slow)]
)
def test_an_interrupted_overwrite_goes_on(small: Corpus, tmp_path: Path, overwrite: bool, step: int):
    out = tmp_path / "out"
    recipe = small.recipe(out, samples_per_shard=3)
    whole = finished(small, tmp_path / "whole", samples_per_shard=3)
    finished(small, out)
    for number in every_crash(lambda: build(recipe, workers=1, overwrite=True, progress=False), step=step):
        if (out / "manifest.json").exists():  # nothing is removed yet, or all is done
            assert recipe_is_old(out) == (number < 8), "the plan is written before the manifest goes"
        build(recipe, workers=1, overwrite=overwrite or recipe_is_old(out), progress=False)
        assert files(out) == whole
        shutil.rmtree(out)
        finished(small, out)


def recipe_is_old(out: Path) -> bool:
    return (out / "manifest.json").exists() and Manifest.load(out).recipe["samples_per_shard"] == 8


def test_what_killed_processes_leave_is_removed(small: Corpus, tmp_path: Path):
    recipe = small.recipe(tmp_path / "out", samples_per_shard=2)
    make(recipe, Manner(part=(0, 2), progress=False))
    (tmp_path / "out/.train-000001.tar.77-ab12cd34.tmp").write_bytes(b"half")
    (tmp_path / "out/.build/.train-000001.json.77-ab12cd34.tmp").write_bytes(b"half")
    build(recipe, workers=1, progress=False)
    assert files(tmp_path / "out") == finished(small, tmp_path / "whole", samples_per_shard=2)


def test_the_same_corpus_elsewhere_makes_the_same_files(small: Corpus, tmp_path: Path):
    """But for the paths in the recipe, which the manifest keeps: no time and no place is in them."""
    shutil.copytree(small.root, tmp_path / "moved")
    moved = Corpus.__new__(Corpus)
    moved.root, moved.faces = tmp_path / "moved", tmp_path / "moved/faces"
    one, other = finished(small, tmp_path / "one"), finished(moved, tmp_path / "other")
    manifests = Manifest.load(tmp_path / "one"), Manifest.load(tmp_path / "other")
    assert manifests[0].corpus_sha256 == manifests[1].corpus_sha256
    assert manifests[0].model_copy(update={"recipe": {}}) == manifests[1].model_copy(update={"recipe": {}})
    assert one.pop("manifest.json") != other.pop("manifest.json")
    assert one == other


def test_an_interrupt_ends_the_workers_and_keeps_what_is_done(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=240)
    recipe = corpus.recipe(tmp_path / "out", samples_per_shard=1)
    line = command(recipe, tmp_path, "--workers", "2")
    heard = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdout=pipe, stderr=pipe, start_new_session=True, preexec_fn=heard) as process:
        deadline = time.monotonic() + 60
        while len(records(tmp_path / "out")) < 3 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=30)  # which the workers hold open too, as long as they live
    assert process.returncode
    assert b"Traceback" not in error
    assert 3 <= len(records(tmp_path / "out")) < 480
