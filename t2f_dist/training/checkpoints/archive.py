"""Where the checkpoints of a run stand, and which of them are whole: a local folder, or any URL.

A checkpoint is a folder `images-000000123456` with files of tensors and `state.json`, which holds the sha256 of each
file and a checksum of its own. It is written last: without it the checkpoint is not there, which also holds on stores
of objects, where nothing can be renamed. What is complete is never written over: of a moment that is there already, a
second checkpoint gets a name that ends in -2, and the first is removed when that one is safe.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from t2f_dist.config.load import read_yaml
from t2f_dist.config.schema import Config
from t2f_dist.storage import url
from t2f_dist.storage.folder import Entry, Folder, Patience
from t2f_dist.training.checkpoints.last_save import LastSave
from t2f_dist.training.checkpoints.retention import Kept, superfluous
from t2f_dist.training.checkpoints.stored import (
    STATE,
    STATE_BYTES_MAX,
    DamagedCheckpoint,
    Listed,
    Stored,
    grouped,
    named,
    parsed,
    sealed,
)

DAMAGED = "damaged.json"  # in the folder of a checkpoint that was found so
BLOCK_BYTES = 32 << 20  # of one reading
READINGS = 2  # before a checkpoint counts as damaged: a disk or a network may read wrong once
MARKER = ".archive-"  # begins the name of an empty file, by which a folder is known again; the rest is random

Warn = Callable[[str], None]
Progress = Callable[[int], object]

__all__ = ["DAMAGED", "Archive", "DamagedCheckpoint", "Listed"]


class Archive:
    """The checkpoints below one place. One process writes at a time, any number read.

    All methods raise OSError in one line where the place cannot be read or written, of another machine after some
    tries.

    Args:
        place: path or URL.
        keep: the newest so many always stay, at least 2.
        keep_hours: those that are younger stay too.
        clock: the time, in seconds since 1970.
        run: the folder of the run, into which is written what was saved last; None where nothing is to be.
    """

    def __init__(
        self,
        place: str | Path,
        keep: int = 2,
        keep_hours: float = 0.0,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.time,
        run: Path | None = None,
    ):
        assert keep >= 2
        self.folder = Folder(place, patience)
        self.keep, self.keep_hours = keep, keep_hours
        self.clock = clock
        self.run = run
        self._device: int | None = None  # of the disk on which a local folder lies
        self._marker: str | None = None  # a file in it, since `open`
        self._writing: str | None = None  # last
        self._damaged: set[str] = set()  # found so
        self._parts_done = 0  # since this was made
        self._unfinished: dict[str, tuple[Entry, ...]] = {}  # as they were when last looked at
        self._saved: dict[tuple[str, str], float | None] = {}  # by name and stamp of state.json

    @classmethod
    def of(cls, config: Config) -> Archive:
        """That of a run."""
        kept = config.checkpoint
        run = Path(config.run)
        return cls(kept.folder or run / "checkpoints", kept.keep, kept.keep_hours, run=run)

    @classmethod
    def named(cls, place: str | Path) -> Archive:
        """That of a run, by the run's folder, whose config.yaml says where it is; or by its own folder or URL.

        Raises ValueError where that file is none of a run.
        """
        path = url.local(place)
        if path is None:
            return cls(place)
        config = path / "config.yaml"
        if config.is_file():
            section = read_yaml(config).get("checkpoint")
            folder = section.get("folder") if isinstance(section, dict) else None
            return cls(str(folder) if folder else path / "checkpoints")
        return cls(path / "checkpoints" if (path / "checkpoints").is_dir() else path)

    def __str__(self) -> str:
        return str(self.folder)

    def at(self, name: str) -> str:
        return f"{self}/{name}"

    def open(self) -> None:
        """Before the first save: make a local folder, and see that it can be written to. One rank calls."""
        self.folder.make()
        if self.folder.is_local:
            probe = self.folder.path / ".probe"
            probe.touch()
            probe.unlink(missing_ok=True)
            self._know()
        else:
            self.folder.write(".probe", b"")
            self.folder.delete(".probe")

    def listed(self) -> list[Listed]:
        """All that is there, finished or not, damaged or not; the newest first. Nothing where there is no folder."""
        for _ in range(10):
            try:
                entries = self.folder.list("images-")
                folders = _subfolders(self.folder.path) if self.folder.is_local else []
                return grouped(entries, folders, DAMAGED)
            except FileNotFoundError:  # removed while it was listed
                if not self.folder.is_local:
                    raise
                if not self.folder.path.is_dir():
                    return []
        raise OSError(f"{self}: it changes while it is listed")

    def found(self) -> list[Listed]:
        """Those that are finished, and not known to be damaged; the newest first."""
        return [each for each in self.listed() if each.finished and not each.marked]

    def newest_valid(self, warn: Warn, progress: Progress | None = None) -> Stored | None:
        """The newest checkpoint whose files are what was written, with their bytes. One rank calls.

        `progress` is called with the bytes read since.

        Newer ones that are not, also when they are read again, are marked by a file damaged.json, so that they do not
        count as kept, and stay; `warn` gets a line of each. Where there is no other, the marked ones are read again,
        and of one that is whole the mark is removed. None where there never was one.

        Raises:
            ValueError: all are damaged, or the newest is of another version.
            OSError: it cannot be read. A run must not begin again in silence.
        """
        everything = self.listed()
        self._unfinished = {each.name: each.entries for each in everything if not each.finished}
        candidates = [each for each in everything if each.finished]
        for each in everything:
            if each.marked:
                continue
            if not each.finished:
                warn(f"checkpoint {self.at(each.name)} has no {STATE}: its writing was cut short, and it is skipped")
                continue
            try:
                return self.read(each.name, READINGS, progress)
            except DamagedCheckpoint as error:
                self._damaged.add(each.name)  # also where it cannot be marked
                warn(f"checkpoint {self.at(each.name)} is damaged and skipped: {error}; {self._mark(each.name, error)}")
        for each in candidates:
            if each.marked:
                with suppress(DamagedCheckpoint):
                    found = self.read(each.name, progress=progress)
                    warn(
                        f"checkpoint {self.at(each.name)} was marked as damaged, and is whole now: its mark is removed"
                    )
                    with suppress(OSError):
                        self.folder.delete(f"{each.name}/{DAMAGED}")
                    return found
        if candidates:
            raise ValueError(
                f"all {len(candidates)} checkpoints in {self} are damaged: name another folder with --run"
                " (t2f-dist checkpoints says what is wrong with each)"
            )
        return None

    def read(self, name: str, tries: int = 1, progress: Progress | None = None) -> Stored:
        """A checkpoint, read and checked in one go; where it is found damaged, again, `tries` times in all.

        Raises DamagedCheckpoint, and ValueError where it is of another version.
        """
        for _ in range(tries - 1):
            with suppress(DamagedCheckpoint):
                return self.read(name, progress=progress)
        body = self.body(name)
        files = {file: self._checked(name, file, sha, True, progress) for file, sha in body["files"].items()}
        return Stored(name, body, files)

    def verify(self, name: str, progress: Progress | None = None) -> dict[str, Any]:
        """As `read`, of any size in little memory: state.json. `progress` is called with the bytes read since."""
        body = self.body(name)
        for file, sha256 in body["files"].items():
            self._checked(name, file, sha256, False, progress)
        return body

    def body(self, name: str) -> dict[str, Any]:
        """state.json, checked by itself alone. Raises as `read`."""
        try:
            content = self.folder.read(f"{name}/{STATE}", bytes_max=STATE_BYTES_MAX)
        except FileNotFoundError:
            raise DamagedCheckpoint(f"{STATE} is missing") from None
        except ValueError as error:  # it is longer
            raise DamagedCheckpoint(f"{STATE}: {error}") from None
        return parsed(content, name, self.at(name))

    def write(self, images: int, files: Mapping[str, memoryview], body: dict[str, Any], warn: Warn) -> str:
        """Write a checkpoint, safe against a loss of power when this returns; its name. One rank calls.

        `warn` gets a line where the folder had vanished. Raises OSError, also where another disk lies there than
        before; of what failed, nothing is left that counts.
        """
        self._find_again(warn)
        digests = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        name, done = self._free_name(images, digests)
        if done:
            return name
        sizes = {file: content.nbytes for file, content in files.items()}
        try:
            for file, content in files.items():
                self._writing = name
                self.folder.write(f"{name}/{file}", content, self._arrived)
            self._sync(name)
            self._sync()
            state = {"files": digests, "bytes": sizes, "saved": self.clock(), **body}
            self.folder.write(f"{name}/{STATE}", sealed(state), self._arrived)
            self._sync(name)
        except BaseException:
            with suppress(OSError):
                self.delete(name)
            raise
        self._note(images, warn)
        return name

    def _note(self, images: int, warn: Warn) -> None:
        if self.run is None:
            return
        try:
            LastSave(images, str(self)).write(self.run)
        except OSError as error:
            warn(f"that a checkpoint was saved at {images:,} images is not written down in {self.run} ({error})")

    def progress(self) -> tuple[int, ...]:
        """Numbers that change while a write gets on: parts that are done, and bytes of a local file so far."""
        if self._writing is not None and self.folder.is_local:
            with suppress(OSError), os.scandir(self.folder.path / self._writing) as entries:
                return (self._parts_done, sum(entry.stat().st_size for entry in entries))
        return (self._parts_done,)

    def _arrived(self, num_bytes: int) -> None:
        self._parts_done += 1

    def prune(self) -> None:
        """Remove what retention does not keep, and what killed saves left unfinished. One rank calls, while none saves.

        The unfinished of another process may be in the making: it goes where it is still as it was when it was looked
        at before.
        """
        everything = self.listed()
        unfinished = {each.name: each.entries for each in everything if not each.finished and not each.marked}
        for name, entries in unfinished.items():
            if self._unfinished.get(name) == entries:
                self.delete(name)
        self._unfinished = unfinished
        kept = [each for each in everything if each.finished and not each.marked and each.name not in self._damaged]
        for name in superfluous([self._kept(each) for each in kept], self.keep, self.keep_hours, self.clock()):
            self.delete(name)

    def delete(self, name: str) -> None:
        """Remove a checkpoint, state.json first: what is left of a removal that is cut short is none."""
        self.folder.delete(f"{name}/{STATE}")
        if self.folder.is_local:
            shutil.rmtree(self.folder.path / name, ignore_errors=True)
            return
        for entry in self.folder.list(f"{name}/"):
            self.folder.delete(entry.name)

    def _kept(self, each: Listed) -> Kept:
        saved: float | None = None
        if self.keep_hours:
            key = (each.name, next(entry.stamp for entry in each.entries if entry.name.endswith(f"/{STATE}")))
            if key not in self._saved:
                try:
                    self._saved[key] = self.body(each.name).get("saved")
                except ValueError:  # damaged since, or of another version: kept by count alone
                    self._saved[key] = None
            saved = self._saved[key]
        return Kept(each.name, each.images, saved)

    def _free_name(self, images: int, digests: dict[str, str]) -> tuple[str, bool]:
        """A name for a checkpoint, and whether it stands there already, to the bit."""
        same = [each for each in self.listed() if each.images == images]
        for each in same:
            if each.finished and not each.marked:
                with suppress(ValueError):
                    if self.verify(each.name)["files"] == digests:
                        return each.name, True
        name = named(images, 1 + max((each.attempt for each in same if each.finished or each.marked), default=0))
        if any(each.name == name for each in same):  # of a save that was killed
            self.delete(name)
        return name, False

    def _mark(self, name: str, error: Exception) -> str:
        """Note in the folder of a checkpoint that it is damaged; what can be said of that."""
        note = json.dumps({"reason": str(error), "found": self.clock()}, indent=1).encode()
        try:
            self.folder.write(f"{name}/{DAMAGED}", note)
        except OSError as failure:
            return f"it could not be marked so ({failure})"
        return f"it is kept, with a note {DAMAGED}"

    def _checked(self, name: str, file: str, sha256: str, keep: bool, progress: Progress | None = None) -> bytes:
        """The bytes of a file, or none without `keep`, after their sha256 was found to be the right one."""
        digest, content = hashlib.sha256(), io.BytesIO()
        try:
            for block in self._blocks(f"{name}/{file}"):
                digest.update(block)
                if keep:
                    content.write(block)
                if progress:
                    progress(len(block))
        except FileNotFoundError:
            raise DamagedCheckpoint(f"{file} is missing") from None
        if digest.hexdigest() != sha256:
            raise DamagedCheckpoint(f"{file} does not match its checksum")
        return content.getvalue()

    def _blocks(self, file: str) -> Iterator[bytes]:
        start = 0
        while block := self.folder.read(file, start, BLOCK_BYTES):
            yield block
            start += len(block)
            if len(block) < BLOCK_BYTES:
                return

    def _know(self) -> None:
        """Note by what a local folder is known again."""
        path = self.folder.path
        there = next((name for name in sorted(os.listdir(path)) if name.startswith(MARKER)), None)
        self._marker = there or MARKER + secrets.token_hex(8)
        if there is None:
            (path / self._marker).touch()
        self._device = os.stat(path).st_dev

    def _find_again(self, warn: Warn) -> None:
        """See that a local folder is where it was. Raises OSError where another disk is there in its place.

        A disk that was mounted again may have another number, and has the marker; a folder that was removed has lost
        the marker, and is on the disk on which it was.
        """
        if not self.folder.is_local:
            return
        path = self.folder.path
        if self._marker is None:  # not opened: nothing is known of before
            self.folder.make()
            return
        if (path / self._marker).exists():
            self._device = os.stat(path).st_dev
            return
        above = path
        while not above.exists() and above != above.parent:
            above = above.parent
        if os.stat(above).st_dev != self._device:
            raise OSError(f"{path} is on another disk than when the run began: its own was unmounted; mount it again")
        if above != path:
            warn(f"the folder {path} has vanished, with the checkpoints in it; it is made again")
            self.folder.make()
        self._know()

    def _sync(self, name: str = "") -> None:
        """Make the names in a local folder safe against a loss of power."""
        if not self.folder.is_local:
            return
        descriptor = os.open(self.folder.path / name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _subfolders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.name for entry in entries if entry.is_dir()]
