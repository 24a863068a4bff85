"""Shards -> batches. The state of the stream is one integer, the images seen; all else is a function of position."""
