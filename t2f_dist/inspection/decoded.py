"""Whether members, whose checksums are right, hold what the index and the manifest say."""

from __future__ import annotations

import io
import json

import numpy as np
import soundfile
from PIL import Image

from t2f_dist.shard import format as shard_format
from t2f_dist.shard import levels
from t2f_dist.shard.manifest import Manifest
from t2f_dist.shard.picture import Rejected, flat, opened, square

# Levels were taken from the picture before its JPEG was written. What JPEG changes depends on its quality and on the
# picture; noise at quality 95 stays well below, and another picture's levels are far beyond.
LEVEL_MEAN_MAX = {"jpg": 8.0, "png": 1.0, "any": 1.0}  # mean difference of a level's values, of 255
SECONDS_MAX = 3600  # of a voice, as the recipe allows


def undecodable(content: bytes, name: str, record: np.void, manifest: Manifest, small: int) -> str:
    """Why a member does not hold what it should; or empty.

    Args:
        content: of the member; empty where the sample has none.
        name: of the member.
        small: descriptor of the small file, with whose levels an image is compared.
    """
    if name == "image":
        return _image(content, record, manifest, small)
    if name == "captions":
        return _captions(content, record)
    if name == "meta":
        return _meta(content, record, manifest) if content else ""
    if name == "speech":
        return _speech(content, record, manifest) if content else ""
    # A sample may lack a voice, but not the embeddings that all of its directory have.
    return _embeddings(content, record, manifest) if content or manifest.embedding else ""


def _image(content: bytes, record: np.void, manifest: Manifest, small: int) -> str:
    recipe = manifest.image
    try:
        image = flat(opened(lambda: content).image, recipe.background)
        image = image if manifest.squared else square(image, recipe)
    except Rejected as error:
        return f"image: {error}"
    if image.size != (manifest.image_resolution,) * 2:
        return f"image: {image.width}x{image.height} pixels, not {manifest.image_resolution}"
    return _levels(image, record, manifest, small) if record["lod_length"] else ""


def _levels(image: Image.Image, record: np.void, manifest: Manifest, small: int) -> str:
    expected = levels.record(image)
    for resolution in levels.LEVELS:
        if resolution > image.width:
            break
        try:
            stored = shard_format.level(small, record, resolution)
        except shard_format.DamagedSample as error:
            return str(error)
        difference = np.abs(stored.astype(int) - levels.parse(expected, resolution)).mean()
        if difference > LEVEL_MEAN_MAX[manifest.image_format]:
            return f"lod: the level of {resolution} pixels is not that of the image, but {difference:.0f} of 255 away"
    return ""


def _captions(content: bytes, record: np.void) -> str:
    try:
        num = len(shard_format.captions(content))
    except shard_format.DamagedSample as error:
        return str(error)
    return "" if num == record["num_captions"] else f"captions: {num}, not {record['num_captions']} as the index says"


def _meta(content: bytes, record: np.void, manifest: Manifest) -> str:
    try:
        meta = json.loads(content)
    except (ValueError, RecursionError):
        return "meta: not JSON"
    ours = manifest.corpus_sha256 is not None
    if ours and not isinstance(meta, dict):
        return "meta: not an object"
    if ours and shard_format.identity_number(str(meta.get("identity"))) != record["identity"]:
        return f"meta: the identity {meta.get('identity')!r} is not that of the index"
    return ""


def _speech(content: bytes, record: np.void, manifest: Manifest) -> str:
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if record["speech_samples"] > SECONDS_MAX * file.samplerate:
                return f"speech: {record['speech_samples']} samples, more than {SECONDS_MAX} seconds"
            # No more than there should be: a header may claim hours.
            rate, samples = file.samplerate, file.read(int(record["speech_samples"]) + 1, dtype="int16")
    except (soundfile.SoundFileError, RuntimeError) as error:
        return f"speech: {error}"
    if rate != manifest.sample_rate_hz or samples.shape != (int(record["speech_samples"]),):
        return f"speech: {samples.shape} samples at {rate} Hz, not as the index and the manifest say"
    return ""


def _embeddings(content: bytes, record: np.void, manifest: Manifest) -> str:
    array = shard_format.embeddings(content)
    expected = (int(record["num_captions"]), manifest.embedding.size if manifest.embedding else 0)
    if array.shape != expected:
        return f"embeddings: {list(array.shape)}, not {list(expected)} as the index and the manifest say"
    return ""
