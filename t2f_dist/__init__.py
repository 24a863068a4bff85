"""t2f-dist: distributed training of progressive GANs that draw a face from a caption, a voice, or both."""

__version__ = "0.1.0"
