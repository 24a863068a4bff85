"""What processes of one node do with a cache: each function is the life of one of them."""

import hashlib
import json
import os
import random
import sys
from pathlib import Path

from t2f_dist.storage.cache import Cache, Remote


def content(number: int, size: int) -> bytes:
    """Bytes that repeat nowhere, of the file of a number."""
    return random.Random(number).randbytes(size)


def remotes(url: str, sizes: list[int]) -> list[Remote]:
    return [
        Remote(f"{url}/{number}.tar", size, hashlib.sha256(content(number, size)).hexdigest())
        for number, size in enumerate(sizes)
    ]


def read_all(folder: str, max_bytes: int, url: str, sizes: list[int], seed: int, num: int) -> None:
    """Get `num` of the files, at times several at once, at times ahead of need; each has to be what it is.

    Says that it has begun; and how it went, in the end.
    """
    cache, files, draws = Cache(folder, max_bytes), remotes(url, sizes), random.Random(seed)
    print("begun", flush=True)
    for _ in range(num):
        if draws.random() < 0.3:
            cache.prefetch(*draws.choice(files))
        first, second = draws.sample(range(len(files)), 2)
        with cache.get(*files[first]) as held:
            if draws.random() < 0.3:
                with cache.get(*files[second]) as other:
                    check(other.path, second, sizes)
            check(held.path, first, sizes)
    print("done", flush=True)


def read_each(folder: str, max_bytes: int, url: str, sizes: list[int], seed: int) -> None:
    """Get each of the files, in an order of its own."""
    cache, files, numbers = Cache(folder, max_bytes), remotes(url, sizes), list(range(len(sizes)))
    random.Random(seed).shuffle(numbers)
    print("begun", flush=True)
    sys.stdin.readline()  # all begin together
    for number in numbers:
        with cache.get(*files[number]) as held:
            check(held.path, number, sizes)
    print("done", flush=True)


def check(path: Path, number: int, sizes: list[int]) -> None:
    assert path.read_bytes() == content(number, sizes[number]), path


if __name__ == "__main__":
    # A server on loopback needs no proxy, whatever the shell has set.
    os.environ["NO_PROXY"] = "*"
    globals()[sys.argv[1]](*json.loads(sys.argv[2]))
