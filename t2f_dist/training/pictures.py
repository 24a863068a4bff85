"""The same captions with the same noise, drawn again and again as training goes on: one row a caption."""

from __future__ import annotations

from PIL import Image

from t2f_dist.config.schema import Config
from t2f_dist.data.dataset import Samples
from t2f_dist.data.loader import open_samples
from t2f_dist.models.grid import grid
from t2f_dist.models.snapshot import draw
from t2f_dist.text.vocabulary import UNKNOWN
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Phase


class Pictures:
    """Captions are of the validation split, or of the training split where that is empty."""

    def __init__(self, config: Config, samples: Samples):
        held_out = "validation" if samples.manifest.num_samples("validation") else config.data.split
        source = open_samples(config, held_out)
        self.config = config
        self.captions = source.some_captions(config.log.grid_captions)
        vocabulary = source.vocabulary
        self.tokens = [vocabulary.encode(text, config.data.max_words) or [UNKNOWN] for text in self.captions]
        source.close()

    def draw(self, gan: Gan, phase: Phase) -> Image.Image | None:
        """The moving average's faces; None where the shards hold no caption."""
        if not self.captions:
            return None
        columns = self.config.log.grid_images
        tokens = [row for row in self.tokens for _ in range(columns)]
        noise = list(range(columns)) * len(self.tokens)
        images = draw(gan.generator_ema, self.config, tokens, noise, phase.resolution, phase.alpha)
        return grid(images, self.captions)
