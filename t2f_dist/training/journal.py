"""What the main rank writes down while a run goes: figures, alerts, pictures, snapshots."""

from __future__ import annotations

from t2f_dist.config.schema import Config
from t2f_dist.data.dataset import Samples
from t2f_dist.training.corpus import corpus
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Phase
from t2f_dist.training.held_out import HeldOut
from t2f_dist.training.log import Log
from t2f_dist.training.meter import Report
from t2f_dist.training.pictures import Pictures
from t2f_dist.training.run_folder import RunFolder


class Journal:
    """Of one launch, from the images it began at. Main rank only."""

    def __init__(self, folder: RunFolder, config: Config, samples: Samples, images_seen: int):
        self.folder = folder
        self.corpus = corpus(samples)
        self.log = Log(folder.path, config, images_seen)
        self.pictures = Pictures(config, samples)
        self.held_out = HeldOut(config, samples)

    def say(self, line: str) -> None:
        self.log.say(line)

    def write(self, gan: Gan, phase: Phase, images_seen: int, report: Report) -> None:
        """One log line in each place."""
        self.log.write(images_seen, phase, report, self.held_out.scores(gan, phase))
        self.folder.note("running", "training", images_seen=images_seen)

    def draw(self, gan: Gan, phase: Phase, images_seen: int) -> None:
        """A grid of faces."""
        self.log.picture(images_seen, self.pictures.draw(gan, phase), self.pictures.labels)

    def take_snapshot(self, gan: Gan, phase: Phase, images_seen: int) -> None:
        self.folder.save_snapshot(gan, self.corpus, images_seen, phase)

    def close(self, exit_code: int) -> None:
        self.held_out.close()
        self.log.close(exit_code)
