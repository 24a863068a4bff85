"""A run that is killed again and again at random, compared with one that nothing disturbs.

    python -m tests.chaos --kills 50 --seed 1

Two ranks on the CPU train through two stages with a block that fades in. Something is killed at a random moment, of the
start or of the training, and the same command is given again, until there were so many kills and the run came to its
end. Then its weights, moments and lines of metrics are compared with those of the quiet run, to the bit. Exit code 1
where they are not the same.

What is killed, and where, is a function of the seed; the moments of the machine are its own.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import Popen

import click
from tqdm import tqdm

from t2f_dist.config.schema import Config
from tests.end_to_end.launches import (
    INJECTED,
    assert_same_end,
    children_of,
    finish,
    launch,
    log_of,
    processes_of,
    ranks_of,
    status_of,
    steps_of,
)
from tests.training.small import config

IMAGES_A_KILL = 320  # of progress, about: a run of so many is not at its end before its last kill
LIFE_IMAGES = 480  # of a launch, at most, before it is killed
STARTS = 0.15  # of the kills come before the first step
START_SECONDS = 6.0  # in which a start is met
TIMEOUT_SECONDS = 60  # a launcher that dies before its ranks have read a line is missed after that
GONE_SECONDS = 240.0
STEP_SECONDS = 300.0  # until a launch trains, on a busy machine
END_SECONDS = 3600.0
RESTARTING = "loader process"  # the one kind that a run survives without another launch


@dataclass
class Kill:
    """What was killed, and what it cost.

    images_lost: trained, and trained again. seconds: from the kill to the next step. gone_seconds: until launcher
    and ranks had ended. None for what is not known (yet).
    """

    kind: str
    starting: bool
    images_seen: int
    time: float
    num_steps: int = 0  # that were begun until then
    images_lost: int | None = None
    seconds: float | None = None
    gone_seconds: float | None = None


def _signal(number: int, *pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _stopped_first(process: Popen[str], draw: random.Random, rank: int) -> None:
    """A rank that stands still, and is then killed."""
    ranks = ranks_of(process)
    _signal(signal.SIGSTOP, ranks[rank])
    time.sleep(draw.uniform(0.1, 1.0))
    _signal(signal.SIGKILL, ranks[rank])


def _loader(process: Popen[str], draw: random.Random) -> None:
    """One that a rank forked: it has the rank's command line."""
    ranks = ranks_of(process)
    own = {rank: Path(f"/proc/{rank}/cmdline").read_bytes() for rank in ranks}
    forked = []
    for rank in ranks:
        for child in children_of(rank):
            with suppress(OSError):
                forked += [child] if Path(f"/proc/{child}/cmdline").read_bytes() == own[rank] else []
    _signal(signal.SIGKILL, *([draw.choice(forked)] if forked else []))


# Kind -> how often among all, and what it does.
KINDS: dict[str, tuple[int, Callable[[Popen[str], random.Random], None]]] = {
    "rank 0": (18, lambda process, draw: _signal(signal.SIGKILL, *ranks_of(process)[:1])),
    "rank 1": (18, lambda process, draw: _signal(signal.SIGKILL, *ranks_of(process)[1:])),
    "both ranks": (8, lambda process, draw: _signal(signal.SIGKILL, *ranks_of(process))),
    "launcher": (10, lambda process, draw: _signal(signal.SIGKILL, process.pid)),
    "launcher and ranks": (8, lambda process, draw: _signal(signal.SIGKILL, process.pid, *ranks_of(process))),
    RESTARTING: (10, _loader),
    "SIGTERM to the launcher": (10, lambda process, draw: _signal(signal.SIGTERM, process.pid)),
    "SIGUSR1 to a rank": (8, lambda process, draw: _signal(signal.SIGUSR1, draw.choice(ranks_of(process)))),
    "SIGSTOP, then SIGKILL": (10, lambda process, draw: _stopped_first(process, draw, draw.randrange(2))),
}
AT_THE_START = ("rank 0", "rank 1", "launcher", "launcher and ranks", "SIGTERM to the launcher")


