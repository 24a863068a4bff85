"""The training loop, to be read from top to bottom."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

from t2f_dist.config.load import dump
from t2f_dist.config.schema import Config
from t2f_dist.data.batch import Damage
from t2f_dist.data.dataset import Samples
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.models import snapshot
from t2f_dist.models.grid import grid
from t2f_dist.training import checkpoint, status
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Growth, due, num_micro_batches
from t2f_dist.training.log import Log
from t2f_dist.training.meter import Meter, Report
from t2f_dist.training.ranks import Agreement, Ranks
from t2f_dist.training.resume import resume
from t2f_dist.training.step import train_step

MIN_DAMAGED = 10  # a few damaged samples end no run, however short


def train(config: Config, ranks: Ranks) -> bool:
    """Train to the end, or to a signal. Returns whether the end was reached. All ranks call it.

    Raises ValueError, with one line to act on, where the configuration does not fit the shards, the launch or the
    run's folder; and where the data is too damaged or a loss is no longer a number.
    """
    run = Path(config.run)
    agreement = Agreement(ranks)
    growth = Growth(config.stages)
    samples = open_samples(config)
    for stage in config.stages:
        num_micro_batches(config, stage.batch_size, ranks.world_size)  # refuses an illegal launch before any work
    gan = Gan(config, len(samples.vocabulary), ranks.device, ranks.world_size)
    lock = _lock(run, ranks)
    images_seen = resume(run, gan, config, samples.manifest.fingerprint, ranks)
    log = Log(run, config, images_seen) if ranks.is_main else None
    pictures = _Pictures(config, samples) if ranks.is_main else None
    if log:
        (run / "config.yaml").write_text(dump(config))
        status.write(run, "running", "training", images_seen=images_seen, total_images=config.total_images)
        log.say(f"{'resuming at' if images_seen else 'starting at'} {images_seen:,} images, in {run}")
    meter = Meter(ranks)
    stream = batches(
        samples,
        growth.steps(images_seen),
        ranks.rank,
        ranks.world_size,
        config.data.num_workers,
        pin_memory=ranks.device.type == "cuda",
    )
    stopped_by = None
    while images_seen < growth.total_images:
        phase = growth.at(images_seen)
        size = phase.batch_size
        if stopped_by := agreement.stop(images_seen, phase):
            break
        with meter.waiting():
            batch = next(stream)
        with meter.working():
            num_parts = num_micro_batches(config, size, ranks.world_size)
            metrics = train_step(gan, batch, phase, images_seen, num_parts)
            gan.update_ema(images_seen, size)
        meter.add(metrics, size)
        if batch.damage:
            meter.num_damaged += len(batch.damage)
            _record_damage(run, batch.damage, ranks.rank)
        last = images_seen + size >= growth.total_images
        if due(config.log.every_images, images_seen, size) or last:
            report = meter.report()  # all ranks: one reduction
            _check(report, images_seen, config)
            if log:
                log.write(images_seen + size, phase, report)
                status.write(run, "running", "training", images_seen=images_seen + size)
        if log and pictures and (due(config.log.grid_every_images, images_seen, size) or last):
            log.picture(images_seen + size, pictures.draw(gan, phase.resolution, phase.alpha), pictures.captions)
        if ranks.is_main and (due(config.snapshot.every_images, images_seen, size) or last):
            _save_snapshot(run, gan, config, samples, images_seen + size, phase.resolution, phase.alpha)
        images_seen += size
        if due(config.checkpoint.every_images, images_seen - size, size) or last:
            _save_checkpoint(run, gan, config, samples, images_seen, ranks)
    if stopped_by:
        _save_checkpoint(run, gan, config, samples, images_seen, ranks)
    if log:
        if stopped_by:
            status.write(run, "preempted", f"{stopped_by} received", images_seen=images_seen)
            log.say(f"{stopped_by}: saved at {images_seen:,} images; the same command goes on from here")
        else:
            status.write(run, "finished", "all images shown", images_seen=images_seen)
            log.say(f"finished: {images_seen:,} images; snapshot {snapshot.newest(run)}")
        log.close(exit_code=0)
    del stream  # ends the loader processes
    gan.release()
    samples.close()
    agreement.close()
    if lock:
        lock.close()
    return not stopped_by


class _Pictures:
    """The same captions with the same noise, drawn again and again as training goes on: one row a caption."""

    def __init__(self, config: Config, samples: Samples):
        held_out = "validation" if samples.manifest.num_samples("validation") else config.data.split
        source = open_samples(config, held_out)
        self.config = config
        self.captions = source.some_captions(config.log.grid_captions)
        self.tokens = [source.vocabulary.encode(text, config.data.max_words) or [1] for text in self.captions]
        source.close()

    def draw(self, gan: Gan, resolution: int, alpha: float):
        columns = self.config.log.grid_images
        tokens = [row for row in self.tokens for _ in range(columns)]
        noise = list(range(columns)) * len(self.tokens)
        images = snapshot.draw(gan.drawer_ema, self.config, tokens, noise, resolution, alpha)
        return grid(images, self.captions)


def _lock(run: Path, ranks: Ranks):
    """The folder is this run's until its file is closed, also by a kill: two runs in one folder would mix.

    Rank 0 holds it. Raises ValueError, on all ranks, where another process does.
    """
    file = None
    if ranks.is_main:
        run.mkdir(parents=True, exist_ok=True)
        file = open(run / ".lock", "a")  # noqa: SIM115 - held for the whole run
        try:
            # A record lock: unlike flock's, it is not inherited by loader processes, which may outlive a killed rank.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            file = None
    if not ranks.broadcast(int(file is not None)):
        raise ValueError(
            f"{run} is in use by another run: wait for it, or name another folder with --run (if you meant several"
            " ranks, they do not see each other: start them with accelerate launch --config_file launch/....yaml)"
        )
    return file


def _check(report: Report, images_seen: int, config: Config) -> None:
    """Raise where it makes no sense to go on; all ranks have the same report, so all raise."""
    for name, value in report.means.items():
        if value != value or abs(value) == float("inf"):
            raise ValueError(f"{name} is {value} after {images_seen:,} images: lower the learning rates")
    limit = max(MIN_DAMAGED, config.data.max_damaged_fraction * images_seen)
    if report.num_damaged > limit:
        raise ValueError(
            f"{report.num_damaged} damaged samples were replaced by {images_seen:,} images, more than"
            f" data.max_damaged_fraction {config.data.max_damaged_fraction} allows: see damaged.jsonl in the run's"
            f" folder, and run t2f-dist verify {config.data.shards}"
        )


def _record_damage(run: Path, damage: tuple[Damage, ...], rank: int) -> None:
    """One short append a line is atomic, so that all ranks may write to one file."""
    with open(run / "damaged.jsonl", "a", encoding="utf-8") as file:
        for item in damage:
            file.write(json.dumps({**item._asdict(), "rank": rank}) + "\n")


def _save_snapshot(
    run: Path, gan: Gan, config: Config, samples: Samples, images_seen: int, resolution: int, alpha: float
) -> None:
    folder = run / "snapshots"
    taken = snapshot.Snapshot(gan.drawer_ema, config, samples.vocabulary.to_json(), images_seen, resolution, alpha)
    snapshot.save(folder / f"images-{images_seen:012d}.safetensors", taken)
    for old in sorted(folder.glob("images-*.safetensors"))[: -config.snapshot.keep]:
        old.unlink()


def _save_checkpoint(run: Path, gan: Gan, config: Config, samples: Samples, images_seen: int, ranks: Ranks) -> None:
    if ranks.is_main:
        state = checkpoint.State(images_seen, samples.manifest.fingerprint, config.model_dump(mode="json"))
        checkpoint.save(run / "checkpoints", gan, state, config.checkpoint.keep)
    ranks.barrier()
