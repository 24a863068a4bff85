"""A rank is killed at each phase of a run: the same command again ends as the quiet run did, to the bit."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from t2f_dist.config.schema import Config
from tests.end_to_end.launches import (
    Fault,
    assert_same_end,
    finish,
    launch,
    log_of,
    processes_of,
    ranks_of,
    repeated_images,
    status_of,
    steps_of,
    struck,
    until_finished,
    wait_for,
)
from tests.faults.conftest import IN_LITTLE, MID_FADE
from tests.faults.record import record

STEP = 8  # images
GONE_SECONDS = 120.0  # on a busy machine; the launcher needs a fraction of a second
SIDE = "t2f_dist.training.side:Side."
Anew = Callable[[str], tuple[Config, Config]]

# Which call comes where: each step goes back and steps twice, for the discriminator and then for the generator.
PHASES: dict[str, tuple[str, Fault]] = {
    "discriminator step": ("house", {"at": SIDE + "backward", "images": MID_FADE}),
    "generator step": ("house", {"at": SIDE + "step", "call": 2, "images": MID_FADE}),
    "between the generator and its average": (
        "house",
        {"at": "t2f_dist.training.gan:Gan.update_ema", "images": MID_FADE},
    ),
    "exchange": ("both", {"at": "t2f_dist.training.gan:Gan.summed", "images": MID_FADE}),
    "agreement": (
        "house",
        {"at": "t2f_dist.training.launch.ranks:Agreement._exchange", "images": MID_FADE, "after": True},
    ),
    "report": ("house", {"at": "t2f_dist.training.run.meter:Meter.report", "images": MID_FADE}),
    "growth": ("house", {"at": SIDE + "activate", "images": 200, "call": 2}),
    "end of the fade": ("house", {"at": "t2f_dist.training.gan:Gan.enter", "images": 600, "after": True}),
    "first step": ("house", {"at": SIDE + "step"}),
    "last step": ("house", {"at": SIDE + "step", "images": 792}),
    "end": ("house", {"at": "t2f_dist.training.loop:Training._say_end"}),
    "leaving": ("house", {"at": "t2f_dist.training.launch.ranks:Ranks.leave"}),
}
# Of the main rank alone, which writes. Files of a checkpoint: networks, optimizers, state.json.
WRITE = "t2f_dist.storage.folder:Folder.write"
OF_THE_MAIN_RANK: dict[str, Fault] = {
    "first file of a checkpoint": {"at": WRITE, "images": MID_FADE},
    "between files of a checkpoint": {"at": WRITE, "call": 2, "images": MID_FADE},
    "end of a checkpoint": {"at": WRITE, "call": 3, "images": MID_FADE},
    "removal of old checkpoints": {"at": "t2f_dist.training.checkpoints.archive:Archive.prune", "images": MID_FADE},
    "first checkpoint": {"at": WRITE, "call": 2},
    "last checkpoint": {"at": WRITE, "call": 2, "images": 792},
    "snapshot": {"at": "t2f_dist.models.snapshot:_digest", "images": MID_FADE},
    "end of a snapshot": {"at": "t2f_dist.models.snapshot:save", "images": MID_FADE, "after": True},
    "grid": {"at": "t2f_dist.training.run.pictures:Pictures.draw", "images": MID_FADE, "after": True},
    "line of metrics": {"at": "t2f_dist.training.run.log:Log.write", "images": MID_FADE, "after": True},
}


def killed(config: Config, faults: Fault | list[Fault], rank: int, number: int = 0) -> float:
    """A launch in which the fault with that number strikes a rank, and the launch ends by itself. Time of the fault."""
    assert finish(config, fault=faults) != 0, log_of(config)
    when = struck(config, rank, number)
    assert when is not None and time.time() - when["time"] < GONE_SECONDS
    return when["time"]


def goes_on(config: Config, quiet: Config, name: str, when: float, images_max: int) -> None:
    """The same command, to the same end; `images_max`: that may be lost."""
    steps = len(steps_of(config))
    assert until_finished(config, module="tests.faults.injected") == 1
    assert_same_end(config, quiet)
    again = steps_of(config)[steps:]
    lost = repeated_images(config)
    assert lost <= images_max
    record(f"SIGKILL, {name}", "bit-identical", lost, again[0][0] - when if again else None)


def test_a_killed_rank_ends_the_launch_and_the_run_goes_on_from_its_checkpoint(little, trained_on):
    settings, quiet = little
    killed(settings, {"kind": "kill", "rank": 1, "at": SIDE + "step", "call": 2, "images": IN_LITTLE}, 1)
    assert processes_of(settings) == [] and status_of(settings)["outcome"] != "finished"
    trained_on(settings)
    assert_same_end(settings, quiet)
    assert 0 < repeated_images(settings) <= settings.checkpoint.every_images + STEP


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rank"), [(name, rank) for name in PHASES for rank in (0, 1)])
def test_a_rank_killed_anywhere_costs_the_images_since_the_last_checkpoint(anew: Anew, name: str, rank: int):
    recipe, where = PHASES[name]
    config, quiet = anew(recipe)
    when = killed(config, {"kind": "kill", "rank": rank, **where}, rank)
    goes_on(config, quiet, f"rank {rank}, {name}", when, config.checkpoint.every_images + STEP)


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_THE_MAIN_RANK)
def test_the_main_rank_killed_while_it_writes_costs_no_file_that_was_there(anew: Anew, name: str):
    config, quiet = anew("house")
    when = killed(config, {"kind": "kill", "rank": 0, **OF_THE_MAIN_RANK[name]}, 0)
    # A checkpoint is written beside the training: the steps since it began are lost with it.
    goes_on(config, quiet, f"rank 0, {name}", when, 2 * config.checkpoint.every_images)
    left = [path.name for path in Path(config.run).rglob("*.tmp")]
    assert left == []


# What rank 0 writes, where it is made to linger, and where rank 1 dies meanwhile.
WRITES: dict[str, tuple[Fault, Fault]] = {
    "checkpoint": ({"at": WRITE, "call": 2, "images": MID_FADE}, {"at": SIDE + "step", "images": 456}),
    "snapshot": (
        {"at": "t2f_dist.models.snapshot:_digest", "images": MID_FADE},
        {"at": "t2f_dist.training.fingerprint:compare", "images": 440},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITES)
def test_the_other_rank_killed_while_the_main_rank_writes(anew: Anew, name: str):
    config, quiet = anew("house")
    here, there = WRITES[name]
    lingers: Fault = {"kind": "sleep", "rank": 0, "seconds": 4.0, **here}
    dies: Fault = {"kind": "kill", "rank": 1, **there}
    waits: Fault = {"kind": "sleep", "rank": 1, "seconds": 1.5, **there}  # outermost: before the kill
    when = killed(config, [lingers, dies, waits], 1, 1)
    began = struck(config, 0, 0)
    assert began is not None and began["time"] < when < began["time"] + 4.0, "while it is written"
    # The one that was being written may be lost, and the steps since it began.
    goes_on(config, quiet, f"rank 1, {name} of rank 0", when, 2 * config.checkpoint.every_images)
    assert [path.name for path in Path(config.run).rglob("*.tmp")] == []


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_killed_while_it_resumes_it_resumes_again(anew: Anew, rank: int):
    config, quiet = anew("house")
    first: Fault = {"kind": "kill", "rank": 1 - rank, "at": SIDE + "step", "images": MID_FADE}
    loading: Fault = {
        "kind": "kill",
        "rank": rank,
        "at": "t2f_dist.training.checkpoints.checkpoint:_fill_optimizer",
        "call": 2,
    }
    killed(config, first, 1 - rank)
    when = killed(config, [first, loading], rank, 1)
    goes_on(config, quiet, f"rank {rank}, resuming", when, config.checkpoint.every_images + STEP)


@pytest.mark.slow
def test_all_at_once_as_when_a_machine_loses_its_power(anew: Anew):
    config, quiet = anew("both")
    with launch(config, module="tests.faults.injected") as process:
        wait_for(lambda: [images for _, images in steps_of(config) if images >= MID_FADE], process, "the fade")
    when = time.time()  # the block's end kills what it started, launcher, ranks and loader processes
    assert processes_of(config) == [] and status_of(config)["outcome"] == "running"
    goes_on(config, quiet, "launcher, ranks and loaders", when, config.checkpoint.every_images + STEP)


# Where they are when they lose it; rank 1 lingers there.
LINGERING: dict[str, Fault | None] = {
    "importing": None,
    "connecting": {"kind": "sleep", "rank": 1, "seconds": 3.0, "at": "t2f_dist.training.launch.rendezvous:_connect"},
    "meeting": {"kind": "sleep", "rank": 1, "seconds": 3.0, "at": "t2f_dist.training.launch.rendezvous:_answer"},
    "fade": None,
}


@pytest.mark.slow
@pytest.mark.parametrize("place", LINGERING)
def test_ranks_that_lose_their_launcher_end_by_themselves(anew: Anew, place: str):
    config, quiet = anew("house")
    with launch(config, module="tests.faults.injected", fault=LINGERING[place]) as process:
        if place == "importing":
            wait_for(lambda: len(ranks_of(process)) == 2, process, "a rank")
        elif place == "fade":
            wait_for(lambda: [images for _, images in steps_of(config) if images >= MID_FADE], process, "the fade")
        else:
            wait_for(lambda: struck(config, 1), process, place)
        process.kill()
        when = time.time()
        while processes_of(config):
            assert time.time() - when < GONE_SECONDS, log_of(config)
            time.sleep(0.05)
    assert not steps_of(config) or status_of(config)["outcome"] == "preempted"
    goes_on(config, quiet, f"launcher, {place}", when, 0)
