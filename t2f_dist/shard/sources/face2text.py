"""Face2Text as published: a JSON list of `{img_id, image, descriptions: [{desc_id, text}]}`.

Gatt et al., Face2Text: Collecting an Annotated Image Description Corpus for the Generation of Rich Face Descriptions,
LREC 2018. Images are named by their LFW path; the photographs themselves may have another suffix.
"""

import json
from pathlib import Path

from t2f_dist.shard.sources import Mention, Source


def read(path: Path) -> Source:
    """One mention a description.

    Raises:
        ValueError: not such a list.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON in UTF-8: {error}") from None
    if not isinstance(content, list):
        raise ValueError(
            f"{path}: expected Face2Text, a list of objects with image and descriptions, found {type(content).__name__}"
        )
    mentions = []
    for number, entry in enumerate(content):
        descriptions = entry.get("descriptions") if isinstance(entry, dict) else None
        if not isinstance(descriptions, list) or not isinstance(entry.get("image"), str):
            raise ValueError(f"{path}: entry {number} has no image with a list of descriptions: {str(entry)[:80]}")
        for description in descriptions:
            text = description.get("text") if isinstance(description, dict) else description
            label = description.get("desc_id", "?") if isinstance(description, dict) else "?"
            mentions.append(Mention(entry["image"], text, None, f"{path.name}: desc_id {label}"))
    return Source(path.parent, mentions)
