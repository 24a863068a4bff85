"""What a build never takes the place of: its own corpus, files of others, shards when it has none."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.corpus import Entry
from t2f_dist.shard.encode import encode_image
from t2f_dist.shard.manifest import MANIFEST, REJECTED, Embedding
from t2f_dist.shard.picture import Rejected
from t2f_dist.storage import url
from t2f_dist.text import sentence

_MAGIC = re.compile(r"[*?\[{]")


def check_apart(recipe: ShardRecipe) -> None:
    """Raises ValueError where `out` is a source of the recipe, or holds one: it would be emptied with it."""
    out = _plain(recipe.out)
    for source in _sources(recipe):
        if _plain(source) == out or _plain(source).startswith(out.rstrip("/") + "/"):
            raise ValueError(
                f"--out {url.shown(recipe.out)} is or holds {url.shown(source)}, which the shards are made of; choose"
                " another --out"
            )


def check_known(names: Mapping[str, int], out: str, is_part: bool) -> None:
    """Raises FileExistsError for files that have names of ours, and neither a manifest nor a plan that makes them so.

    A build that found nothing to store leaves its refusals, and nothing else.
    """
    unknown = names.keys() - {REJECTED}
    if unknown and MANIFEST not in names:
        remedy = "remove the folder, or choose" if is_part else "--overwrite replaces them, or choose"
        raise FileExistsError(
            f"{out} holds {min(unknown)}, of a build that is not known: neither a manifest nor a plan is there;"
            f" {remedy} another --out"
        )


def check_storable(entries: Iterable[Entry], recipe: ShardRecipe) -> None:
    """Raises ValueError where no image of train can be stored, so that nothing is removed for a build of nothing.

    OSError where an image cannot be asked for.
    """
    reason = ""
    for entry in entries:
        try:
            encode_image(entry.image, recipe.image)
            return
        except Rejected as error:
            reason = reason or f"{entry.path}: {error}"
    raise ValueError(f"no image of train can be stored, so nothing is removed; {reason}")


def check_model(recipe: ShardRecipe, stored: Embedding | None) -> None:
    """Raises FileExistsError where finished shards hold embeddings of another model than the recipe's is now."""
    if recipe.embed is None or stored is None:
        return
    sentence.check(Path(recipe.embed))
    if sentence.fingerprint(Path(recipe.embed)) != stored.sha256:
        raise FileExistsError(
            f"{url.shown(recipe.out)} holds embeddings of another model than the one in {recipe.embed} now; "
            "--overwrite makes them anew, or choose another --out"
        )


def _sources(recipe: ShardRecipe) -> Iterator[str]:
    given = [recipe.faces, recipe.captions, recipe.speech, recipe.embed, recipe.cub.embeddings]
    given += [recipe.celeba.identities, recipe.celeba.mapping]
    for place in given:
        if place is None:
            continue
        magic = _MAGIC.search(place) if recipe.layout == "webdataset" and not os.path.lexists(place) else None
        # Of a pattern, the folder in which all that it names stands.
        yield place[: place.rfind("/", 0, magic.start()) + 1] or "." if magic else place


def _plain(place: str) -> str:
    """Without links, and the same however it is written."""
    local = url.local(place)
    return os.path.realpath(local) if local is not None else url.check(place).rstrip("/")
