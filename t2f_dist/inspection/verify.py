"""Shards re-read against their manifest, some at a time."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from t2f_dist.inspection.decoded import undecodable
from t2f_dist.inspection.shelf import Shelf
from t2f_dist.inspection.table import printable
from t2f_dist.shard import format as shard_format
from t2f_dist.shard.manifest import MANIFEST, SPLITS, Manifest, Shard
from t2f_dist.storage import url
from t2f_dist.storage.worker import belong_to_parent

STRAY = (".tar", ".npy", ".small", ".tmp")
DAMAGE_MAX = 1000  # that is told of one shard


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was written."""

    file: str
    what: str
    key: str = ""  # of the sample, where only one is damaged

    def __str__(self) -> str:
        return printable(f"{self.file}{f' ({self.key})' if self.key else ''}: {self.what}")


def verify(place: str | Path, decode: bool = False, workers: int = 1, progress: bool = True) -> list[Damage]:
    """Compare every file of a directory of shards with the manifest: sizes, checksums, counts, each member.

    Args:
        place: a path or URL; remote files, and tars that stand elsewhere, are fetched one at a time a worker.
        decode: also decode each image, voice and embedding, and compare resolution, rate, length and size, and the
            small levels with the image.
        workers: processes.
        progress: show a bar of bytes.

    Returns:
        What is damaged, in the order of the manifest; nothing if all is well. What a build that is not finished has
        written is not: see `unfinished`.

    Raises:
        FileNotFoundError, ValueError, OSError: there is no manifest that can be read.
    """
    with Shelf(place) as shelf:
        shards = [shard for split in SPLITS for shard in shelf.manifest.shards(split)]
        groups = _by_tar(shards)
        total = sum(_num_bytes(shards, group) for group in groups)
        with tqdm(total=total, unit="B", unit_scale=True, desc="verify", disable=not progress) as bar:
            damage: list[list[Damage]] = [[] for _ in shards]
            for group, found in _each(shelf, shards, groups, decode, min(workers, len(groups))):
                for number, each in zip(group, found, strict=True):
                    damage[number] = each
                bar.update(_num_bytes(shards, group))
        return [found for each in damage for found in each] + _others(shelf, shards)


def unfinished(place: str | Path) -> str:
    """A line on an extension of the shards at a path or URL that has not ended; empty where there is none.

    Raises as `verify`.
    """
    with Shelf(place) as shelf:
        if not shelf.unfinished():
            return ""
        num = len(_strays(shelf, [shard for split in SPLITS for shard in shelf.manifest.shards(split)]))
    return (
        f"an extension of {url.shown(place)} is not finished: {num} files are not in the manifest yet; the same"
        " t2f-dist shard command goes on with it"
    )


def _by_tar(shards: list[Shard]) -> list[list[int]]:
    """The numbers of shards that share a tar, as splits of a tar of others do: it is read once."""
    groups: dict[str, list[int]] = {}
    for number, shard in enumerate(shards):
        groups.setdefault(shard.name, []).append(number)
    return list(groups.values())


def _num_bytes(shards: list[Shard], group: list[int]) -> int:
    return shards[group[0]].bytes + sum(shards[number].small_bytes for number in group)


def _each(
    shelf: Shelf, shards: list[Shard], groups: list[list[int]], decode: bool, workers: int
) -> Iterator[tuple[list[int], list[list[Damage]]]]:
    """The shards of each tar, and what is damaged in each of them, as they are done."""
    tasks = [[shards[number] for number in group] for group in groups]
    if workers <= 1:
        yield from ((group, _verify_tar(shelf, task, decode)) for group, task in zip(groups, tasks, strict=True))
        return
    # spawn, not fork: the same on every platform, and safe whatever threads the caller has
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (shelf.place,)) as pool:
        pending = {pool.submit(_verify_in_worker, task, decode): group for group, task in zip(groups, tasks)}
        try:
            while pending:
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                yield from ((pending.pop(future), future.result()) for future in done)
        except BrokenProcessPool:
            raise ValueError("a process was killed, most likely for want of memory; use fewer --workers") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_shelf: Shelf | None = None  # of a worker process


def _start_worker(place: str | Path) -> None:
    global _shelf
    belong_to_parent()
    _shelf = Shelf(place)


def _verify_in_worker(shards: list[Shard], decode: bool) -> list[list[Damage]]:
    assert _shelf is not None
    return _verify_tar(_shelf, shards, decode)


