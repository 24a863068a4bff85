"""t2f-dist: distributed training of progressive GANs that draw a face from what is said."""

__version__ = "0.1.0"
