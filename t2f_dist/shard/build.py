"""A recipe into a directory of shards: plan, make what is not made yet, one shard a task, manifest last."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from t2f_dist.config.recipe import ShardRecipe, differences
from t2f_dist.shard import engine
from t2f_dist.shard.assembly import Assembly, corpus_file, sweep
from t2f_dist.shard.corpus import Plan, plan
from t2f_dist.shard.duplicates import among, without
from t2f_dist.shard.embed import Embedder
from t2f_dist.shard.extension import Extension, check_shape, extension
from t2f_dist.shard.inventory import Inventory
from t2f_dist.shard.ledger import FOLDER, Ledger, fingerprint
from t2f_dist.shard.manifest import MANIFEST, Manifest, SplitName, digest
from t2f_dist.shard.manner import Manner
from t2f_dist.shard.safeguards import check_apart, check_known, check_model, check_storable
from t2f_dist.shard.task import Job, Task, tasks
from t2f_dist.shard.versions import made_with
from t2f_dist.shard.work import Failed
from t2f_dist.text.sentence import SentenceEncoder

_FAILED_SHOWN = 5


@dataclass(frozen=True)
class Report:
    """What a build came to.

    Attributes:
        manifest: None where other parts are not done yet.
        written: the shards made now.
        kept: those that were done before, of this part.
        open: those that other parts have not done yet.
        note: one line for whoever waits; empty if there is nothing to say.
    """

    manifest: Manifest | None
    written: int = 0
    kept: int = 0
    open: int = 0
    note: str = ""


class ShardsFailed(OSError):
    """Some shards could not be made; the others are kept, and the same command goes on."""


def build(recipe: ShardRecipe, workers: int, overwrite: bool = False, progress: bool = True) -> Manifest:
    """`make` with the process engine, in one part."""
    manifest = make(recipe, Manner(workers=workers, overwrite=overwrite, progress=progress)).manifest
    assert manifest is not None, "without parts there is none to wait for"
    return manifest


def make(recipe: ShardRecipe, manner: Manner) -> Report:
    """Write the shards of a recipe to `recipe.out`.

    A build that was killed goes on where it was; a finished one of the same recipe and corpus is left as it is.

    Raises:
        FileNotFoundError: a path of the recipe does not exist, or there is nothing to extend.
        FileExistsError: `recipe.out` holds shards of another recipe or corpus, or files that are not ours.
        ShardsFailed: some shards could not be made.
        Superseded: another build was begun in the same place meanwhile.
        ValueError: a source is not of its layout, or stands where the shards are to be; embeddings differ in size, or
            no sample is usable.
        OSError: the folder cannot be read or written.
    """
    check_apart(recipe)
    ledger = Ledger(recipe.out)
    names = ledger.names()
    corpus = plan(recipe, train=not manner.extend)
    return _Build(recipe, manner, ledger, names, corpus).run()


class _Build:
    def __init__(self, recipe: ShardRecipe, manner: Manner, ledger: Ledger, names: dict[str, int], corpus: Plan):
        self.recipe, self.manner, self.ledger, self.corpus = recipe, manner, ledger, corpus
        self.names = names
        self.inventory = self.goal = Inventory.of(corpus)  # of the corpus, and of what the shards are to be of
        self.stamped = digest(self.inventory.lines(stamps=True))
        self.unfinished = None if manner.overwrite and MANIFEST in names else self._unfinished()
        if self.unfinished is None and names and MANIFEST not in names:
            self.names = ledger.names()  # another part may have finished after they were listed
        self.base = self._base() if MANIFEST in self.names else None

    def run(self) -> Report:
        added: Extension | None = None
        if MANIFEST in self.names and not self.manner.overwrite:
            manifest = self._manifest()
            if not self.manner.extend:
                return self._nothing_to_do(manifest)
            added = self._added(manifest)
            self.goal = added.inventory
            if self.goal.sha256 == manifest.corpus_sha256:
                self._tidy(manifest)
                return Report(manifest, note="nothing to add: all that the corpus holds is stored or refused already")
        elif self.manner.extend:
            what = "holds an unfinished build: finish it first" if self.unfinished else "holds no finished shards"
            raise FileNotFoundError(f"{self.ledger.shown} {what}, without --extend")
        known = self._same_build(added)
        if not known and not self.manner.overwrite:
            check_known(self.names, self.ledger.shown, self.manner.part is not None)
        embedder, encoder = self._embedder(added)
        new = added.plan if added else self.corpus
        same = self._duplicates(added, known)
        count, new = self._without(new, same, added)
        first: dict[SplitName, int] = {split: added.first(split) if added else 0 for split in new.splits}
        todo = list(tasks(new.splits, self.recipe.samples_per_shard, first))
        content = self._described(added, embedder) | {"shards": len(todo)}
        content["duplicates"] = None if count is None else digest(json.dumps(same, sort_keys=True).encode())
        content["fingerprint"] = fingerprint(content)
        if self.manner.overwrite:
            known = known and self.unfinished == content
            if MANIFEST in self.names:
                check_storable(new.splits["train"], self.recipe)
        elif self._base() != self.base:
            return self._changed_meanwhile()
        else:
            self.unfinished = self._unfinished()  # another part may have begun while the model was loaded
            known = self._goes_on(content, added)
        if not known:
            self._begin(content, added)
        self.ledger.keep_duplicates(self.stamped, same)
        job = Job(self.recipe, embedder, content["fingerprint"])
        written, kept = self._make(todo, job, encoder)
        assembly = Assembly(self.recipe, new, self.goal, embedder.record if embedder else None, count, added)
        return self._finish(assembly, todo, job.build, written, kept)

    def _unfinished(self) -> dict[str, Any] | None:
        """The plan of the build that is unfinished here; what is beside a manifest must have been made to extend it."""
        try:
            found = self.ledger.plan()
        except ValueError:
            if not self.manner.overwrite:
                raise
            return None
        if found is None or MANIFEST not in self.names:
            return found
        return found if found["base"] == self._base() is not None else None

    def _manifest(self) -> Manifest:
        try:
            return Manifest.load(self.recipe.out)
        except ValueError as error:
            raise ValueError(f"{error}. --overwrite replaces what is there") from None

    def _base(self) -> str | None:
        """What changes with the manifest; None where there is none."""
        try:
            return digest(self.ledger.out.read(MANIFEST))
        except FileNotFoundError:
            return None

    def _nothing_to_do(self, manifest: Manifest) -> Report:
        """For finished shards. Raises FileExistsError where they are of another recipe or corpus."""
        shown = self.ledger.shown
        now = self._recipe()
        found = min((differences(before, now) for before in (manifest.recipe, *manifest.extensions)), key=len)
        if found:
            raise FileExistsError(
                f"{shown} holds finished shards of another recipe: {_few(found)}; --overwrite replaces them, or choose"
                " another --out"
            )
        check_model(self.recipe, manifest.embedding)
        if self.inventory.sha256 != manifest.corpus_sha256:
            changes = self._before(manifest).changes(self.inventory)
            if changes:
                extend = ", --extend adds what is new" if changes.added else ""
                going = "; an --extend is unfinished: the same command finishes it" if self.unfinished else ""
                raise FileExistsError(
                    f"{shown} holds finished shards of another corpus: {changes}; --overwrite makes them anew{extend},"
                    f" or choose another --out{going}"
                )
        self._tidy(manifest)
        return Report(
            manifest, kept=_num_shards(manifest), note="nothing to do: the shards of this corpus are finished"
        )

    def _tidy(self, manifest: Manifest) -> None:
        """Remove what a build that was killed at the very end has left; not what is yet to be, or what parts add."""
        if self.unfinished is None and self.manner.part is None and self._base() == self.base:
            sweep(self.ledger, manifest)

    def _before(self, manifest: Manifest) -> Inventory:
        """The inventory of finished shards."""
        name = corpus_file(manifest)
        content = self.ledger.out.read(name)
        if digest(content) != manifest.corpus_sha256:
            raise ValueError(f"{self.ledger.shown}/{name} is damaged (its checksum does not match); use --overwrite")
        return Inventory.parse(content, f"{self.ledger.shown}/{name}")

    def _added(self, manifest: Manifest) -> Extension:
        check_shape(manifest, self.recipe, self.ledger.shown)
        before = self._before(manifest)
        added = extension(manifest, before, self.corpus, self.inventory, self.ledger.out)
        if added.changed and self.manner.progress:
            example = min(added.changed)
            _say(f"{len(added.changed)} stored images have changed (such as {example!r}): they stay as they are stored")
        return added

    def _recipe(self) -> dict[str, Any]:
        return self.recipe.model_dump(mode="json", exclude={"out"})

    def _described(self, added: Extension | None, embedder: Embedder | None) -> dict[str, Any]:
        """What decides about the bytes."""
        return {
            "format": "t2f-dist-build",
            "mode": _mode(added),
            "base": self.base if added else None,
            "recipe": self._recipe(),
            "corpus_sha256": self.stamped,
            "embedding": embedder.record.model_dump() if embedder else None,
            "made_with": made_with(self.recipe),
        }

    def _same_build(self, added: Extension | None) -> bool:
        """Whether a build is unfinished here and is this one. Raises FileExistsError where it is another."""
        unfinished = self.unfinished
        if unfinished is None or unfinished["mode"] != _mode(added):
            return False
        found = differences(unfinished["recipe"], self._recipe())
        found += differences(unfinished["made_with"], made_with(self.recipe))
        changes = None
        if unfinished["corpus_sha256"] != self.stamped:
            changes = self.ledger.inventory().changes(self.inventory, stamps=True)
        if not found and not changes:
            return True
        if self.manner.overwrite:
            return False
        raise self._another(f"recipe: {_few(found)}" if found else f"corpus: {changes}", added)

    def _another(self, what: str, added: Extension | None) -> FileExistsError:
        again = f"remove {self.ledger.shown}/{FOLDER}, which begins it anew" if added else "begin anew with --overwrite"
        return FileExistsError(
            f"{self.ledger.shown} holds an unfinished {'--extend' if added else 'build'} of another {what}; give what "
            f"it was begun with, {again}, or choose another --out"
        )

    def _goes_on(self, content: dict[str, Any], added: Extension | None) -> bool:
        """Whether this very build is begun already. Raises FileExistsError where another is."""
        if not self._same_build(added):
            return False
        assert self.unfinished is not None
        if self.unfinished["fingerprint"] == content["fingerprint"]:
            return True
        keys = ", ".join(key for key in content if content[key] != self.unfinished.get(key) and key != "fingerprint")
        raise self._another(f"state: its {keys} changed", added)

    def _changed_meanwhile(self) -> Report:
        """Where finished shards came, or others, after these were looked at."""
        manifest = self._finished()
        if manifest is None:
            raise FileExistsError(f"{self.ledger.shown} was changed by another command meanwhile; give it once more")
        return Report(manifest, note="nothing to do: another part has just finished these shards")

    def _begin(self, content: dict[str, Any], added: Extension | None) -> None:
        """A part removes nothing, since others may have begun. What is replaced goes when the plan is there."""
        if added and self.manner.part is None:
            sweep(self.ledger, added.manifest)
        self.ledger.begin(content, self.inventory)
        if not added and self.manner.part is None:
            self.ledger.empty()

    def _embedder(self, added: Extension | None) -> tuple[Embedder | None, SentenceEncoder | None]:
        """Whose embeddings the shards get, and the encoder of this process. A model's win over the corpus's own."""
        encoder = None
        stored = added.manifest.embedding if added else None
        if self.recipe.embed is not None:
            if self.manner.progress:
                _say(f"loading {self.recipe.embed}")  # for some seconds
            encoder = SentenceEncoder(self.recipe.embed, stored.sha256 if stored else None)
            embedder = Embedder.of_model(encoder)
        elif stored is not None and stored.source == "corpus":
            embedder = Embedder(stored, None, "the stored images")
        else:
            embedder = Embedder.of_corpus(entry for entries in self.corpus.splits.values() for entry in entries)
        if added and (embedder.record if embedder else None) != stored:
            raise ValueError(
                f"{self.ledger.shown} holds {'other' if stored else 'no'} embeddings of captions; --extend needs what "
                "the shards were made with, or choose another --out"
            )
        return embedder, encoder

    def _duplicates(self, added: Extension | None, known: bool) -> dict[str, str]:
        """Name -> the image that is kept, of the whole corpus."""
        if self.recipe.duplicates == "ignore":
            return {}
        found = self.ledger.duplicates(self.stamped) if known else None
        if found is not None:
            return found
        workers, progress = self.manner.workers, self.manner.progress
        return among(self.corpus, self.inventory, added, self.recipe, workers, progress)

    def _without(self, new: Plan, same: dict[str, str], added: Extension | None) -> tuple[int | None, Plan]:
        """How many duplicates there are among what is new, and the plan without them if the recipe drops them."""
        if self.recipe.duplicates == "ignore":
            return None, new
        names = added.names if added else same.keys()
        same = {name: kept for name, kept in same.items() if name in names}
        if self.recipe.duplicates == "drop":
            new = without(new, same)
            if not new.splits["train"] and not added:
                raise ValueError("no sample of train is left without duplicates; set duplicates=count")
        return len(same), new

    def _make(self, todo: Sequence[Task], job: Job, encoder: SentenceEncoder | None) -> tuple[int, int]:
        """Make what this part is to make; how many shards that was, and how many were done before."""
        number, parts = self.manner.part or (0, 1)
        mine = todo[number::parts]
        done = self.ledger.done([task.name for task in mine], job.build)
        rest = [task for task in mine if task.name not in done]
        written, failed = 0, list[Failed]()
        with tqdm(
            total=sum(task.num_images for task in mine),
            initial=sum(task.num_images for task in mine if task.name in done),
            unit="image",
            desc="shard",
            disable=not self.manner.progress,
            mininterval=0.5,
        ) as bar:
            workers, retries = self.manner.workers, self.manner.retries
            maker = job.open(encoder) if encoder else None  # it is loaded already
            with closing(engine.run(self.manner.engine, rest, job, workers, retries, bar.update, maker)) as events:
                for event in events:
                    if isinstance(event, Failed):
                        failed.append(event)
                        bar.write(f"failed: {event}", file=sys.stderr)
                    else:
                        written += 1
        if failed and not self._finished():
            shown = "; ".join(map(str, failed[:_FAILED_SHOWN])) + ("; ..." if len(failed) > _FAILED_SHOWN else "")
            raise ShardsFailed(
                f"{len(failed)} of {len(mine)} shards failed, {written} written, {len(done)} kept from before: {shown};"
                " the same command goes on with those that are missing"
            )
        return written, len(done)

    def _finished(self) -> Manifest | None:
        """The manifest, if another process has just finished this very build."""
        if self.ledger.out.size(MANIFEST) is None:
            return None
        manifest = Manifest.load(self.recipe.out)
        recipe = manifest.extensions[-1] if manifest.extensions else manifest.recipe
        return manifest if recipe == self._recipe() and manifest.corpus_sha256 == self.goal.sha256 else None

    def _finish(self, assembly: Assembly, todo: Sequence[Task], build: str, written: int, kept: int) -> Report:
        """Write the manifest if all shards are there, whoever made them."""
        names = [task.name for task in todo]
        missing = len(names) - len(self.ledger.done(names, build))
        try:
            if missing == 0:
                manifest = assembly.write(self.ledger, todo, build)
                note = "" if names else f"nothing to store: all that is new is refused, see {manifest.rejected.file}"
                return Report(manifest, written, kept, note=note)
        except FileNotFoundError:  # another part writes the same at this moment
            if not self._finished():
                raise
        manifest = self._finished()
        if manifest:
            sweep(self.ledger, manifest)
            return Report(manifest, written, kept)
        if self.manner.part is None:
            raise ShardsFailed(
                f"{missing} of {len(names)} shards were changed or removed by another command after they were made;"
                " the same command goes on with them"
            )
        return Report(None, written, kept, missing)


def _mode(added: Extension | None) -> str:
    return "extend" if added else "build"


def _num_shards(manifest: Manifest) -> int:
    return sum(len(split.shards) for split in manifest.splits.values())


def _few(found: list[str]) -> str:
    return ", ".join(found[:_FAILED_SHOWN]) + (
        f" and {len(found) - _FAILED_SHOWN} more" if found[_FAILED_SHOWN:] else ""
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