class Chaos:
    """One run, and what is done to it."""

    def __init__(self, settings: Config, num_kills: int, seed: int, bar: tqdm[None]):
        self.config = settings
        self.num_kills = num_kills
        self.draw = random.Random(seed)  # its own: nothing of the run's
        self.bar = bar
        self.kills: list[Kill] = []

    def run(self) -> None:
        """Until the run is finished."""
        while status_of(self.config).get("outcome") != "finished":
            with launch(self.config, module=INJECTED) as process:
                fresh = True
                while process.poll() is None and len(self.kills) < self.num_kills:
                    self._kill_once(process, fresh)
                    fresh = False
                process.wait(END_SECONDS)
            self._count()

    def _kill_once(self, process: Popen[str], fresh: bool) -> None:
        """Wait for a random moment of the launch, and kill; returns when the launch is over, or goes on."""
        num_steps = len(steps_of(self.config))
        starting = self.draw.random() < STARTS and fresh
        kinds = AT_THE_START if starting else tuple(KINDS)
        (kind,) = self.draw.choices(kinds, [KINDS[kind][0] for kind in kinds])
        moment, images = self.draw.uniform(0, START_SECONDS), self.draw.randrange(LIFE_IMAGES)
        if starting:
            until = time.monotonic() + moment
            self._wait(process, lambda: time.monotonic() > until and len(ranks_of(process)) == 2)
        else:
            self._wait(process, lambda: self._progress(num_steps) >= images and self._trains(num_steps))
            time.sleep(self.draw.uniform(0, 0.05))  # anywhere in a step
        if process.poll() is not None:
            return
        steps = steps_of(self.config)
        kill = Kill(kind, starting, steps[-1][1] if steps else 0, time.time())
        self.kills.append(kill)
        ranks = ranks_of(process)
        KINDS[kind][1](process, self.draw)
        self.bar.update()
        self.bar.set_postfix_str(f"{kind} at {kill.images_seen:,} images")
        if kind == RESTARTING:
            self._wait(process, lambda: len(steps_of(self.config)) >= len(steps) + 8)  # what was read ahead is used up
            after = steps_of(self.config)[len(steps) :]
            pauses = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(steps[-1:] + after)]
            kill.images_lost, kill.seconds = 0, max(pauses, default=None)
            return
        self._wait(process, lambda: False)
        self._wait_gone(ranks)
        kill.gone_seconds = time.time() - kill.time
        kill.num_steps = len(steps_of(self.config))

    def _progress(self, num_steps: int) -> int:
        """Images since the first step after `num_steps`."""
        new = steps_of(self.config)[num_steps:]
        return new[-1][1] - new[0][1] if new else 0

    def _trains(self, num_steps: int) -> bool:
        return len(steps_of(self.config)) > num_steps

    def _wait(self, process: Popen[str], condition: Callable[[], bool]) -> None:
        """Until it holds, or the launch is over."""
        until = time.monotonic() + STEP_SECONDS
        while process.poll() is None and not condition():
            assert time.monotonic() < until, f"neither trains nor ends: {log_of(self.config)[-2000:]}"
            time.sleep(0.05)

    def _wait_gone(self, ranks: list[int]) -> None:
        """Until ranks that lost their launcher have ended by themselves. What they forked may look for them longer."""
        until = time.monotonic() + GONE_SECONDS
        while left := set(ranks) & set(processes_of(self.config)):
            assert time.monotonic() < until, f"ranks {left} are left behind"
            time.sleep(0.05)

    def _count(self) -> None:
        """Fill in what kills cost, now that another launch may have trained."""
        steps = steps_of(self.config)
        for kill in self.kills:
            before, after = steps[: kill.num_steps], steps[kill.num_steps :]
            if kill.seconds is None and kill.gone_seconds is not None and after:
                kill.images_lost = max(0, (before[-1][1] if before else 0) - after[0][1])
                kill.seconds = after[0][0] - kill.time


