"""What became of the entries of one shard, and its record as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field

from t2f_dist.shard.manifest import Shard
from t2f_dist.shard.sources import Refusal


@dataclass
class Outcome:
    """`shard` is None where none of the entries is stored.

    Attributes:
        stored: how many images, captions and voices.
        counts: of the words of the stored captions.
    """

    shard: Shard | None = None
    refusals: list[Refusal] = field(default_factory=list)
    stored: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def record(self, build: str) -> bytes:
        """As a file that says which build it belongs to."""
        content = {
            "build": build,
            "shard": self.shard.model_dump() if self.shard else None,
            "refusals": [astuple(refusal) for refusal in self.refusals],
            "stored": self.stored,
            "counts": self.counts,
        }
        return json.dumps(content, sort_keys=True).encode()

    @classmethod
    def parse(cls, content: bytes, build: str) -> Outcome | None:
        """None where it is not a record, or one of another build: the shard is then to be made again."""
        try:
            found = json.loads(content)
            if found["build"] != build:
                return None
            return cls(
                shard=Shard.model_validate(found["shard"]) if found["shard"] else None,
                refusals=[Refusal(*values) for values in found["refusals"]],
                stored=Counter(found["stored"]),
                counts=Counter(found["counts"]),
            )
        except (ValueError, KeyError, TypeError):
            return None

    def stands(self, sizes: Mapping[str, int]) -> bool:
        """Whether the files of the shard have the sizes that they were written with."""
        if self.shard is None:
            return True
        shard = self.shard
        files = {shard.name: shard.bytes, shard.index: shard.index_bytes, shard.small: shard.small_bytes}
        return all(sizes.get(name) == size for name, size in files.items())
