import shutil
from dataclasses import fields

import numpy as np
import pytest
import torch

from t2f_dist.config.load import resolve
from t2f_dist.config.schema import Config
from t2f_dist.data.batch import Batch
from t2f_dist.data.dataset import Samples, decode
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.shard import format as shard_format
from t2f_dist.training.growth import Growth

BATCH = 8
STAGES = [
    {"resolution": 4, "stable_images": 40, "batch_size": BATCH},
    {"resolution": 8, "fade_images": 40, "stable_images": 160, "batch_size": BATCH},
]


def _samples(shards, **changes) -> Samples:
    options = {"window_shards": 2, "z_size": 3, "condition_size": 2, "flip": True, "mismatch_candidates": 3}
    return Samples(shards, "train", 5, **(options | changes))


def _stream(shards, world_size, num_workers=0, start=0, steps=12) -> list[Batch]:
    """Global batches, put together from the ranks' shares."""
    growth = Growth(_config(shards).stages)
    shares = [
        [batch for batch, _ in zip(stream, range(steps), strict=False)]
        for rank in range(world_size)
        for stream in [batches(_samples(shards), growth.steps(start), rank, world_size, num_workers)]
    ]
    return [_joined(step) for step in zip(*shares, strict=True)]


def _joined(parts) -> dict[str, torch.Tensor]:
    joined = {}
    for field in fields(Batch):
        values = [getattr(part, field.name) for part in parts]
        if not isinstance(values[0], torch.Tensor):
            continue
        if field.name.endswith("tokens"):  # padding is to the longest of a share
            width = max(value.shape[1] for value in values)
            values = [torch.nn.functional.pad(value, (0, width - value.shape[1])) for value in values]
        joined[field.name] = torch.cat(values)
    return joined


def _config(shards) -> Config:
    channels = [4, 4]
    return resolve(
        Config,
        {
            "data": {"shards": str(shards)},
            "generator": {"channels": channels},
            "discriminator": {"channels": channels, "stddev_group_size": 2},
            "stages": STAGES,
        },
    )


def _assert_equal(left, right):
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("world_size", "num_workers"), [(2, 0), (4, 0), (1, 2), (2, 1)])
def test_any_number_of_ranks_and_workers_sees_the_same_global_batches(portrait_shards, world_size, num_workers):
    _assert_equal(_stream(portrait_shards, 1), _stream(portrait_shards, world_size, num_workers))


def test_a_stream_started_late_is_the_rest_of_the_stream(portrait_shards):
    whole = _stream(portrait_shards, 1, steps=20)
    _assert_equal(whole[7:], _stream(portrait_shards, 2, start=7 * BATCH, steps=13))
    resolutions = [batch["images"].shape[-1] for batch in whole]
    assert resolutions == [4] * 5 + [8] * 15, "prefetching crosses into the next stage at its first image"


def test_mismatched_captions_are_of_others_and_the_more_candidates_the_nearer(portrait_shards):
    similarity = []
    for candidates in (1, 8):
        samples = _samples(portrait_shards, mismatch_candidates=candidates)
        identities = _identities_by_caption(samples)
        overlaps = []
        for position in range(60):
            item = samples[position, 4]
            assert not identities[tuple(item.tokens)] & identities[tuple(item.mismatched_tokens)]
            own, other = set(item.tokens), set(item.mismatched_tokens)
            overlaps.append(len(own & other) / len(own | other))
        similarity.append(np.mean(overlaps))
    assert similarity[1] > similarity[0] + 0.05


def _identities_by_caption(samples) -> dict[tuple[int, ...], set[int]]:
    found: dict[tuple[int, ...], set[int]] = {}
    for number, shard in enumerate(samples.shards):
        opened = samples._shard(number)
        for row in range(shard.num_samples):
            for text in shard_format.captions(opened.member(row, "captions")):
                found.setdefault(tuple(samples.vocabulary.encode(text, 100)), set()).add(opened.identities[row])
    return found


def test_captions_flips_and_noise_vary_from_epoch_to_epoch_but_not_from_read_to_read(portrait_shards):
    samples = _samples(portrait_shards)
    visits: dict[tuple[int, int], list] = {}
    for position in range(3 * samples.order.num_samples):
        item = samples[position, 4]
        visits.setdefault(tuple(samples.order.locate(position)), []).append(item)
        if position % 50 == 0:
            again = samples[position, 4]
            assert again.tokens == item.tokens and np.array_equal(again.z, item.z)
            assert np.array_equal(again.image, item.image)
    assert np.mean([len({tuple(item.tokens) for item in items}) > 1 for items in visits.values()]) > 0.7
    flipped = [any(not np.array_equal(items[0].image, item.image) for item in items[1:]) for items in visits.values()]
    assert 0.6 < np.mean(flipped) < 0.9  # three draws of a coin differ with probability 3/4
    noise = np.concatenate([item.z for items in visits.values() for item in items])
    assert abs(noise.mean()) < 0.15 and abs(noise.std() - 1) < 0.1


def test_a_damaged_sample_changes_exactly_its_own_positions_and_is_recorded(portrait_shards, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(portrait_shards, shards)
    sound = _samples(shards)
    shard = sound.shards[1]
    record = shard_format.open_index(shards, shard)[4]
    with open(shards / shard.name, "r+b") as tar:
        tar.seek(int(record["image_offset"]) + 40)
        byte = tar.read(1)
        tar.seek(-1, 1)
        tar.write(bytes([byte[0] ^ 1]))
    damaged, again = _samples(shards), _samples(shards)
    for position in range(2 * damaged.order.num_samples):
        item = damaged[position, 4]
        hit = tuple(damaged.order.locate(position)) == (1, 4)
        assert bool(item.damage) == hit
        if hit:
            assert item.damage[0][:3] == (position, shard.name, 4) and "checksum" in item.damage[0].reason
            assert np.array_equal(item.image, again[position, 4].image)
    assert sum(bool(damaged[position, 4].damage) for position in range(damaged.order.num_samples)) == 1


def test_shards_that_are_gone_or_too_small_are_one_line(portrait_shards, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such directory"):
        _samples(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no such split"):
        Samples(portrait_shards, "holdout", 0, window_shards=1, z_size=1, condition_size=1)
    config = _config(portrait_shards)
    large = [{"resolution": 4 * 2**i, "stable_images": 8, "batch_size": 8} for i in range(5)]
    changed = config.model_dump(mode="json") | {"stages": large}
    for side in ("generator", "discriminator"):
        changed[side]["channels"] = [4] * 5
    with pytest.raises(ValueError, match=r"holds images of 32 pixels and the last stage draws 64: shard again"):
        open_samples(resolve(Config, changed))


def test_one_identity_alone_cannot_be_mismatched(portrait_shards):
    samples = _samples(portrait_shards)
    for number in range(len(samples.shards)):  # as if the corpus were of one person
        shard = samples._shard(number)
        samples._open[number] = shard._replace(identities=[7] * len(shard.identities))
    with pytest.raises(ValueError, match="no second identity"):
        samples[0, 4]


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0" + b"0" * 40])
def test_what_is_no_image_is_damage(content):
    with pytest.raises(shard_format.DamagedSample, match="image"):
        decode(content, 4)


def test_faces_without_captions_are_one_unknown_word(portrait_shards, monkeypatch):
    monkeypatch.setattr(shard_format, "captions", lambda content: [])
    samples = _samples(portrait_shards)
    item = samples[3, 4]
    assert item.tokens == item.mismatched_tokens == [1]