def table(kills: list[Kill]) -> str:
    """A line a kind."""
    lines = [f"{'killed':<26} {'times':>5}  {'images lost':>18}  {'seconds to train again':>22}  {'until gone':>10}"]
    lines.append(f"{'':<26} {'':>5}  {'median':>9}{'most':>9}  {'median':>11}{'most':>11}  {'most':>10}")
    for kind in (*KINDS, "all"):
        own = [kill for kill in kills if kind in (kill.kind, "all")]
        lost = [kill.images_lost for kill in own if kill.images_lost is not None] or [0]
        again = [kill.seconds for kill in own if kill.seconds is not None] or [0.0]
        gone = max((kill.gone_seconds or 0.0 for kill in own), default=0.0)
        lines.append(
            f"{kind:<26} {len(own):>5}  {statistics.median(lost):>9.0f}{max(lost):>9}"
            f"  {statistics.median(again):>11.2f}{max(again):>11.2f}  {gone:>10.2f}"
        )
    return "\n".join(lines)


def _shards(folder: Path) -> Path:
    """A small corpus of drawn portraits."""
    from t2f_dist.config.recipe import ShardRecipe
    from t2f_dist.portraits.corpus import write_corpus
    from t2f_dist.shard.build import build

    write_corpus(folder / "corpus", num=120, resolution=32, seed=0, workers=1)
    places = {"faces": "faces", "captions": "captions.jsonl", "speech": "speech.csv"}
    given = {key: str(folder / "corpus" / name) for key, name in places.items()}
    build(ShardRecipe(**given, out=str(folder / "shards"), image={"resolution": 32}, samples_per_shard=20), 1, False)
    return folder / "shards"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kills", "num_kills", default=50, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--seed", default=0, show_default=True, help="Of what is killed, and where.")
@click.option("--recipe", default="both", show_default=True, help="Of tests.training.small, one that grows.")
@click.option("--shards", type=click.Path(path_type=Path), help="To train on; drawn portraits otherwise.")
@click.option("--folder", type=click.Path(path_type=Path), help="Of both runs, to be kept; a temporary one otherwise.")
@click.option("--out", type=click.Path(path_type=Path), help="A JSON file of all kills.")
def main(num_kills: int, seed: int, recipe: str, shards: Path | None, folder: Path | None, out: Path | None) -> None:
    """Kill a run again and again, and compare its end with that of a run in quiet."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        place = folder or Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        shards = shards or _shards(place)
        quarter = -(-num_kills * IMAGES_A_KILL // 4 // 8) * 8 + 80
        settings = config(
            recipe, shards, place / "chaos",
            f"stages.0.stable_images={quarter}", f"stages.1.fade_images={2 * quarter}",
            f"stages.1.stable_images={quarter}", "data.num_workers=1", "checkpoint.every_images=120",
            "snapshot.every_images=160", "log.grid_every_images=400", f"train.timeout_seconds={TIMEOUT_SECONDS}",
        )  # fmt: skip
        quiet = settings.model_copy(update={"run": str(place / "quiet")})
        click.echo(f"in quiet: {settings.total_images:,} images on two ranks")
        assert finish(quiet, timeout=3600) == 0, log_of(quiet)
        seconds = time.monotonic() - started
        click.echo(f"in quiet: done after {seconds:.0f} s")
        with tqdm(total=num_kills, unit="kill", disable=None) as bar:
            chaos = Chaos(settings, num_kills, seed, bar)
            chaos.run()
        try:
            assert_same_end(settings, quiet)
            identical = True
        except AssertionError as error:
            identical = False
            click.echo(str(error), err=True)
    click.echo(table(chaos.kills))
    verdict = "identical to the bit" if identical else "NOT the same"
    click.echo(f"{len(chaos.kills)} kills, {settings.total_images:,} images: weights, moments and metrics {verdict}")
    if out:
        told = {"kills": [asdict(kill) for kill in chaos.kills], "identical": identical, "seed": seed}
        told |= {"images": settings.total_images, "recipe": recipe, "seconds": time.monotonic() - started}
        out.write_text(json.dumps(told, indent=1) + "\n")
    sys.exit(0 if identical and len(chaos.kills) == num_kills else 1)


if __name__ == "__main__":
    main()
