"""The training loop, to be read from top to bottom."""

from __future__ import annotations

import math
import multiprocessing

from t2f_dist.config.load import dump
from t2f_dist.config.schema import Config
from t2f_dist.data.dataset import Samples
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.models import snapshot
from t2f_dist.training import checkpoint, status
from t2f_dist.training.corpus import corpus, facts
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Growth, due, num_parts
from t2f_dist.training.held_out import HeldOut
from t2f_dist.training.log import Log
from t2f_dist.training.meter import Meter, Report
from t2f_dist.training.pictures import Pictures
from t2f_dist.training.ranks import Agreement, Ranks
from t2f_dist.training.resume import resume
from t2f_dist.training.run_folder import RunFolder
from t2f_dist.training.step import train_step
from t2f_dist.training.warm_start import warm_start

MIN_DAMAGED = 10  # a few damaged samples end no run, however short


def train(config: Config, ranks: Ranks) -> bool:
    """Train to the end, or to a signal. Returns whether the end was reached. All ranks call it.

    Raises ValueError, with one line to act on, where the configuration does not fit the shards, the launch or the
    run's folder; and where the data is too damaged or a loss is no longer a number.
    """
    ranks.check_same(dump(config), "configurations")
    folder = RunFolder(config, ranks)
    agreement = Agreement(ranks)
    others = set(multiprocessing.active_children())  # of whoever called
    try:
        finished = _train(config, ranks, folder, agreement)
        agreement.settle()
    except BaseException as error:
        folder.fail(error)
        raise
    finally:
        agreement.close()
        for child in set(multiprocessing.active_children()) - others:
            child.kill()  # a loader process that hangs must not outlive its rank
        folder.release()
    return finished


def _train(config: Config, ranks: Ranks, folder: RunFolder, agreement: Agreement) -> bool:
    growth = Growth(config.stages)
    parts = [num_parts(config, stage.batch_size, ranks.world_size) for stage in config.stages]
    samples = open_samples(config)
    ranks.check_same(samples.manifest.fingerprint, "shards")
    gan = Gan(config, facts(samples), ranks.device, ranks.world_size)
    images_seen = saved_at = first_images = resume(folder.path, gan, config, samples.manifest.fingerprint, ranks)
    begun_with = [] if images_seen else warm_start(gan, config, corpus(samples))
    if images_seen >= growth.total_images:
        return _already_finished(folder, images_seen, ranks)
    log = Log(folder.path, config, images_seen) if ranks.is_main else None
    pictures = Pictures(config, samples) if log else None
    held_out = HeldOut(config, samples) if log else None
    if log:
        folder.begin()
        log.say(f"{'resuming at' if images_seen else 'starting at'} {images_seen:,} images, in {folder.path}")
        for line in begun_with:
            log.say(line)
        if images_seen and samples.note:
            log.say(samples.note)
    meter = Meter(ranks)
    steps = growth.steps(images_seen)
    on_gpu = ranks.device.type == "cuda"
    stream = batches(samples, steps, ranks.rank, ranks.world_size, config.data.num_workers, pin_memory=on_gpu)
    stopped = None
    try:
        while images_seen < growth.total_images:
            phase = growth.at(images_seen)
            size = phase.batch_size
            if stopped := agreement.stop(images_seen, phase):
                break
            if gan.enter(phase) and log:
                log.say(f"{phase.resolution} px{', fading in' if phase.fading else ''}: {gan.describe()}")
            with meter.waiting():
                batch = next(stream)
            with meter.working():
                metrics = train_step(gan, batch, phase, images_seen, parts[phase.stage])
                gan.update_ema(images_seen, size)
            meter.add(metrics, size)
            if batch.damage:
                meter.num_damaged += len(batch.damage)
                folder.record_damage(batch.damage, ranks.rank)
            before, images_seen = images_seen, images_seen + size
            last = images_seen >= growth.total_images
            if due(config.log.every_images, before, size) or last:
                report = meter.report()  # all ranks: one reduction
                _check(report, images_seen, images_seen - first_images, config, samples.remedy)
                if log and held_out:
                    log.write(images_seen, phase, report, held_out.scores(gan, phase))
                    status.write(folder.path, "running", "training", images_seen=images_seen)
            if log and pictures and (due(config.log.grid_every_images, before, size) or last):
                log.picture(images_seen, pictures.draw(gan, phase), pictures.labels)
            if ranks.is_main and (due(config.snapshot.every_images, before, size) or last):
                folder.save_snapshot(gan, corpus(samples), images_seen, phase)
            if due(config.checkpoint.every_images, before, size) or last:
                saved_at = _save(folder, gan, config, samples, images_seen, ranks)
        if stopped:
            if saved_at != images_seen:
                _save(folder, gan, config, samples, images_seen, ranks)
            _say_stopped(folder, log, stopped, images_seen)
        elif log:
            status.write(folder.path, "finished", "all images shown", images_seen=images_seen)
            log.say(f"finished: {images_seen:,} images; snapshot {snapshot.newest(folder.path)}")
    except BaseException:
        if log:
            log.close(exit_code=1)
        raise
    finally:
        stream.close()  # ends the loader processes
        gan.release()
        samples.close()
        if held_out:
            held_out.close()
    if log:
        log.close(exit_code=0)
    return not stopped


def _already_finished(folder: RunFolder, images_seen: int, ranks: Ranks) -> bool:
    if ranks.is_main:
        status.write(folder.path, "finished", "all images shown", images_seen=images_seen)
        print(f"already finished: {images_seen:,} images; snapshot {snapshot.newest(folder.path)}", flush=True)
    return True


def _say_stopped(folder: RunFolder, log: Log | None, reason: str, images_seen: int) -> None:
    if log:
        status.write(folder.path, "preempted", reason, images_seen=images_seen)
        log.say(f"{reason}: saved at {images_seen:,} images; the same command goes on from here")


def _check(report: Report, images_seen: int, images_read: int, config: Config, remedy: str) -> None:
    """Raise where it makes no sense to go on; all ranks have the same report, so all raise.

    remedy: what to do where many samples are damaged.
    """
    for name, value in report.means.items():
        if not math.isfinite(value):
            raise ValueError(
                f"{name} is {value} after {images_seen:,} images: start anew in another folder (--run) with lower"
                " learning rates"
            )
        if name.startswith("skipped_steps") and value == 1:
            raise ValueError(f"all steps overflowed in fp16 by {images_seen:,} images: use train.precision bf16")
    limit = max(MIN_DAMAGED, config.data.max_damaged_fraction * images_read)
    if report.num_damaged > limit:
        raise ValueError(
            f"{report.num_damaged} of {images_read:,} samples read were damaged and replaced, more than"
            f" data.max_damaged_fraction {config.data.max_damaged_fraction} allows: see damaged-*.jsonl in the run's"
            f" folder, and {remedy}"
        )


def _save(folder: RunFolder, gan: Gan, config: Config, samples: Samples, images_seen: int, ranks: Ranks) -> int:
    """Write a checkpoint; all ranks wait for it. Returns the images seen."""
    checkpoint.check_finite(gan, images_seen)
    if ranks.is_main:
        state = checkpoint.State(images_seen, samples.manifest.fingerprint, config.model_dump(mode="json"))
        checkpoint.save(folder.path / "checkpoints", gan, state, config.checkpoint.keep)
    ranks.barrier()
    return images_seen
