"""Shards that are written to a URL: the same files as in a local folder, and the same care."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from t2f_dist.shard.build import build, make
from t2f_dist.shard.manifest import Manifest
from t2f_dist.shard.manner import Manner
from t2f_dist.storage.folder import Folder
from tests.shard.raw import Corpus
from tests.shard.test_build import files
from tests.shard.test_extend import grow
from tests.shard.test_restart import command, finished


def held(place: str) -> dict[str, bytes]:
    folder = Folder(place)
    return {entry.name: folder.read(entry.name) for entry in folder.list()}


def test_a_folder_by_its_url(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=8)
    recipe = corpus.recipe(tmp_path / "out").model_copy(update={"out": (tmp_path / "out").as_uri()})
    build(recipe, workers=1, progress=False)
    assert files(tmp_path / "out") == finished(corpus, tmp_path / "whole")


def test_a_bucket(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Interrupted by the end of a part, finished by two workers, left alone, refused, extended, made anew."""
    (tmp_path / "stage").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "stage"))
    corpus = Corpus(tmp_path / "corpus", people=8)
    out = f"{bucket}/shards/faces"
    fields = {"samples_per_shard": 2}
    recipe = corpus.recipe(tmp_path / "out", **fields).model_copy(update={"out": out})
    assert make(recipe, Manner(part=(0, 2), progress=False)).open
    assert any(name.startswith(".build/train") for name in held(out))
    report = make(recipe, Manner(workers=2, progress=False))
    assert report.kept
    assert report.written
    assert held(out) == finished(corpus, tmp_path / "whole", **fields)
    assert not [path for path in (tmp_path / "stage").rglob("*") if path.is_file()]
    assert "nothing to do" in make(recipe, Manner(progress=False)).note
    grow(corpus, people=3)
    with pytest.raises(
        FileExistsError, match=r"s3://\S+/shards/faces holds finished shards of another corpus: 7 added"
    ):
        make(recipe, Manner(progress=False))
    extend = Manner(extend=True, progress=False)
    make(recipe, extend)
    make(corpus.recipe(tmp_path / "whole", **fields), extend)
    assert held(out) == files(tmp_path / "whole")
    build(recipe, workers=1, overwrite=True, progress=False)
    assert held(out) == finished(corpus, tmp_path / "fresh", **fields)
    assert Manifest.load(out) == Manifest.load(tmp_path / "fresh")


def test_files_of_others_in_a_bucket_stay(bucket: str, tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=4)
    Folder(bucket).write("thesis.tex", b"years")
    recipe = corpus.recipe(tmp_path / "out").model_copy(update={"out": bucket})
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r"thesis\.tex"):
            build(recipe, workers=1, overwrite=overwrite, progress=False)


@pytest.mark.slow
def test_killed_while_it_writes_to_a_bucket(bucket: str, tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus")
    recipe = corpus.recipe(tmp_path / "out", samples_per_shard=1).model_copy(update={"out": f"{bucket}/x"})
    line = command(recipe, tmp_path, "--workers", "2")
    for after in (2, 10, 25):
        with subprocess.Popen(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                if sum(entry.name.startswith("t") for entry in Folder(f"{bucket}/x/.build").list()) >= after:
                    break
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert held(f"{bucket}/x") == finished(corpus, tmp_path / "whole", samples_per_shard=1)
