"""Where a run is written down: a console line, metrics.jsonl, and a real wandb run kept offline."""

import json
import os
import resource
import signal
import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from wandb.proto import wandb_internal_pb2

from t2f_dist.training.growth import Phase
from t2f_dist.training.run import status, tracker
from t2f_dist.training.run.log import Log
from t2f_dist.training.run.meter import Report, Spread
from tests.training.small import config

FADING = Phase(1, 7, 8, 0.25, 8, 1.0)
STABLE = Phase(0, 4, 4, 1.0, 8, 1.0)


def report(loss: float) -> Report:
    spread = Spread(0.1, 0.2, 0.3)
    means = {"discriminator/real": loss, "discriminator/fake": 1.0, "generator/adversarial": 0.5}
    return Report(means, 123.0, 0.05, 0, spread, spread, spread, spread, slowest_rank=1)


def settings(run: Path, mode: str = "disabled"):
    return config("house", Path("nowhere"), run, f"wandb.mode={mode}", "wandb.tags=[small]")


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_line_on_the_console_and_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log = Log(tmp_path, settings(tmp_path), 0)
    log.write(40, STABLE, report(0.25), {})
    log.write(72, FADING, report(0.5), {"reals/training": 0.75, "reals/held_out": -0.25})
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:4] == ["40/128", "images", "4", "px"]
    assert "fading in  25%" in second
    assert "fading" not in first
    for part in ("D  1.500", "G  0.500", "123 img/s", "data wait 5.0%", "eta 0:00:0", "slowest rank 1"):
        assert part in second
    stable, fading = lines(tmp_path)
    assert stable["images"] == 40
    assert (fading["schedule/resolution"], fading["schedule/alpha"], fading["schedule/batch_size"]) == (8, 0.25, 8)
    assert fading.items() >= report(0.5).flat().items()
    assert (fading["reals/training"], fading["reals/held_out"]) == (0.75, -0.25)
    assert not any(name.startswith("reals/") for name in stable)
    assert not (tmp_path / "wandb").exists(), "disabled is disabled"


