"""Shards re-read against their manifest."""

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from tqdm import tqdm

from t2f_dist.shard import format as shard_format
from t2f_dist.shard.format import Manifest, Shard


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was written."""

    file: str
    what: str
    key: str = ""  # of the sample, where only one is damaged

    def __str__(self) -> str:
        return f"{self.file}{f' ({self.key})' if self.key else ''}: {self.what}"


def verify(directory: str | Path, decode: bool = False, progress: bool = True) -> list[Damage]:
    """Compare every file of a directory of shards with the manifest: sizes, checksums, counts, each member.

    Args:
        decode: also decode each image, voice and embedding, and compare resolution, rate, length and size.
        progress: show a bar of bytes.

    Returns:
        What is damaged, in the order of the manifest; nothing if all is well.

    Raises:
        FileNotFoundError, ValueError: there is no manifest that can be read.
    """
    directory = Path(directory)
    manifest = Manifest.load(directory)
    shards = [shard for split in shard_format.SPLITS for shard in manifest.shards(split)]
    damage = []
    with tqdm(
        total=sum(shard.bytes for shard in shards), unit="B", unit_scale=True, desc="verify", disable=not progress
    ) as bar:
        for shard in shards:
            damage += _verify_shard(directory, shard, manifest, decode)
            bar.update(shard.bytes)
    if manifest.vocabulary is not None:
        try:
            manifest.read_vocabulary(directory)
        except (OSError, ValueError) as error:
            damage.append(Damage(manifest.vocabulary.file, _reason(error)))
    known = {name for shard in shards for name in (shard.name, shard.index)}
    for name in sorted(os.listdir(directory)):
        if name.endswith((".tar", ".npy", ".tmp")) and name not in known:
            damage.append(Damage(name, "not in the manifest"))
    return damage


def _verify_shard(directory: Path, shard: Shard, manifest: Manifest, decode: bool) -> list[Damage]:
    try:
        index = shard_format.open_index(directory, shard)
    except (OSError, ValueError) as error:
        return [Damage(shard.index, _reason(error))]
    try:
        descriptor = shard_format.open_shard(directory, shard)
    except (OSError, ValueError) as error:
        return [Damage(shard.name, _reason(error))]
    try:
        damage = [
            found for record in index for found in _verify_sample(descriptor, record, shard.name, manifest, decode)
        ]
        with open(descriptor, "rb", closefd=False) as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != shard.sha256 and not damage:
                damage.append(Damage(shard.name, "its checksum does not match, though that of every sample does"))
    finally:
        os.close(descriptor)
    return damage


def _verify_sample(descriptor: int, record: np.void, file: str, manifest: Manifest, decode: bool) -> list[Damage]:
    damage = []
    for name in shard_format.MEMBERS:
        try:
            content = shard_format.member(descriptor, record, name)
            # A sample may lack a voice, but not the embeddings that all of its directory have.
            held = content or (name == "embeddings" and manifest.embedding)
            reason = _undecodable(content, name, record, manifest) if decode and held else ""
        except shard_format.DamagedSample as error:
            reason = str(error)
        if reason:
            damage.append(Damage(file, reason, shard_format.sample_key(descriptor, record)))
    return damage


def _undecodable(content: bytes, name: str, record: np.void, manifest: Manifest) -> str:
    """Why a member, whose checksum is right, still does not hold what the index and the manifest say; or empty."""
    if name == "image":
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            return f"image: {error}"
        if image.size != (manifest.image_resolution,) * 2:
            return f"image: {image.width}x{image.height} pixels, not {manifest.image_resolution}"
    elif name == "captions" and len(shard_format.captions(content)) != record["num_captions"]:
        return f"captions: {len(shard_format.captions(content))}, not {record['num_captions']} as the index says"
    elif name == "speech":
        try:
            samples, rate = soundfile.read(io.BytesIO(content), dtype="int16")
        except soundfile.SoundFileError as error:
            return f"speech: {error}"
        if rate != manifest.sample_rate_hz or samples.shape != (int(record["speech_samples"]),):
            return f"speech: {samples.shape} samples at {rate} Hz, not as the index and the manifest say"
    elif name == "embeddings":
        array = shard_format.embeddings(content)
        expected = (int(record["num_captions"]), manifest.embedding.size if manifest.embedding else 0)
        if array.shape != expected:
            return f"embeddings: {list(array.shape)}, not {list(expected)} as the index and the manifest say"
    return ""


def _reason(error: Exception) -> str:
    return "missing" if isinstance(error, FileNotFoundError) else str(error)
