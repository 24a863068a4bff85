"""Loader processes that are killed: the stream goes on as if nothing had been, or ends with a line."""

import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path

import pytest

from t2f_dist.config.schema import Config
from t2f_dist.data import workers
from t2f_dist.data.dataset import Samples
from t2f_dist.data.loader import CLOSE_SECONDS, batches, open_samples
from t2f_dist.storage.patience import Denied, Unreachable
from t2f_dist.storage.url import local
from t2f_dist.training.growth import Growth
from t2f_dist.training.run.failure import worth_a_retry
from tests.data.test_loader import assert_equal, joined, settings, stream
from tests.data.test_remote import remote
from tests.data.test_stream import settings as streamed
from tests.web import served

STEPS = 12


@contextmanager
def reading(config: Config, said: list[str], num_workers: int = 2, samples: Samples | None = None) -> Iterator:
    """-> the batches of one rank, and what kills its loader processes: `kill(number of them, signal)`."""
    others = set(active_children())
    made = batches(samples or open_samples(config), Growth(config.stages).steps(0), 0, 1, num_workers, warn=said.append)

    def kill(most: int, number: int = signal.SIGKILL) -> None:
        victims = sorted(set(active_children()) - others, key=lambda process: process.pid or 0)[:most]
        assert len(victims) == most
        for victim in victims:
            os.kill(victim.pid, number)
            victim.join()

    try:
        yield made, kill
    finally:
        made.close()
        assert not set(active_children()) - others


