"""What the main rank writes down while a run goes: figures, alerts, pictures, snapshots."""

from __future__ import annotations

from typing import Literal

from t2f_dist.config.schema import Config
from t2f_dist.data.dataset import Samples
from t2f_dist.training.checkpoints.saver import Saver
from t2f_dist.training.corpus import corpus
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Phase
from t2f_dist.training.run.health import Health
from t2f_dist.training.run.held_out import HeldOut
from t2f_dist.training.run.log import Log
from t2f_dist.training.run.meter import Report
from t2f_dist.training.run.pictures import Pictures
from t2f_dist.training.run.run_folder import RunFolder


class Journal:
    """Of one launch, from the images it began at. Main rank only."""

    def __init__(self, folder: RunFolder, config: Config, samples: Samples, images_seen: int):
        self.folder = folder
        self.corpus = corpus(samples)
        self.log = Log(folder.path, config, images_seen)
        self.pictures = Pictures(config, samples)
        self.held_out = HeldOut(config, samples)
        self.health = Health()

    def say(self, line: str) -> None:
        self.log.say(line)

    def begin(self, images_seen: int, lines: list[str]) -> None:
        """Training starts, goes on, or goes back to where it was."""
        self.log.back_to(images_seen)
        self.say(f"{'resuming at' if images_seen else 'starting at'} {images_seen:,} images, in {self.folder.path}")
        for line in filter(None, lines):
            self.say(line)

    def alert(self, title: str, text: str, level: Literal["WARN", "ERROR"]) -> None:
        """What somebody should look at."""
        self.log.alert(title, text, level)

    def write(self, gan: Gan, phase: Phase, images_seen: int, report: Report, saver: Saver | None) -> None:
        """One log line in each place."""
        figures = self.held_out.scores(gan, phase)
        if saver and saver.write_seconds:
            figures |= {
                "checkpoint/pause_seconds": saver.pause_seconds,
                "checkpoint/write_seconds": saver.write_seconds,
            }
        self.log.write(images_seen, phase, report, figures)
        self.folder.note("running", "training", images_seen=images_seen)
        for alert in self.health.see(report, images_seen):
            self.alert(*alert)

    def draw(self, gan: Gan, phase: Phase, images_seen: int) -> None:
        """A grid of faces."""
        self.log.picture(images_seen, self.pictures.draw(gan, phase), self.pictures.labels)

    def take_snapshot(self, gan: Gan, phase: Phase, images_seen: int) -> None:
        self.folder.save_snapshot(gan, self.corpus, images_seen, phase)

    def close(self, exit_code: int) -> None:
        self.held_out.close()
        self.log.close(exit_code)
