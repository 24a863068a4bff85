"""What schedulers are told of a run that ended."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from t2f_dist.training.checkpoints.last_save import LastSave
from t2f_dist.training.run import run_folder, status

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "launch" / "outcome.py"
_specification = importlib.util.spec_from_file_location("outcome", PROGRAM)
assert _specification is not None and _specification.loader is not None
outcome = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(outcome)

TOTAL = 1000


def told(run: Path, *options: str) -> tuple[int, str]:
    """Exit code and line of the program."""
    line = [sys.executable, str(PROGRAM), "--config", str(ROOT / "configs" / "demo.yaml"), "--run", str(run), *options]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize(
    ("written", "retry", "code", "line"),
    [
        ("finished", False, outcome.FINISHED, "finished: why"),
        ("preempted", False, outcome.PREEMPTED, "preempted: why"),
        ("running", False, outcome.KILLED, "killed: while why"),
        ("failed", True, outcome.KILLED, "failed: why"),
        ("failed", False, outcome.MEND, "failed: why"),
    ],
)
def test_each_outcome_has_its_exit_code(tmp_path, written, retry, code, line):
    status.write(tmp_path, written, "why", retry=retry)
    assert outcome.judge(tmp_path, TOTAL) == (code, line)


@pytest.mark.parametrize("written", ["preempted", "running", "failed"])
def test_what_was_written_before_the_launch_says_nothing_of_it(tmp_path, written):
    status.write(tmp_path, written, "why", images_seen=5)
    before = outcome.mark(tmp_path)
    code, line = outcome.judge(tmp_path, TOTAL, before)
    assert code == outcome.KILLED and "nothing was written" in line
    status.write(tmp_path, "preempted", "SIGTERM received", images_seen=6)
    assert outcome.judge(tmp_path, TOTAL, before)[0] == outcome.PREEMPTED


def test_a_launch_that_died_before_it_could_write_is_worth_another(tmp_path):
    """Nothing that is to be mended: the configuration was read before. Its failures are counted too."""
    run = tmp_path / "not" / "there"
    code, line = outcome.judge(run, TOTAL)
    assert code == outcome.KILLED and "nothing was written" in line
    assert [told(run, "--job", "7", "--failures", "2")[0] for _ in range(3)] == [
        outcome.KILLED, outcome.KILLED, outcome.MEND
    ]  # fmt: skip


def test_where_no_folder_can_be_made_somebody_must_mend_it(tmp_path):
    (tmp_path / "file").touch()
    code, line = told(tmp_path / "file" / "run", "--job", "7")
    assert code == outcome.MEND and line.startswith("failed: ") and "file" in line


def test_a_status_that_cannot_be_read_is_another_matter(tmp_path):
    (tmp_path / "status.json").mkdir()
    code, line = outcome.judge(tmp_path, TOTAL)
    assert code == outcome.KILLED and "cannot be read" in line


def test_a_finished_run_is_finished_whoever_looks_unless_its_schedule_grew(tmp_path, monkeypatch):
    status.write(tmp_path, "finished", "all images shown", images_seen=TOTAL)
    monkeypatch.setenv("T2F_LAUNCH", "job 8")
    assert outcome.judge(tmp_path, TOTAL, outcome.mark(tmp_path))[0] == outcome.FINISHED
    assert outcome.judge(tmp_path, TOTAL + 1, outcome.mark(tmp_path))[0] == outcome.KILLED


def test_a_launch_that_was_refused_by_a_finished_run_must_be_mended(tmp_path):
    status.write(tmp_path, "finished", "all images shown", images_seen=TOTAL)
    status.note_refusal(tmp_path, "other shards")
    code, line = outcome.judge(tmp_path, TOTAL)
    assert code == outcome.MEND and line.endswith("other shards")
    assert outcome.judge(tmp_path, TOTAL, outcome.mark(tmp_path))[0] == outcome.KILLED  # an older refusal says nothing


def test_a_run_in_the_hands_of_another_job_is_refused_and_a_dead_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("T2F_LAUNCH", "job 7")
    status.write(tmp_path, "running", "training", images_seen=5)
    lock = run_folder._locked(tmp_path)
    assert lock is not None
    assert told(tmp_path) == (outcome.KILLED, "killed: while training")  # what an earlier start of the job left behind
    monkeypatch.setenv("T2F_LAUNCH", "job 8")
    code, line = told(tmp_path)
    assert code == outcome.MEND and line.endswith("is in use by job 7")
    lock.close()
    code, line = told(tmp_path)
    assert code == outcome.KILLED and line.endswith("by job 8")
    monkeypatch.delenv("T2F_LAUNCH")
    assert outcome.judge(tmp_path, TOTAL) == (outcome.KILLED, "killed: while training")  # a person asks


def test_failures_of_a_job_count_until_the_run_gets_further(tmp_path):
    LastSave(100, "there").write(tmp_path)
    assert [outcome.count(tmp_path, "7") for _ in range(3)] == [1, 2, 3]
    assert outcome.count(tmp_path, "8") == 1  # another job
    assert outcome.count(tmp_path, "8") == 2
    LastSave(101, "there").write(tmp_path)
    assert outcome.count(tmp_path, "8") == 1
    (tmp_path / "failures.json").write_text("{")  # half written when the node died
    assert outcome.count(tmp_path, "8") == 1


def test_what_is_trained_again_and_again_is_no_progress(tmp_path):
    """A run that dies here and there before its next checkpoint, or falls back to an older one."""
    LastSave(100, "there").write(tmp_path)
    for number, seen in enumerate((140, 110, 130, 105, 150), start=1):
        status.write(tmp_path, "running", "training", images_seen=seen)
        assert outcome.count(tmp_path, "7") == number
    for number, saved in enumerate((90, 100, 95), start=6):
        LastSave(saved, "there").write(tmp_path)
        assert outcome.count(tmp_path, "7") == number


def test_a_failure_that_cannot_be_counted_is_still_worth_another_start(tmp_path):
    status.write(tmp_path, "failed", "a rank was lost", retry=True)
    (tmp_path / "failures.json").mkdir()  # no file can be written there
    assert outcome.count(tmp_path, "7") == 1


def test_a_failure_further_than_ever_has_a_code_of_its_own(tmp_path):
    status.write(tmp_path, "failed", "rank 1 was lost", retry=True, images_seen=5)
    before = outcome.mark(tmp_path)
    status.write(tmp_path, "failed", "rank 0 was lost", retry=True, images_seen=6)
    assert told(tmp_path, "--since", before)[0] == outcome.KILLED
    LastSave(6, "there").write(tmp_path)
    assert told(tmp_path, "--since", before)[0] == outcome.FURTHER


def test_the_program_takes_the_options_of_the_training(tmp_path):
    status.write(tmp_path, "failed", "rank 1 was lost", retry=True, images_seen=5)
    for failure in (1, 2):
        assert told(tmp_path, "--set", "seed=3", "--job", "12", "--failures", "2") == (
            outcome.KILLED,
            f"failed: rank 1 was lost; failure {failure} without progress",
        )
    code, line = told(tmp_path, "--job", "12", "--failures", "2")
    assert code == outcome.MEND and line.endswith("no more than 2 are tried again")
    status.write(tmp_path, "preempted", "SIGTERM received")
    assert told(tmp_path, "--job", "12", "--failures", "2")[0] == outcome.PREEMPTED  # is no failure


@pytest.mark.parametrize(("setting", "code"), [("seed=3", 0), ("sed=3", outcome.MEND)])
def test_check_reads_the_configuration_alone(tmp_path, setting, code):
    found, line = told(tmp_path / "run", "--check", "--set", setting)
    assert found == code and ("seed" in line) == bool(code)
    if not code:
        assert line.split()[1:] == ["1860", "open"]  # twice the longest bound of 900 s, and a minute
    assert not (tmp_path / "run").exists()


def test_a_dry_run_is_no_job(tmp_path):
    code, line = told(tmp_path, "--check", "--dry-run")
    assert code == outcome.MEND and "--dry-run is no training" in line
