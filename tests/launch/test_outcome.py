"""What schedulers are told of a run that ended."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from t2f_dist.training.run import status

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "launch" / "outcome.py"
_specification = importlib.util.spec_from_file_location("outcome", PROGRAM)
assert _specification is not None and _specification.loader is not None
outcome = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(outcome)

LONG_AGO, SOON = "2000-01-01T00:00:00Z", "9999-01-01T00:00:00Z"


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
    assert outcome.judge(tmp_path, LONG_AGO) == (code, line)


def test_what_was_written_before_the_launch_says_nothing_of_it(tmp_path):
    status.write(tmp_path, "finished", "all images shown")
    code, line = outcome.judge(tmp_path, SOON)
    assert code == outcome.KILLED and "nothing was written" in line


def test_a_run_that_was_never_begun_is_not_begun_again(tmp_path):
    assert outcome.judge(tmp_path, LONG_AGO)[0] == outcome.MEND


def test_a_launch_that_was_refused_by_a_finished_run_must_be_mended(tmp_path):
    status.write(tmp_path, "finished", "all images shown")
    status.note_refusal(tmp_path, "other shards")
    code, line = outcome.judge(tmp_path, LONG_AGO)
    assert code == outcome.MEND and line.endswith("other shards")
    assert outcome.judge(tmp_path, SOON)[0] == outcome.KILLED  # an older refusal says nothing


def test_failures_of_a_job_count_until_the_run_gets_further(tmp_path):
    status.write(tmp_path, "running", "training", images_seen=100)
    assert [outcome.count(tmp_path, "7") for _ in range(3)] == [1, 2, 3]
    assert outcome.count(tmp_path, "8") == 1  # another job
    assert outcome.count(tmp_path, "8") == 2
    status.write(tmp_path, "running", "training", images_seen=101)
    assert outcome.count(tmp_path, "8") == 1
    (tmp_path / "failures.json").write_text("{")  # half written when the node died
    assert outcome.count(tmp_path, "8") == 1


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
    assert not (tmp_path / "run").exists()