@pytest.mark.parametrize("most", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_loader_process_costs_no_image_and_interrupts_nothing_else(mixed_shards: Path, most: int):
    config = settings("both", mixed_shards)
    said: list[str] = []
    read = []
    with reading(config, said) as (made, kill):
        for number in range(STEPS):
            read.append(joined((next(made),)))
            if number in (1, 6):
                kill(most)
                until = time.monotonic() + 0.2
                while time.monotonic() < until:  # the step goes on; torch's handler would raise in it
                    pass
    assert_equal(read, stream(config, 1, steps=STEPS))
    assert [line.partition("reading goes on")[2] for line in said] == [" at 16 images", " at 56 images"]
    assert all(
        "rank 0: loader process" in line and "was killed by SIGKILL, as the kernel does" in line for line in said
    )


def test_one_that_is_killed_while_its_batch_is_waited_for(mixed_shards: Path, tmp_path: Path, monkeypatch):
    """In the middle of it: it is noticed at once, where torch looks every five seconds."""
    config = settings("house", mixed_shards)
    whole = stream(config, 1, steps=4)
    samples, marker = open_samples(config), tmp_path / "killed"
    batch = samples.batch

    def dying(requests):
        if requests[0][0] >= 16 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return batch(requests)

    monkeypatch.setattr(samples, "batch", dying)
    said: list[str] = []
    started = time.monotonic()
    with reading(config, said, samples=samples) as (made, _):
        assert_equal([joined((next(made),)) for _ in range(4)], whole)
    assert len(said) == 1 and marker.exists() and time.monotonic() - started < 4


@pytest.mark.parametrize(
    ("number", "why", "remedy"),
    [
        (signal.SIGKILL, "memory is short", "lower data.num_workers, or give the job more memory"),
        pytest.param(
            signal.SIGBUS,
            "shared memory is full",
            "give the job more shared memory (/dev/shm), or lower data.num_workers",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_sample_that_always_kills_its_reader_ends_it_with_a_line(mixed_shards, monkeypatch, number, why, remedy):
    config = settings("house", mixed_shards)
    samples = open_samples(config)
    batch = samples.batch

    def dying(requests):
        if requests[0][0] >= 16:
            signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
            os.kill(os.getpid(), number)
        return batch(requests)

    monkeypatch.setattr(samples, "batch", dying)
    said: list[str] = []
    with reading(config, said, samples=samples) as (made, _):
        read = [next(made), next(made)]
        with pytest.raises(ValueError) as raised:
            next(made)
    assert len(read) == 2 and workers.IN_A_ROW <= len(said) <= workers.IN_A_ROW + 2
    line = f"was killed by {number.name}, as the kernel does where {why}, 4 in a row at 16 images: {remedy}"
    assert line in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (OSError(errno.ESTALE, "Stale file handle", "x.tar"), OSError, "[Errno 116] Stale file handle: 'x.tar'"),
        (Unreachable("s3://b/x: given up after 5 tries"), OSError, "s3://b/x: given up after 5 tries"),
        (Denied("s3://b/x: access denied"), PermissionError, "s3://b/x: access denied"),
        (FileNotFoundError("no such file: x.tar"), FileNotFoundError, "no such file: x.tar"),
        (ValueError("x.tar is no tar"), ValueError, "x.tar is no tar"),
    ],
)
def test_what_cannot_be_read_is_a_line_that_says_whether_it_may_pass(
    mixed_shards: Path, monkeypatch, num_workers: int, error: Exception, kind: type[Exception], line: str
):
    """A store that is away is worth another start, and what is missing is not: by the kind of the error."""
    samples = open_samples(settings("house", mixed_shards))

    def failing(requests):
        raise error

    monkeypatch.setattr(samples, "batch", failing)
    with reading(settings("house", mixed_shards), [], num_workers, samples) as (made, _), pytest.raises(kind) as raised:
        next(made)
    assert type(raised.value) is kind and str(raised.value) == line
    assert worth_a_retry(raised.value) == (kind is OSError)


def test_processes_that_are_in_the_middle_of_something_hold_up_no_end(mixed_shards: Path, monkeypatch):
    """As in a slow fetch: torch would wait five seconds for each, and a job that must go has thirty in all."""
    samples = open_samples(settings("house", mixed_shards))
    batch = samples.batch

    def slow(requests):
        if requests[0][0] >= 8:
            time.sleep(60)
        return batch(requests)

    monkeypatch.setattr(samples, "batch", slow)
    with reading(settings("house", mixed_shards), [], 2, samples) as (made, _):
        next(made)
        started = time.monotonic()
    assert time.monotonic() - started < CLOSE_SECONDS + 2


def test_a_process_that_is_lost_with_nothing_left_to_do_costs_nothing(mixed_shards: Path, monkeypatch):
    """After two losses batches are asked for one by one, and the third comes when the last of them is out."""
    config = settings("house", mixed_shards)
    samples, steps = open_samples(config), list(Growth(config.stages).steps(0))[:4]
    whole = list(batches(samples, steps, 0, 1, 0))
    lost, rounds = _lost(), []

    def read(samples, steps, rank, world_size, num_workers, *rest):
        rounds.append(num_workers)
        for number, step in enumerate(steps):
            if len(rounds) <= 2 and number == 1:
                raise lost
            yield whole[step[0] // step[1]]
        if len(rounds) == 3:
            raise lost

    monkeypatch.setattr("t2f_dist.data.loader._read", read)
    said: list[str] = []
    found = list(batches(samples, steps, 0, 1, 2, warn=said.append))
    assert_equal([joined((batch,)) for batch in found], [joined((batch,)) for batch in whole])
    assert rounds == [2, 2, 1, 2] and len(said) == 2


def test_so_do_many_losses_within_few_batches(mixed_shards: Path):
    bound, lost = workers.Bound(), _lost()
    for number in range(workers.MOST):
        bound.num_batches = 10 * number
        bound.add(lost, 0)
    bound.num_batches += workers.WITHIN
    for _ in range(workers.IN_A_ROW):
        bound.add(lost, 0)
    for _ in range(workers.MOST - workers.IN_A_ROW):
        bound.num_batches += 1
        bound.add(lost, 0)
    bound.num_batches += 1
    with pytest.raises(ValueError, match="11 within 1000 batches at 640 images"):
        bound.add(lost, 640)


def _lost() -> workers.LostWorkers:
    class Ended:
        pid, exitcode = 7, -signal.SIGSEGV

    lost = workers.LostWorkers([Ended()])  # pyright: ignore[reportArgumentType]
    assert str(lost) == "loader process 7 was killed by SIGSEGV, a library crashed"
    return lost


@pytest.mark.slow
def test_remote_shards_go_on_and_only_what_was_cut_off_is_fetched_again(mixed_shards: Path, tmp_path: Path):
    here = settings("both", mixed_shards)
    said: list[str] = []
    with served() as web:
        there = remote(here, web.put_folder(mixed_shards), tmp_path)
        assert local(there.data.shards) is None
        with reading(there, said) as (made, kill):
            read = []
            for number in range(STEPS):
                read.append(joined((next(made),)))
                if number in (2, 7):
                    kill(1)
        assert len(said) == 2
        assert sum(web.gets.values()) <= len(web.gets) + 2 * len(said), (
            "one file of the thread, one of the lost process"
        )
    assert_equal(read, stream(here, 1, steps=STEPS))


@pytest.mark.slow
def test_tars_without_an_index_go_on_as_a_run_that_resumes(portrait_shards: Path):
    config = streamed("both", portrait_shards)
    said: list[str] = []
    read = []
    with reading(config, said) as (made, kill):
        for number in range(8):
            read.append(next(made))
            if number == 3:
                kill(1)
    assert [int(batch.positions[0]) for batch in read] == list(range(0, 64, 8))
    assert said[0].endswith("reading goes on at 32 images, in another order")
    resumed = batches(open_samples(config), Growth(config.stages).steps(32), 0, 1, 2)
    assert_equal([joined((batch,)) for batch in read[4:]], [joined((next(resumed),)) for _ in range(4)])
    resumed.close()
