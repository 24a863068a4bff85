"""Work that is shared out: tasks, what does them, and what became of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


class Task(Protocol):
    """One piece of work: a shard to write, a tar to index. Picklable."""

    @property
    def name(self) -> str: ...
    @property
    def num_images(self) -> int:
        """0 where that is not known before."""
        ...


class Maker(Protocol):
    """What does the work, in the process that does it."""

    def make(self, task: Any, advance: Callable[[], None]) -> None:
        """`advance()` is called after each image. Raises ValueError, OSError, MemoryError as `fault` takes them."""
        ...


class Job(Protocol):
    """What all tasks have in common; small and picklable, so that it goes to every worker."""

    def open(self) -> Maker: ...


@runtime_checkable
class SentJob(Job, Protocol):
    """One that other machines can work on too."""

    @property
    def is_relative(self) -> bool:
        """Whether some of its places are relative to the folder that the command was given in."""
        ...

    def check(self) -> None:
        """On another machine. Raises OSError where that does not see the files that it is to work on."""
        ...


@dataclass(frozen=True)
class Done:
    """A shard that is made, and has its record."""

    name: str


@dataclass(frozen=True)
class Failed:
    """A shard that could not be made, and why.

    Attributes:
        tries: how often it was tried.
    """

    name: str
    reason: str
    tries: int

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}{f' ({self.tries} tries)' if self.tries > 1 else ''}"


@dataclass(frozen=True)
class Fault:
    """What was raised in a worker; small and plain, whatever it was.

    Attributes:
        refusal: the corpus does not fit the recipe, so that no shard is worth making.
        again: it may go better another time.
    """

    reason: str
    refusal: bool = False
    again: bool = False


def fault(error: Exception) -> Fault:
    """What an exception means for the build."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError):
        if error.strerror:
            text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        return Fault(text, again=True)
    if isinstance(error, MemoryError):
        return Fault("not enough memory: use fewer --workers", again=True)
    if isinstance(error, ValueError):
        return Fault(text, refusal=True)
    return Fault(f"{type(error).__name__}: {text}")
