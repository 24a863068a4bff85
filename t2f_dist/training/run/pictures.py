"""Faces for the same few conditions, drawn again and again as training goes on: one row a condition."""

from __future__ import annotations

from PIL import Image

from t2f_dist.config.schema import Config
from t2f_dist.data.batch import collate_condition
from t2f_dist.data.dataset import Samples
from t2f_dist.data.loader import open_samples
from t2f_dist.models.grid import grid
from t2f_dist.models.snapshot import draw
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Phase


class Pictures:
    """Conditions are of the validation split, or of the training split where that has none that are whole."""

    def __init__(self, config: Config, samples: Samples):
        self.config = config
        # Without noise all faces of a condition are the same.
        self.columns = config.log.grid_images if config.generator.z_size or config.noise_size else 1
        self.inputs = {}
        self.labels = ["no condition"]
        if not config.condition.modalities:
            return
        held_out = bool(samples.manifest.num_samples("validation")) and config.condition.identity is None
        source = open_samples(config, "validation" if held_out else config.data.split)
        found = source.examples(config.log.grid_rows)
        source.close()
        found = found or samples.examples(config.log.grid_rows)
        self.labels = [example.label for example in found]
        if found:
            self.inputs = collate_condition([example.condition for example in found for _ in range(self.columns)])

    def draw(self, gan: Gan, phase: Phase) -> Image.Image | None:
        """The moving average's faces; None where no sample has the whole condition."""
        if not self.labels:
            return None
        noise = list(range(self.columns)) * len(self.labels)
        images = draw(gan.generator_ema, self.config, self.inputs, noise, phase.resolution, phase.alpha)
        return grid(images, self.labels)
