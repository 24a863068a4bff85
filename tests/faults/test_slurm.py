"""Jobs of a real Slurm: trained to the end, taken away in the middle by each means that Slurm has, and back again."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch

from tests import slurm
from tests.end_to_end.launches import weights
from tests.faults.record import record

lacking = slurm.lacking()
pytestmark = [
    pytest.mark.skipif(lacking is not None, reason=f"no Slurm here: {lacking}"),
    pytest.mark.xdist_group("slurm"),  # one worker, so one cluster
]

# configs/demo.yaml, shortened: 20 steps of 48 images at 4 pixels, then a fade to 8 from image 960 to 2,880.
SHORT = {
    "stages": "[{resolution: 4, stable_images: 960, batch_size: 48},"
    " {resolution: 8, fade_images: 1920, stable_images: 1920, batch_size: 48}]",
    "generator.channels": "[16, 12]",
    "discriminator.channels": "[16, 12]",
    "checkpoint.every_images": "480",
    "snapshot.every_images": "4800",
    "log.every_images": "480",
    "log.grid_every_images": "4800",
    "log.held_out_images": "8",
    "wandb.mode": "disabled",
}
# The same, as short as can be: of its seconds, most are spent importing torch.
BRIEF = SHORT | {"stages": "[{resolution: 4, stable_images: 48, batch_size: 24}]", "data.num_workers": "0"}
BRIEF |= {"generator.channels": "[8]", "discriminator.channels": "[8]", "checkpoint.every_images": "48"}
ENDS = 4800


class Job:
    """A training that was submitted."""

    def __init__(
        self,
        cluster: slurm.Slurm,
        folder: Path,
        settings: dict[str, str],
        *options: str,
        log: str = "job.log",
        **environment: str,
    ):
        self.cluster, self.run, self.log_path = cluster, folder / "run", folder / log
        line = [*options, "--output", str(self.log_path), "launch/slurm/train.sbatch", "configs/demo.yaml"]
        line += ["--run", str(self.run), *(item for pair in settings.items() for item in ("--set", "=".join(pair)))]
        self.number = cluster.submit(*line, GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1", **environment)

    @property
    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    @property
    def status(self) -> dict[str, object]:
        return json.loads((self.run / "status.json").read_text())

    @property
    def saved(self) -> int:
        """Images of the newest checkpoint."""
        return max((int(path.name[7:]) for path in (self.run / "checkpoints").glob("images-*")), default=0)

    def until(self, condition, what: str, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            state = self.cluster.job(self.number)["JobState"]
            assert state not in slurm.ENDED, f"{state} before {what}: {self.log}"
            assert time.monotonic() < deadline, f"no {what} within {seconds} s: {self.log}"
            time.sleep(0.02)

    def end(self) -> str:
        """The state in which it ended."""
        return self.cluster.wait(self.number, timeout=400)["JobState"]


@pytest.fixture(scope="module")
def cluster():
    with slurm.cluster() as running:
        yield running


@pytest.fixture(scope="module")
def settings(portrait_shards):
    return SHORT | {"data.shards": str(portrait_shards)}


@pytest.fixture(scope="module")
def quiet(cluster, settings, tmp_path_factory):
    """A run on two nodes that nothing disturbs."""
    job = Job(cluster, tmp_path_factory.mktemp("quiet"), settings, "--nodes=2")
    assert job.end() == "COMPLETED", job.log
    assert "2 x 1 ranks on n[1-2]" in job.log and "world size 2 (gloo)" in job.log
    assert job.status["outcome"] == "finished"
    return job


def _assert_same_end(job, quiet):
    ours, theirs = weights(job.run), weights(quiet.run)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_job_trains_to_the_end(cluster, portrait_shards, tmp_path):
    job = Job(cluster, tmp_path, BRIEF | {"data.shards": str(portrait_shards)})
    assert job.end() == "COMPLETED", job.log
    assert (job.status["outcome"], job.saved) == ("finished", 48)
    assert cluster.job(job.number)["Restarts"] == "0"
    assert "1 x 1 ranks" in job.log


@pytest.mark.slow
def test_a_job_submitted_twice_is_refused_and_stays_away(cluster, settings, tmp_path):
    longer = settings | {"stages": "[{resolution: 4, stable_images: 48_000, batch_size: 48}]"}
    longer |= {"generator.channels": "[16]", "discriminator.channels": "[16]"}
    first = Job(cluster, tmp_path, longer)
    first.until(lambda: first.saved >= 480, "a checkpoint")
    second = Job(cluster, tmp_path, longer, log="second.log", T2F_MAX_RESTARTS="0")
    assert second.end() == "FAILED", second.log
    assert cluster.job(first.number)["JobState"] == "RUNNING", "too short for this test"
    assert cluster.job(second.number)["Restarts"] == "0"
    assert second.log.splitlines()[-1] == f"refused: {first.run} is in use by Slurm job {first.number}"
    cluster.call("scancel", first.number)
    first.end()
    record("a job submitted twice", "the second is refused, and stays away", 0, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "restarts"),
    [("scontrol requeue", "0"), ("SIGUSR1 to the batch shell", "3"), ("Slurm node down", "0")],
)
def test_taken_away_in_the_middle_a_job_saves_comes_back_and_ends_bit_identical(
    cluster, settings, quiet, tmp_path, kind, restarts
):
    job = Job(cluster, tmp_path, settings, "--nodes=2", T2F_MAX_RESTARTS=restarts)
    job.until(lambda: job.saved >= 1440, "a checkpoint in the fade")
    begun = time.monotonic()
    if kind == "scontrol requeue":
        cluster.call("scontrol", "requeue", job.number)
    elif kind == "Slurm node down":
        cluster.call("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
        cluster.call("scontrol", "update", "NodeName=n2", "State=RESUME")
    else:  # as Slurm does --signal=B:USR1@300 before the end: to the batch shell alone
        cluster.call("scancel", "--batch", "--signal=USR1", job.number)
    job.until(lambda: "resuming at" in job.log, "a start after it")
    seconds = time.monotonic() - begun
    resumed = int(re.findall(r"resuming at ([\d,]+) images", job.log)[0].replace(",", ""))
    assert 1440 <= resumed < ENDS
    assert job.end() == "COMPLETED", job.log
    assert cluster.job(job.number)["Restarts"] == "1"
    assert job.status["outcome"] == "finished"
    _assert_same_end(job, quiet)
    stopped = re.search(r"received: saved at ([\d,]+) images", job.log)
    assert stopped and int(stopped[1].replace(",", "")) == resumed, job.log
    record(kind, "saved, came back by itself, bit-identical", 0, seconds)


@pytest.mark.slow
def test_a_run_longer_than_its_time_limit_is_told_in_time_and_comes_back(cluster, settings, tmp_path):
    endless = settings | {"stages": "[{resolution: 4, stable_images: 10_000_000, batch_size: 48}]"}
    endless |= {"generator.channels": "[16]", "discriminator.channels": "[16]", "checkpoint.every_images": "1_000_000"}
    # Slurm may be a minute early: with 60 s, the word comes within the first minute of two.
    job = Job(cluster, tmp_path, endless, "--nodes=2", "--time=2", "--signal=B:USR1@60", T2F_MAX_RESTARTS="0")
    job.until(lambda: "SIGUSR1 received: saved at" in job.log, "the word that the time is up")
    begun = time.monotonic()
    job.until(lambda: "resuming at" in job.log, "a start after it")
    record("Slurm's time limit, by Slurm's own clock", "saved, came back by itself", 0, time.monotonic() - begun)
    assert "preempted: SIGUSR1 received" in job.log
    cluster.call("scancel", job.number)
    assert job.end() == "CANCELLED"
    assert cluster.job(job.number)["Restarts"] == "1"


@pytest.mark.slow
def test_a_rank_that_is_killed_brings_the_job_back(cluster, settings, quiet, tmp_path):
    job = Job(cluster, tmp_path, settings, "--nodes=2", T2F_MAX_RESTARTS="0")
    job.until(lambda: job.saved >= 1440, "a checkpoint in the fade")
    begun = time.monotonic()
    os.kill(cluster.ranks()[0], signal.SIGKILL)
    job.until(lambda: "resuming at" in job.log, "a start after it")
    seconds = time.monotonic() - begun
    assert job.end() == "COMPLETED", job.log
    assert cluster.job(job.number)["Restarts"] == "1"
    assert json.loads((job.run / "failures.json").read_text())["failures"] == 1
    _assert_same_end(job, quiet)
    record("SIGKILL of a rank under Slurm, job requeued", "bit-identical", None, seconds)


@pytest.mark.slow
def test_a_cancelled_job_saves_and_stays_away(cluster, settings, tmp_path):
    job = Job(cluster, tmp_path, settings, "--nodes=2")
    job.until(lambda: job.saved >= 480, "a checkpoint")
    cluster.call("scancel", job.number)
    assert job.end() == "CANCELLED", job.log
    deadline = time.monotonic() + 90
    while cluster.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert cluster.processes() == []
    assert (job.status["outcome"], job.status["images_seen"]) == ("preempted", job.saved)
    assert cluster.job(job.number)["Restarts"] == "0"
    record("scancel", "saved, stays away", 0, None)


@pytest.mark.slow
def test_what_must_be_mended_does_not_come_back(cluster, settings, tmp_path):
    large = settings | {"stages": "[{resolution: 64, stable_images: 480, batch_size: 48}]"}
    large |= dict.fromkeys(("generator.channels", "discriminator.channels"), "[8, 8, 8, 8, 8]")
    job = Job(cluster, tmp_path, large, T2F_MAX_RESTARTS="1")
    assert job.end() == "FAILED", job.log
    assert cluster.job(job.number)["Restarts"] == "0"
    assert (job.status["outcome"], job.status["retry"]) == ("failed", False)
    assert job.log.splitlines()[-1].startswith("failed: ") and "of 32 pixels" in job.log.splitlines()[-1]


@pytest.mark.slow
def test_a_configuration_that_cannot_be_read_starts_no_launcher(cluster, tmp_path):
    job = Job(cluster, tmp_path, {"stage": "3"})
    assert job.end() == "FAILED"
    assert "did you mean" in job.log and "Traceback" not in job.log and not job.run.exists()


@pytest.mark.slow
def test_an_array_of_shares_is_the_build_of_one_although_a_task_is_requeued(cluster, tmp_path):
    from t2f_dist.config.recipe import ShardRecipe
    from t2f_dist.portraits.corpus import write_corpus
    from t2f_dist.shard.build import build

    corpus = tmp_path / "corpus"
    write_corpus(corpus, num=480, resolution=32, seed=0, workers=1)
    recipe = {"faces": str(corpus / "faces"), "captions": str(corpus / "captions.jsonl"), "samples_per_shard": 5}
    recipe |= {"image": {"resolution": 32}}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    build(ShardRecipe(**recipe, out=str(tmp_path / "alone")), workers=1, progress=False)
    shared = tmp_path / "shared"
    job = cluster.submit(
        "--array=0-2", f"--output={tmp_path}/%a.log", "launch/slurm/shard.sbatch", str(path), f"--out={shared}"
    )
    deadline = time.monotonic() + 120
    while len(list((shared / ".build").glob("*"))) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    begun = time.monotonic()
    cluster.call("scontrol", "requeue", f"{job}_1")
    for task in range(3):
        assert cluster.wait(f"{job}_{task}")["JobState"] == "COMPLETED", (tmp_path / f"{task}.log").read_text()
    record("scontrol requeue of a share", "the same bytes", None, time.monotonic() - begun)
    assert cluster.job(f"{job}_1")["Restarts"] == "1"
    assert "start 2: part 1 of 3" in (tmp_path / "1.log").read_text()
    names = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert sorted(path.name for path in shared.iterdir()) == names
    for name in names:
        if name != "manifest.json":  # names --out
            assert (shared / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


@pytest.mark.slow
def test_the_last_task_of_an_array_comes_back_alone(cluster, tmp_path):
    """Its number is that of the whole array, too."""
    from t2f_dist.portraits.corpus import write_corpus
    from t2f_dist.shard.manifest import SPLITS, Manifest

    write_corpus(tmp_path / "corpus", num=2000, resolution=32, seed=0, workers=1)
    recipe = {"faces": str(tmp_path / "corpus" / "faces"), "captions": str(tmp_path / "corpus" / "captions.jsonl")}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe | {"samples_per_shard": 5, "image": {"resolution": 32}}))
    out = tmp_path / "shards"
    job = cluster.submit(
        "--array=0-1", f"--output={tmp_path}/%a.log", "launch/slurm/shard.sbatch", str(path), f"--out={out}"
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "1.log").exists() or len(list((out / ".build").glob("*"))) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    cluster.call("scancel", "--batch", "--signal=USR1", f"{job}_1")
    for task in range(2):
        assert cluster.wait(f"{job}_{task}")["JobState"] == "COMPLETED", (tmp_path / f"{task}.log").read_text()
    assert [cluster.job(f"{job}_{task}")["Restarts"] for task in range(2)] == ["0", "1"]
    assert "requeued: the task goes on" in (tmp_path / "1.log").read_text()
    assert sum(map(Manifest.load(out).num_samples, SPLITS)) == 2000
    record("SIGUSR1 to the last task of an array", "comes back alone, and finishes", None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("array", "option", "says"),
    [("3", "--workers=1", "T2F_PARTS"), ("0-1", "--overwrite", "begins anew"), ("0-1", "--part=1/8", "T2F_PARTS")],
)
def test_an_array_that_would_do_harm_is_refused(cluster, tmp_path, array, option, says):
    log = tmp_path / "job.log"
    job = cluster.submit(f"--array={array}", f"--output={log}", "launch/slurm/shard.sbatch", "recipe.yaml", option)
    task = f"{job}_{array[-1]}"
    assert cluster.wait(task)["JobState"] == "FAILED"
    assert says in log.read_text()
