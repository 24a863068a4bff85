"""Randomness keyed by position: the same numbers for a position on any rank, in any worker, after any restart.

Philox is a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): its key is
(seed, stream) and its counter starts at the position, so that no state is carried from one position to the next.
"""

from __future__ import annotations

import threading
from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What is drawn. Each has its own numbers, so a new one never shifts the others: append, never renumber."""

    SHARDS = 0  # order of the shards, by epoch
    WINDOW = 1  # order of the samples within a window of shards, by epoch and window
    CAPTION = 2
    MISMATCH = 3
    FLIP = 4
    Z = 5
    CONDITION = 6  # conditioning augmentation
    MIXING = 7  # between real and fake, for the gradient penalty
    SUBSTITUTE = 8  # for a damaged sample
    MODALITY = 9  # which modalities are withheld
    SPEECH = 10  # where in a long voice to listen
    DROPOUT = 11  # key of a sample's dropout masks
    AUGMENT = 12  # of what the discriminator sees
    LANES = 13  # which shards a lane owns
    BUFFER = 14  # which sample leaves the buffer of a stream of tars


class _OfThread(threading.local):
    """One generator a thread, set anew at each draw: to make one takes ten times as long as to draw from it."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(key=0)
        self.generator = np.random.Generator(self.bits)


_of_thread = _OfThread()
_NO_BUFFER = np.zeros(4, dtype=np.uint64)


def draw(seed: int, stream: Stream, position: int, part: int = 0, lane: int = 0) -> np.random.Generator:
    """The generator of a position (0 or more) in a stream; `part` numbers independent draws at one position.

    To be drawn from at once: the thread's next call sets the same generator anew.
    """
    _of_thread.bits.state = {  # pyright: ignore[reportAttributeAccessIssue]  # tuples do as well, and faster
        "bit_generator": "Philox",
        "state": {"counter": (0, position, part, lane), "key": (seed, stream)},
        "buffer": _NO_BUFFER,
        "buffer_pos": 4,  # used up
        "has_uint32": 0,
        "uinteger": 0,
    }
    return _of_thread.generator