def test_without_a_turn_of_the_generator_its_loss_is_a_dash(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log = Log(tmp_path, settings(tmp_path), 0)
    log.write(40, STABLE, replace(report(0.25), means={"discriminator/real": 0.25}), {})
    log.write(72, STABLE, report(0.5), {})
    first, second = capsys.readouterr().out.splitlines()
    assert "D  0.250  G   -  " in first
    assert first.index("img/s") == second.index("img/s")


def test_a_resumed_run_forgets_what_it_will_write_again(tmp_path: Path):
    log = Log(tmp_path, settings(tmp_path), 0)
    for images in (40, 80, 120):
        log.write(images, STABLE, report(images), {})
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"images": 128, "discrim')  # a kill in the middle of a line
    log = Log(tmp_path, settings(tmp_path), 80)
    assert [line["images"] for line in lines(tmp_path)] == [40, 80]
    log.write(120, STABLE, report(120), {})
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_grids_are_kept_by_images(tmp_path: Path):
    log = Log(tmp_path, settings(tmp_path), 0)
    picture = Image.new("RGB", (8, 8), (1, 2, 3))
    log.picture(80, picture, ["a man"])
    log.picture(96, None, [])
    (path,) = (tmp_path / "grids").iterdir()
    assert path.name == "images-000000000080.png"
    with Image.open(path) as kept:
        assert kept.tobytes() == picture.tobytes()


def records(folder: Path) -> list[wandb_internal_pb2.Record]:
    """All that wandb wrote down of one part of a run: LevelDB's log format, after a header of 7 bytes.

    Blocks of 32 KiB hold chunks (checksum, length, kind: 1 whole, 2 first, 3 middle, 4 last); fewer than 7 bytes at
    the end of a block are padding.
    """
    (path,) = folder.glob("run-*.wandb")
    content, place, found, parts = path.read_bytes(), 7, [], b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return found


def complete(folder: Path) -> list[wandb_internal_pb2.Record]:
    """The records once the last is there: wandb's own process writes them, and may be a moment behind."""
    deadline = time.monotonic() + 30
    while not (found := records(folder)) or not found[-1].HasField("exit"):
        assert time.monotonic() < deadline, "wandb did not finish"
        time.sleep(0.02)
    return found


def history(record: wandb_internal_pb2.Record) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


def test_offline_parts_of_a_run_share_one_id_and_hold_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ids, seen_before = [], set()
    for start, images in ((0, (40, 80)), (40, (80, 120))):  # the second part goes on from the checkpoint at 40
        log = Log(tmp_path, settings(tmp_path, "offline"), start)
        ids.append(status.read(tmp_path)["wandb_id"])
        for seen in images:
            log.write(seen, STABLE, report(seen), {})
        log.picture(images[-1], Image.new("RGB", (8, 8)), ["a man", "a woman"])
        log.close(exit_code=0)
        said = capsys.readouterr().out.splitlines()[-1]
        pattern = Path(said.removeprefix("wandb: kept offline; to upload: wandb sync "))
        named = set(pattern.parent.glob(pattern.name))
        assert seen_before <= named, "the command uploads every part"
        (folder,) = named - seen_before
        seen_before = named
        assert folder.is_dir(), said
        assert folder.parent == tmp_path / "wandb"
        assert folder.name.startswith("offline-run-")
        found = complete(folder)
        (run,) = [record.run for record in found if record.HasField("run")][:1]
        assert run.run_id == ids[-1]
        assert run.display_name == tmp_path.name
        assert list(run.tags) == ["small"]
        rows = [history(record) for record in found if record.HasField("history")]
        figures = [row for row in rows if "schedule/alpha" in row]
        assert [row["images"] for row in figures] == list(images), "replayed images are not dropped as past steps"
        assert [row["discriminator/real"] for row in figures] == list(images)
        (grid,) = [row for row in rows if any(key.startswith("grid") for key in row)]
        assert grid["images"] == images[-1]
        axes = {
            record.metric.name or record.metric.glob_name: record.metric
            for record in found
            if record.HasField("metric")
        }
        assert axes["*"].step_metric == "images"
        assert list((folder / "files/media/images").glob("grid*.png"))
    assert ids[0] == ids[1]
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


def test_without_a_key_it_is_offline_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # nobody's .netrc
    monkeypatch.setenv("NETRC", str(tmp_path / "home/.netrc"))
    log = Log(tmp_path, settings(tmp_path, "auto"), 0)
    log.close(exit_code=0)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("wandb: no key found (wandb login, or WANDB_API_KEY, changes it); so this run is logged")
    assert f"wandb sync {tmp_path}/wandb/offline-run-" in second


def test_a_rollback_forgets_what_came_after(tmp_path: Path):
    log = Log(tmp_path, settings(tmp_path), 0)
    for images in (40, 80, 120):
        log.write(images, STABLE, report(images), {})
    log.back_to(80)
    assert [line["images"] for line in lines(tmp_path)] == [40, 80]
    log.write(96, STABLE, report(1), {})
    assert [line["images"] for line in lines(tmp_path)] == [40, 80, 96]


def test_a_line_on_the_console_holds_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    Log(tmp_path, settings(tmp_path), 0).say("warning:  shards at https://u:CANARY@h/x?CANARY")
    assert capsys.readouterr().out == "warning:  shards at https://redacted@h/x?redacted\n"


def test_an_alert_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log = Log(tmp_path, settings(tmp_path), 0)
    log.alert("mode collapse", "faces\nare alike", "ERROR")
    assert capsys.readouterr().out == "error: mode collapse: faces are alike\n"


def test_figures_wait_for_a_folder_that_is_away_and_none_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    run.mkdir()
    log = Log(run, settings(run), 0)
    log.write(40, STABLE, report(1), {})
    run.rename(tmp_path / "away")
    for images in (80, 96):
        log.write(images, STABLE, report(images), {})
        log.picture(images, Image.new("RGB", (8, 8)), ["a man"])
    said = capsys.readouterr()
    assert [line.split(" (")[0] for line in said.err.splitlines()] == [
        "warning: metrics.jsonl cannot be written",
        "warning: grids cannot be written",
    ], "once, not with each"
    (tmp_path / "away").rename(run)
    log.write(120, STABLE, report(1), {})
    log.picture(120, Image.new("RGB", (8, 8)), ["a man"])
    assert [line["images"] for line in lines(run)] == [40, 80, 96, 120]
    assert [path.name for path in (run / "grids").iterdir()] == ["images-000000000120.png"]
    out = capsys.readouterr().out
    assert "metrics.jsonl can be written again" in out and "grids can be written again" in out
    run.rename(tmp_path / "away")
    log.write(128, STABLE, report(1), {})
    assert "warning: metrics.jsonl cannot be written" in capsys.readouterr().err, "and warned of anew"


def test_half_a_line_is_never_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A limit on the file's size cuts a write in the middle, as a disk that is all but full does."""
    log = Log(tmp_path, settings(tmp_path), 0)
    log.write(40, STABLE, report(1), {})
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, before[1]))
        log.write(80, STABLE, report(1), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
    log.write(120, STABLE, report(1), {})
    assert [line["images"] for line in lines(tmp_path)] == [40, 80, 120]


def test_a_queue_that_is_not_emptied_drops_the_oldest_figures_and_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tracker, "CLOSE_SECONDS", 0.1)
    log = Log(tmp_path, settings(tmp_path, "offline"), 0)
    assert log._tracker
    os.kill(log._tracker._process.pid, signal.SIGSTOP)  # a process that hangs: the pipe holds some, then the queue
    seconds = []
    for images in range(40, 40 + 3 * tracker.QUEUE_MAX):
        started = time.perf_counter()
        log.write(images, STABLE, report(1), {})
        seconds.append(time.perf_counter() - started)
    assert max(seconds) < 1, "nothing waits"
    started = time.perf_counter()
    log.close(exit_code=0)
    assert time.perf_counter() - started < 5
    out = capsys.readouterr().out
    assert out.count("does not keep up") == 1
    (dropped,) = [line for line in out.splitlines() if "lines were dropped" in line]
    assert int(dropped.split()[1].replace(",", "")) > tracker.QUEUE_MAX
    assert len(lines(tmp_path)) == 3 * tracker.QUEUE_MAX


def test_a_process_of_wandb_that_is_killed_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log = Log(tmp_path, settings(tmp_path, "offline"), 0)
    assert log._tracker
    log._tracker._process.kill()
    log._tracker._process.wait()
    for images in (40, 80):
        log.write(images, STABLE, report(1), {})
    log.close(exit_code=0)
    assert capsys.readouterr().out.count("wandb: its process has ended unasked; figures are in") == 1
    assert [line["images"] for line in lines(tmp_path)] == [40, 80]
