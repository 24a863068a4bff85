"""The training loop, to be read from top to bottom."""

from __future__ import annotations

import multiprocessing
from functools import partial

import click

from t2f_dist.config.load import dump, recorded
from t2f_dist.config.schema import Config
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.models import snapshot
from t2f_dist.storage import url
from t2f_dist.training import fingerprint
from t2f_dist.training.checkpoints import checkpoint
from t2f_dist.training.checkpoints.archive import Archive
from t2f_dist.training.checkpoints.resume import resume
from t2f_dist.training.checkpoints.saver import Saver
from t2f_dist.training.checkpoints.warm_start import warm_start
from t2f_dist.training.corpus import corpus, facts
from t2f_dist.training.divergence import Diverged, Divergence
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Growth, due, num_parts
from t2f_dist.training.launch.bound import FETCHING
from t2f_dist.training.launch.ranks import LAUNCHER_KILLED, Agreement, Ranks
from t2f_dist.training.launch.watchdog import Watchdog
from t2f_dist.training.run.journal import Journal
from t2f_dist.training.run.meter import Meter, Report
from t2f_dist.training.run.run_folder import RunFolder
from t2f_dist.training.step import train_step

MIN_DAMAGED = 10  # a few damaged samples end no run, however short
ROLLBACKS_MAX = 3  # in a launch, each from a newer checkpoint than the one before


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
        if folder.ended == "preempted":
            return False
        if folder.ended == "failed":
            raise ValueError(f"not started again, for nothing was mended: {folder.reason}")
        with Watchdog(ranks, config.train.timeout_seconds, folder.path) as watchdog:
            finished = Training(config, ranks, folder, agreement, watchdog).run()
            agreement.settle()
            ranks.barrier()  # while the end is watched: a rank that does not come would be waited for in `leave`
    except BaseException as error:
        folder.fail(error)
        raise
    finally:
        agreement.close()
        for child in set(multiprocessing.active_children()) - others:
            child.kill()  # a loader process that hangs must not outlive its rank
        folder.release()
    return finished


