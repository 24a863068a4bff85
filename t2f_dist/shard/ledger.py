"""The folder `.build` of an unfinished build: what build it is, and a record for every shard that is done.

A record is written after the files of its shard stand under their names, so a shard with a record is whole, whatever
was killed when. The folder is removed after the manifest is written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NoReturn

from t2f_dist.shard.inventory import Inventory
from t2f_dist.shard.manifest import MANIFEST, SPLITS, Manifest, digest
from t2f_dist.shard.outcome import Outcome
from t2f_dist.storage import url
from t2f_dist.storage.folder import Entry, Folder

FOLDER = ".build"
PLAN = "plan.json"
CORPUS = "corpus.jsonl"
DUPLICATES = "duplicates.json"
_TRIES = 20
_THREADS = 16  # that read records, for folders that are far away
_AHEAD = 256  # records that are read at once: each may hold the words of a thousand captions

_OURS = re.compile(
    r"\.?((train|validation|test)-\d{6,}\.(tar|small|index\.npy)"
    r"|manifest\.json|vocabulary(-\d+)?\.json|(rejected|corpus)(-\d+)?\.jsonl)(\.([\w-]+\.)?tmp)?"
)
_OURS_INSIDE = re.compile(r"(plan|duplicates|(train|validation|test)-\d{6,})\.json|corpus\.jsonl")  # of FOLDER
_OF_NFS = re.compile(r"\.nfs[0-9a-f]+")  # what it keeps of a file that was removed while another machine read it
_CUT_OFF = re.compile(r"\.([\w.-]+)\.\d+-[0-9a-f]+\.tmp")  # as t2f_dist.storage.disk.replacing names them


class Superseded(ValueError):
    """Another build has taken the place of the one that a shard was made for."""


class Ledger:
    """Of the folder or URL that the shards go to."""

    def __init__(self, place: str):
        self.out = Folder(place)
        self.shown = str(self.out)
        self.folder = Folder(url.join(place, FOLDER))

    def names(self) -> dict[str, int]:
        """The files beside the manifest, with their sizes; those of this folder left out.

        Raises:
            FileExistsError: a file that is not ours, here or in this folder; or the place is a file.
        """
        if self.out.is_local and self.out.path.exists() and not self.out.path.is_dir():
            raise FileExistsError(f"{self.shown} is a file; --out is a folder")
        found = {}
        for entry in _listed(self.out):
            if _OF_NFS.fullmatch(entry.name.rpartition("/")[2]):
                continue
            inside = entry.name.startswith(f"{FOLDER}/")
            if not (_OURS_INSIDE.fullmatch(entry.name[len(FOLDER) + 1 :]) if inside else _OURS.fullmatch(entry.name)):
                raise FileExistsError(
                    f"{self.shown} holds {entry.name}, which is no shard; choose an empty or a new folder"
                )
            if not inside:
                found[entry.name] = entry.size
        return found

    def ours(self) -> dict[str, int]:
        """As `names`, once a build is under way: what others put beside ours in the meantime is left alone."""
        return {entry.name: entry.size for entry in _listed(self.out) if _OURS.fullmatch(entry.name)}

    def plan(self) -> dict[str, Any] | None:
        """What build is unfinished here; None where none is.

        Raises:
            ValueError: its file is damaged.
        """
        try:
            content = json.loads(self.folder.read(PLAN))
            return content if content["fingerprint"] == fingerprint(content) else self._damaged(PLAN)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            self._damaged(PLAN)

    def _damaged(self, name: str) -> NoReturn:
        raise ValueError(f"{self.shown}/{FOLDER}/{name} is damaged; begin again with --overwrite")

    def begin(self, plan: Mapping[str, Any], inventory: Inventory) -> None:
        """Say what build this is. What several processes write at once is the same."""
        self.out.make()
        self.folder.make()
        self.folder.write(CORPUS, inventory.lines(stamps=True))
        self.folder.write(PLAN, (json.dumps(plan, indent=1) + "\n").encode())

    def inventory(self) -> Inventory:
        """Of the corpus as it was when the build began."""
        return Inventory.parse(self.folder.read(CORPUS), f"{self.shown}/{FOLDER}/{CORPUS}")

    def duplicates(self, build: str) -> dict[str, str] | None:
        """What `keep_duplicates` wrote for this build; None where it has not, or it is damaged."""
        try:
            content = json.loads(self.folder.read(DUPLICATES))
            return content["duplicates"] if content["build"] == build else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def keep_duplicates(self, build: str, found: Mapping[str, str]) -> None:
        self.folder.write(DUPLICATES, json.dumps({"build": build, "duplicates": found}, sort_keys=True).encode())

    def record(self, name: str, build: str, outcome: Outcome) -> None:
        """Say that a shard is done: its files must stand where they are to stand.

        Where the build has been finished in the meantime, with this very shard, nothing needs to be said any more.

        Raises:
            Superseded: another build was begun or finished here since. The files of an unfinished one under these
                names are removed, since they may be ours now; it finds that they are missing before it ends.
        """
        plan = self.plan()
        finished = plan is None and self.out.size(MANIFEST) is not None
        if not finished and (plan is None or plan["fingerprint"] == build):
            self.folder.write(f"{name}.json", outcome.record(build))
            return
        if finished and self._holds(outcome):
            return
        if plan is not None and outcome.shard:
            for file in (outcome.shard.name, outcome.shard.index, outcome.shard.small):
                self.out.delete(file)
        raise Superseded(
            f"{self.shown} is not that of this build any more: another one was begun there, or the folder was changed,"
            " while it ran; run one command at a time, and `t2f-dist verify` what is there"
        )

    def _holds(self, outcome: Outcome) -> bool:
        """Whether this shard is among the finished ones."""
        manifest = Manifest.load(self.out.place)
        return outcome.shard is None or any(outcome.shard in manifest.shards(split) for split in SPLITS)

    def outcomes(self, names: Iterable[str], build: str) -> Iterator[Outcome | None]:
        """Of shards, in order; None of one that is not done, or was done by another build."""
        rest = iter(names)
        with ThreadPoolExecutor(1 if self.folder.is_local else _THREADS) as pool:
            while some := list(islice(rest, _AHEAD)):
                for content in pool.map(self._read, some):
                    yield Outcome.parse(content, build)

    def done(self, names: Iterable[str], build: str) -> set[str]:
        """Which of these shards are done: their records are there, and beside them files of the recorded sizes."""
        recorded = {entry.name for entry in _listed(self.folder)}
        asked = [name for name in names if f"{name}.json" in recorded]
        sizes = self.ours() if asked else {}
        found = set()
        for name, outcome in zip(asked, self.outcomes(asked, build)):
            if outcome is not None and outcome.stands(sizes):
                found.add(name)
        return found

    def _read(self, name: str) -> bytes:
        try:
            return self.folder.read(f"{name}.json")
        except FileNotFoundError:
            return b""

    def empty(self) -> None:
        """Remove all of ours but the plan that was begun. The manifest goes first: without it nothing is finished."""
        self.out.delete(MANIFEST)
        self.clear_cut_off()
        self.clear(keep=(PLAN, CORPUS))
        for name in self.ours():
            self.out.delete(name)

    def clear(self, keep: Iterable[str] = ()) -> None:
        """Remove this folder, the plan last: without it the records mean nothing."""
        names = (entry.name for entry in _listed(self.folder) if _OURS_INSIDE.fullmatch(entry.name))
        for name in sorted(names, key=lambda name: name == PLAN):
            if name not in keep:
                self.folder.delete(name)
        if not keep and self.folder.is_local and self.folder.path.is_dir():
            try:
                os.rmdir(self.folder.path)
            except OSError:
                return  # another process still writes there; it clears up after itself

    def clear_cut_off(self) -> None:
        """Remove what processes that were killed have left of files of ours that they were writing."""
        for folder, ours in ((self.out, _OURS), (self.folder, _OURS_INSIDE)):
            if not folder.is_local or not folder.path.is_dir():
                continue  # a store of objects has no half of one
            for name in os.listdir(folder.path):
                cut_off = _CUT_OFF.fullmatch(name)
                if cut_off and ours.fullmatch(cut_off[1]):
                    folder.path.joinpath(name).unlink(missing_ok=True)


def fingerprint(plan: Mapping[str, Any]) -> str:
    """sha256 of all that a plan says."""
    content = {key: value for key, value in plan.items() if key != "fingerprint"}
    return digest(json.dumps(content, sort_keys=True).encode())


def _listed(folder: Folder) -> list[Entry]:
    """All files; of a folder that is not there, none."""
    for _ in range(_TRIES):
        try:
            return folder.list()
        except FileNotFoundError:  # or one whose files come and go while others build
            if folder.is_local and not folder.path.is_dir():
                return []
    raise OSError(f"{folder} changes while it is listed; try again")
