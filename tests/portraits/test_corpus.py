import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from t2f_dist.portraits.attributes import portrait
from t2f_dist.portraits.captions import named
from t2f_dist.portraits.corpus import write_corpus
from t2f_dist.portraits.draw import draw


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("drawn") / "corpus"
    assert write_corpus(out, 120, 32, seed=5, workers=1, progress=False)
    return out


def test_the_number_of_workers_changes_no_byte(corpus, tmp_path):
    write_corpus(tmp_path / "two", 120, 32, seed=5, workers=2, progress=False)
    assert contents(tmp_path / "two") == contents(corpus)
    assert [path.name for path in tmp_path.iterdir()] == ["two"]  # nothing temporary is left


def test_a_larger_corpus_begins_with_the_smaller(corpus, tmp_path):
    write_corpus(tmp_path / "small", 30, 32, seed=5, progress=False)
    small, large = contents(tmp_path / "small"), contents(corpus)
    for name in small.keys() - {"corpus.json", "README.txt"}:
        assert large[name].startswith(small[name])


def test_the_tables_say_what_is_there(corpus):
    lines = [json.loads(line) for line in (corpus / "captions.jsonl").read_text().splitlines()]
    truth = [json.loads(line) for line in (corpus / "attributes.jsonl").read_text().splitlines()]
    with open(corpus / "speech.csv") as file:
        voices = list(csv.DictReader(file))
    assert len(lines) == len(truth) == len(voices) == 120
    for index, (line, values, voice) in enumerate(zip(lines, truth, voices, strict=True)):
        person = portrait(5, index)
        assert line["image"] == values.pop("image") == voice["image"] == f"faces/000/{index:06d}.png"
        assert line["identity"] == person.identity
        assert len(line["captions"]) == 5
        assert all(named(caption).items() <= values.items() for caption in line["captions"])
        assert (np.asarray(Image.open(corpus / line["image"])) == draw(person, 32)).all()
        info = soundfile.info(corpus / voice["audio"])
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")


def test_a_finished_corpus_is_recognised_and_another_refused(corpus):
    before = contents(corpus)
    stamps = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    assert not write_corpus(corpus, 120, 32, seed=5, workers=2, progress=False)
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == stamps
    for other in ({"num": 121}, {"resolution": 16}, {"seed": 6}, {"voices": False}):
        with pytest.raises(ValueError, match=r"holds another corpus \(num 120, resolution 32, seed 5, voices True\)"):
            write_corpus(corpus, **{"num": 120, "resolution": 32, "seed": 5, "progress": False, **other})
    assert contents(corpus) == before


def test_overwriting_replaces_a_corpus_and_nothing_else(tmp_path):
    out = tmp_path / "corpus"
    write_corpus(out, 20, 16, progress=False)
    assert write_corpus(out, 10, 16, voices=False, overwrite=True, progress=False)
    assert len(list(out.rglob("*.png"))) == 10
    assert not (out / "speech.csv").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "photo.jpg").write_bytes(b"precious")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="choose another folder"):
            write_corpus(mine, 10, 16, overwrite=overwrite, progress=False)
    assert contents(mine) == {"photo.jpg": b"precious"}


def test_an_interrupted_corpus_leaves_nothing_and_keeps_the_old(tmp_path):
    out = tmp_path / "corpus"
    write_corpus(out, 10, 16, progress=False)
    before = contents(out)
    call = f"write_corpus({str(out)!r}, 100000, 32, workers=2, overwrite=True, progress=False)"
    # Started from a shell's background, a process is born deaf to SIGINT.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heard}\nfrom t2f_dist.portraits.corpus import write_corpus\n{call}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob(".corpus.unfinished-*/new/faces/000/000010.png")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=30)
    finally:
        with suppress(ProcessLookupError):  # the usual case: it has ended, and its workers with it
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in complaint
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


@pytest.mark.parametrize("bad", [{"num": 0}, {"resolution": 4}, {"seed": -1}, {"workers": 0}, {"sample_rate_hz": 10}])
def test_numbers_out_of_range_are_named_and_nothing_is_written(tmp_path, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        write_corpus(tmp_path / "corpus", **{"num": 10, "resolution": 16, **bad})
    assert not list(tmp_path.iterdir())