class Training:
    """One launch of a run."""

    def __init__(self, config: Config, ranks: Ranks, folder: RunFolder, agreement: Agreement, watchdog: Watchdog):
        self.config, self.ranks, self.folder = config, ranks, folder
        self.agreement, self.watchdog = agreement, watchdog
        self.growth = Growth(config.stages)
        self.parts = [num_parts(config, stage.batch_size, ranks.world_size) for stage in config.stages]
        self.samples = open_samples(config)
        self.fingerprint = self.samples.manifest.fingerprint
        self.archive = Archive.of(config)
        self.journal: Journal | None = None  # of the main rank
        self.saver: Saver | None = None  # of the main rank
        self.saved_at = 0  # images of the newest checkpoint
        ranks.check_same(self.fingerprint, "shards")

    def run(self) -> bool:
        """Returns whether the end was reached."""
        try:
            finished = self._run()
        except BaseException:
            self._close(exit_code=1)
            raise
        self._close(exit_code=0)
        return finished

    def _run(self) -> bool:
        """Attempts, each from the newest checkpoint: another where the last one came to numbers that are none."""
        rolled_back_to = -1
        for _ in range(ROLLBACKS_MAX):
            try:
                return self._from_checkpoint()
            except Diverged as diverged:
                # What is computed again comes out the same, but for what a machine did wrong: once is worth it.
                if self.saved_at <= rolled_back_to:
                    raise
                rolled_back_to, told = self.saved_at, str(diverged)
            if self.journal:
                self.journal.alert("Back to the last checkpoint", told, "ERROR")
        return self._from_checkpoint()

    def _from_checkpoint(self) -> bool:
        """Returns whether the end was reached."""
        gan = Gan(self.config, facts(self.samples), self.ranks.device, self.ranks.world_size)
        try:
            images_seen = self._begin(gan)
            if images_seen >= self.growth.total_images:
                return self._already_finished(gan, images_seen)
            return not self._attempt(gan, images_seen)
        finally:
            gan.release()

    def _begin(self, gan: Gan) -> int:
        """Fill the networks from the newest checkpoint. Returns the images seen."""
        self.watchdog.enter("resuming", 0)
        beat = partial(self.watchdog.enter, "resuming", 0)
        images_seen = resume(self.archive, gan, self.config, self.fingerprint, self.ranks, beat)
        begun_with = [] if images_seen else warm_start(gan, self.config, corpus(self.samples))
        if self.ranks.is_main and images_seen < self.growth.total_images:
            if self.journal is None:
                patience = self.config.train.timeout_seconds / 2
                self.saver = Saver(self.archive, lambda line: click.echo(f"warning: {line}", err=True), patience)
                self.journal = Journal(self.folder, self.config, self.samples, images_seen)
                self.folder.begin()
            self.journal.begin(images_seen, [*begun_with, *([self.samples.note] if images_seen else [])])
        return images_seen

    def _attempt(self, gan: Gan, images_seen: int) -> str | None:
        """From a checkpoint to the end, or to a signal. Returns why it stopped before the end.

        Raises Diverged, on all ranks, where steps in a row came to no finite number.
        """
        config, ranks, folder, journal, growth = self.config, self.ranks, self.folder, self.journal, self.growth
        enter = self.watchdog.enter
        self.saved_at = first_images = images_seen
        to_save = False
        meter = Meter(ranks)
        divergence = Divergence(config.train.skipped_steps_max, ranks, self.samples)
        on_gpu = ranks.device.type == "cuda"
        waiting = FETCHING if self.samples.remote or url.local(config.data.shards) is None else "waiting for data"
        steps, num_workers = growth.steps(images_seen), config.data.num_workers
        stream = batches(self.samples, steps, ranks.rank, ranks.world_size, num_workers, pin_memory=on_gpu)
        stopped = None
        try:
            while images_seen < growth.total_images:
                phase = growth.at(images_seen)
                size = phase.batch_size
                enter("agreeing", images_seen)
                if stopped := self.agreement.stop(images_seen, phase):
                    break
                if gan.enter(phase) and journal:
                    journal.say(f"{phase.resolution} px{', fading in' if phase.fading else ''}: {gan.describe()}")
                enter(waiting, images_seen)
                with meter.waiting():
                    batch = next(stream)
                enter("training step", images_seen)
                with meter.working():
                    metrics = train_step(gan, batch, phase, images_seen, self.parts[phase.stage])
                    gan.update_ema(images_seen, size)
                divergence.watch(gan, batch, metrics, images_seen)
                meter.add(metrics, size)
                if batch.damage:
                    meter.num_damaged += len(batch.damage)
                    folder.record_damage(batch.damage, ranks.rank)
                before, images_seen = images_seen, images_seen + size
                last = images_seen >= growth.total_images
                if due(config.log.every_images, before, size) or last:
                    enter("logging", images_seen)
                    report = meter.report()  # all ranks: one reduction
                    _check(report, images_seen - first_images, config, self.samples.remedy)
                    if journal:
                        if waiting == FETCHING:
                            enter(waiting, images_seen)  # the samples whose scores are written may have to come
                        journal.write(gan, phase, images_seen, report, self.saver)
                if journal and (due(config.log.grid_every_images, before, size) or last):
                    enter("drawing the grid", images_seen)
                    journal.draw(gan, phase, images_seen)
                if journal and (due(config.snapshot.every_images, before, size) or last):
                    enter("taking a snapshot", images_seen)
                    journal.take_snapshot(gan, phase, images_seen)
                if due(config.train.fingerprint_every_images, before, size):
                    enter("comparing ranks", images_seen)
                    fingerprint.compare(gan, phase, images_seen, ranks)
                to_save |= due(config.checkpoint.every_images, before, size) or last
                if to_save and divergence.settle(gan):
                    self._save(gan, images_seen)
                    to_save = False
            if stopped and self.saved_at != images_seen and divergence.settle(gan):
                self._save(gan, images_seen)
            if not stopped and to_save:
                divergence.give_up(gan)  # the end is not worth keeping
            if self.saver:
                enter("saving a checkpoint", images_seen)
                self.saver.wait(lambda: enter("saving a checkpoint", images_seen))
        finally:
            stream.close()  # ends the loader processes
            if self.saver:
                enter("saving a checkpoint", images_seen)
                self.saver.close(lambda: enter("saving a checkpoint", images_seen))
        self._say_end(stopped, self.saved_at)
        return stopped

    def _save(self, gan: Gan, images_seen: int) -> None:
        """Take a checkpoint, which is then written beside the training.

        All ranks call: it is of ranks that are equal, and of weights that are numbers.
        """
        self.watchdog.enter("comparing ranks", images_seen)
        fingerprint.compare(gan, self.growth.at(images_seen), images_seen, self.ranks)
        checkpoint.check_finite(gan, images_seen)
        self.watchdog.enter("saving a checkpoint", images_seen)
        if self.saver:
            state = checkpoint.State(images_seen, self.fingerprint, recorded(self.config))
            self.saver.save(gan, state, lambda: self.watchdog.enter("saving a checkpoint", images_seen))
        self.saved_at = images_seen

    def _already_finished(self, gan: Gan, images_seen: int) -> bool:
        if self.ranks.is_main:
            self.folder.note("finished", "all images shown", images_seen=images_seen)
            if not self.folder.snapshot_path(images_seen).exists():  # a full disk may have refused it
                self.folder.save_snapshot(gan, corpus(self.samples), images_seen, self.growth.at(images_seen))
            print(f"already finished: {images_seen:,} images; {self._newest_snapshot()}", flush=True)
        return True

    def _say_end(self, stopped: str | None, images_seen: int) -> None:
        self.watchdog.enter("leaving", images_seen)
        self.folder.ending = True
        if self.journal and stopped:
            self.journal.log.preempting()
            # Who was told to stop is not started again in place; but another host's launcher that died told nobody.
            by = {"launcher": None} if stopped == LAUNCHER_KILLED else {}
            self.folder.note("preempted", stopped, images_seen=images_seen, **by)
            self.journal.say(f"{stopped}: saved at {images_seen:,} images; the same command goes on from here")
        elif self.journal:
            self.folder.note("finished", "all images shown", images_seen=images_seen)
            self.journal.say(f"finished: {images_seen:,} images; {self._newest_snapshot()}")

    def _newest_snapshot(self) -> str:
        try:
            return f"snapshot {snapshot.newest(self.folder.path)}"
        except FileNotFoundError:
            return "no snapshot could be written; free space, and the same command takes it from the checkpoint"

    def _close(self, exit_code: int) -> None:
        """Of the journal's end, wandb may take half a minute."""
        self.samples.close()
        if self.journal:
            self.journal.close(exit_code)


def _check(report: Report, images_read: int, config: Config, remedy: str) -> None:
    """Raise where more is damaged than is allowed; all ranks have the same report, so all raise.

    remedy: what to do about it.
    """
    limit = max(MIN_DAMAGED, config.data.max_damaged_fraction * images_read)
    if report.num_damaged > limit:
        raise ValueError(
            f"{report.num_damaged} of {images_read:,} samples read were damaged and replaced, more than"
            f" data.max_damaged_fraction {config.data.max_damaged_fraction} allows: see damaged-*.jsonl in the run's"
            f" folder, and {remedy}"
        )
