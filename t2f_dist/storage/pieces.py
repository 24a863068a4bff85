"""What is in memory, read piece by piece."""

from dataclasses import dataclass


@dataclass
class Pieces:
    """What is in memory, read as a file is, without a copy of the whole."""

    content: memoryview
    start: int = 0

    def read(self, length: int) -> bytes:
        self.start += length
        return bytes(self.content[self.start - length : self.start])

    def __enter__(self) -> "Pieces":
        return self

    def __exit__(self, *_: object) -> None:
        self.content.release()
