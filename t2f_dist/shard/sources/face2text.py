"""Face2Text as published: a JSON list of `{img_id, image, descriptions: [{desc_id, text}]}`.

Gatt et al., Face2Text: Collecting an Annotated Image Description Corpus for the Generation of Rich Face Descriptions,
LREC 2018. Images are named by their LFW path; the photographs themselves may have another suffix.
"""

import json
from pathlib import Path

from t2f_dist.shard.sources import Mention, Source, read_file
from t2f_dist.storage import url
from t2f_dist.storage.stage import staged

BYTES_MAX = 1 << 28


def read(place: str | Path) -> Source:
    """One mention a description, of a path or URL.

    Raises:
        ValueError: not such a list.
        OSError: it cannot be read.
    """
    folder, name = url.split(place)
    shown = url.shown(place)
    try:
        content = json.loads(read_file(staged(place), BYTES_MAX).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{shown}: not JSON in UTF-8: {error}") from None
    if not isinstance(content, list):
        raise ValueError(
            f"{shown}: expected Face2Text, a list of objects with image and descriptions, found "
            f"{type(content).__name__}"
        )
    mentions = []
    for number, entry in enumerate(content):
        descriptions = entry.get("descriptions") if isinstance(entry, dict) else None
        if not isinstance(descriptions, list) or not isinstance(entry.get("image"), str):
            raise ValueError(f"{shown}: entry {number} has no image with a list of descriptions: {str(entry)[:80]}")
        for description in descriptions:
            text = description.get("text") if isinstance(description, dict) else description
            label = description.get("desc_id", "?") if isinstance(description, dict) else "?"
            mentions.append(Mention(entry["image"], text, None, f"{name}: desc_id {label}"))
    return Source(folder, mentions)