def _verify_tar(shelf: Shelf, shards: list[Shard], decode: bool) -> list[list[Damage]]:
    """Of each shard that has its samples in one tar, what is damaged; of the tar itself, with the first of them."""
    first = shards[0]
    name = url.shown(first.name)
    try:
        with shelf.whole_tar(first) as tar:
            damage = [_verify_shard(shelf, shard, tar, decode) for shard in shards]
            if _sha256(tar) != first.sha256 and not any(found.file == name for each in damage for found in each):
                what = "its checksum does not match, though that of every sample does"
                damage[0].append(Damage(name, what))
    except (OSError, ValueError) as error:
        damage = [_verify_shard(shelf, shard, None, decode) for shard in shards]
        damage[0].append(Damage(name, _reason(error)))
    return [each[:DAMAGE_MAX] for each in damage]


def _verify_shard(shelf: Shelf, shard: Shard, tar: int | None, decode: bool) -> list[Damage]:
    """Index, small file and, where there is a tar, the samples in it."""
    try:
        with shelf.index(shard) as index:
            records = np.array(index)
    except (OSError, ValueError) as error:
        return [Damage(shard.index, _reason(error))]
    try:
        with shelf.small(shard) as small:
            damage = _verify_small(small, shard, records)
            return damage + (_verify_samples(tar, small, shelf, shard, records, decode) if tar is not None else [])
    except (OSError, ValueError) as error:
        return [Damage(shard.small, _reason(error))]


def _verify_small(small: int, shard: Shard, records: np.ndarray) -> list[Damage]:
    damage = []
    for row, record in enumerate(records):
        for read in (shard_format.captions_copy, _levels):
            try:
                read(small, record)
            except shard_format.DamagedSample as error:
                damage.append(Damage(shard.small, str(error), f"sample {row}"))
    if _sha256(small) != shard.small_sha256 and not damage:
        damage.append(Damage(shard.small, "its checksum does not match, though that of every sample does"))
    return damage


def _levels(small: int, record: np.void) -> bytes:
    return shard_format.member(small, record, "lod")


def _verify_samples(
    tar: int, small: int, shelf: Shelf, shard: Shard, records: np.ndarray, decode: bool
) -> list[Damage]:
    damage = []
    for record in records:
        for name in shard_format.TAR_MEMBERS:
            if name == "captions" and not record["captions_offset"]:
                continue  # of a tar of others, whose captions stand in no member of their own
            reason = ""
            try:
                content = shard_format.member(tar, record, name)
                if decode:
                    reason = undecodable(content, name, record, shelf.manifest, small)
            except shard_format.DamagedSample as error:
                reason = str(error)
            if reason:
                damage.append(Damage(url.shown(shard.name), reason, shard_format.sample_key(tar, record)))
    return damage


def _others(shelf: Shelf, shards: list[Shard]) -> list[Damage]:
    """What is damaged or left over beside the shards."""
    damage = []
    manifest = shelf.manifest
    if manifest.vocabulary is not None:
        try:
            manifest.read_vocabulary(shelf.place)
        except (OSError, ValueError) as error:
            damage.append(Damage(manifest.vocabulary.file, _reason(error)))
    lists = {manifest.rejected.file: manifest.rejected.sha256}
    if manifest.corpus_sha256 is not None:
        lists[inventory_file(manifest)] = manifest.corpus_sha256
    for name, sha256 in lists.items():
        try:
            with shelf.lines(name) as stream:
                if _sha256(stream.fileno()) != sha256:
                    damage.append(Damage(name, "its checksum does not match"))
        except (OSError, ValueError) as error:
            damage.append(Damage(name, _reason(error)))
    strays = _strays(shelf, shards)
    if strays and not shelf.unfinished():
        damage += [Damage(name, "not in the manifest") for name in strays]
    return damage


def inventory_file(manifest: Manifest) -> str:
    """The file that says what was found in the corpus; each extension writes another."""
    number = len(manifest.extensions)
    return f"corpus-{number}.jsonl" if number else "corpus.jsonl"


def _strays(shelf: Shelf, shards: list[Shard]) -> list[str]:
    """Files of shards that the manifest does not name."""
    known = {MANIFEST} | {name for shard in shards for name in (shard.name, shard.index, shard.small)}
    # A tar of somebody else is left out for a reason that stands in the list of what is rejected.
    ours = STRAY if shelf.manifest.squared else tuple(suffix for suffix in STRAY if suffix != ".tar")
    return [name for name in shelf.names() if name.endswith(ours) and name not in known]


def _sha256(descriptor: int) -> str:
    with open(descriptor, "rb", closefd=False) as stream:
        stream.seek(0)
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    return "missing" if isinstance(error, FileNotFoundError) else str(error)
