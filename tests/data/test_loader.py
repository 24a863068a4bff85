"""The number of ranks and loader processes changes nothing of what is read, whatever a face is drawn from."""

from dataclasses import fields
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from t2f_dist.config.condition import Lstm, Stored
from t2f_dist.config.load import override, resolve
from t2f_dist.config.schema import Config
from t2f_dist.data.batch import Batch
from t2f_dist.data.dataset import Wanted
from t2f_dist.data.indexed import IndexedSamples
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.training.growth import Growth
from tests.training.small import RECIPES, config

BATCH = 8
STORED = {"condition": {"caption": {"kind": "stored", "dropout": 0.2}, "identity": {"kind": "one_hot", "dropout": 0.2}}}
KINDS = [*RECIPES, "stored"]
Joined = dict[str, torch.Tensor]


def settings(kind: str, shards: Path, *overrides: str) -> Config:
    """The small configuration of that name, with a flip, in windows of two shards; the nearest caption of three."""
    recipe = "both" if kind == "stored" else kind
    plain = config(recipe, shards, Path("nowhere"), "data.flip=true", "data.shuffle_window_shards=2", *overrides)
    mapping = plain.model_dump(mode="json") | (STORED if kind == "stored" else {})
    candidates = 3 if mapping["condition"]["caption"] else 1
    return resolve(Config, override(mapping, [f"data.mismatch_candidates={candidates}"]))


def stream(
    configuration: Config, world_size: int, num_workers: int = 0, start: int = 0, steps: int = 9
) -> list[Joined]:
    """Global batches, put together from the ranks' shares."""
    growth = Growth(configuration.stages)
    shares = [
        [batch for batch, _ in zip(each, range(steps))]
        for rank in range(world_size)
        for each in [batches(open_samples(configuration), growth.steps(start), rank, world_size, num_workers)]
    ]
    return [joined(step) for step in zip(*shares, strict=True)]


def joined(parts: tuple[Batch, ...]) -> Joined:
    """All tensors by name; inputs padded to the longest of all shares."""
    found: Joined = {}
    for field in fields(Batch):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], torch.Tensor):
            found[field.name] = torch.cat(values)
        elif isinstance(values[0], dict):
            for name in values[0]:
                width = max(value[name][0].shape[1] for value in values)
                padded = [F.pad(each, (0, 0) * (each.dim() - 2) + (0, width - each.shape[1])) for each in
                          (value[name][0] for value in values)]  # fmt: skip
                found[f"{field.name}.{name}"] = torch.cat(padded)
                found[f"{field.name}.{name}.length"] = torch.cat([value[name][1] for value in values])
    return found


def assert_equal(left: list[Joined], right: list[Joined]) -> None:
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        assert all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("num_lanes", [2, 4])
def test_ranks_read_only_the_shards_of_their_lanes_and_see_the_same_batches(mixed_shards: Path, num_lanes: int):
    base = settings("house", mixed_shards).model_dump(mode="json")
    configuration = resolve(Config, override(base, [f"data.lanes={num_lanes}", "data.shuffle_window_shards=1"]))
    whole = stream(configuration, 1)
    for world_size in (2, 4):
        assert_equal(whole, stream(configuration, world_size))
    assert_equal(whole[4:], stream(configuration, 2, start=4 * configuration.stages[0].batch_size, steps=5))
    read = []
    for rank in range(2):
        samples = open_samples(configuration)
        for _ in zip(batches(samples, Growth(configuration.stages).steps(0), rank, 2, 0), range(9)):
            pass
        read.append(set(samples.shards._open))
    assert len(read[0]) == len(read[1]) == 2 and not read[0] & read[1]


def test_more_lanes_than_shards_and_batches_that_lanes_cannot_share_are_refused(mixed_shards: Path):
    base = settings("house", mixed_shards).model_dump(mode="json")
    with pytest.raises(ValueError, match=r"must be a multiple of data\.lanes 3"):
        resolve(Config, override(base, ["data.lanes=3"]))
    with pytest.raises(ValueError, match=r"data\.lanes 8 is more than the 4 shards of train"):
        open_samples(resolve(Config, override(base, ["data.lanes=8"])))


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_ranks_sees_the_same_global_batches(mixed_shards: Path, kind: str):
    configuration = settings(kind, mixed_shards)
    whole = stream(configuration, 1)
    assert_equal(whole, stream(configuration, 2))
    modalities = configuration.condition.modalities
    assert all(f"condition.{name}" in whole[0] and f"mismatched.{name}" in whole[0] for name in modalities)
    assert (whole[0]["mismatched_images"].shape[-1] > 0) == ("image" in configuration.needs_mismatched)
    assert (whole[0]["augment"].shape[-1] > 0) == (configuration.augment is not None)
    assert (whole[0]["dropout_keys"] != 0).any() == configuration.generator.drops_out


@pytest.mark.parametrize("kind", ["both", "stored", "dcgan", "wav2pix"])
@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 2), (4, 1)])
def test_any_number_of_loader_processes_too(mixed_shards: Path, kind: str, world_size: int, num_workers: int):
    configuration = settings(kind, mixed_shards)
    assert_equal(stream(configuration, 1, steps=4), stream(configuration, world_size, num_workers, steps=4))


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_started_late_is_the_rest_of_the_stream(mixed_shards: Path, kind: str):
    configuration = settings(kind, mixed_shards)
    whole = stream(configuration, 1, steps=12)
    assert_equal(whole[7:], stream(configuration, 2, start=7 * BATCH, steps=5))
    if configuration.generator.grows:
        sizes = [batch["images"].shape[-1] for batch in whole]
        assert sizes == [4] * 6 + [8] * 6, "prefetching crosses into the next stage at its first image"


def test_what_is_drawn_for_a_position_does_not_depend_on_what_else_is(mixed_shards: Path):
    """A new term or modality leaves the samples, captions and noise of a run as they were."""
    names = ("images", "positions", "identities", "z", "noise", "mixing")
    withheld = 0
    for plain, more in zip(*(stream(settings(kind, mixed_shards), 1) for kind in ("house", "both")), strict=True):
        assert all(torch.equal(plain[name], more[name]) for name in names)
        here = more["condition.caption.length"] > 0
        assert torch.equal(plain["condition.caption"][here], more["condition.caption"][here])
        withheld += int((plain["condition.caption.length"][~here] > 0).sum())
    assert withheld > 0


def test_shards_that_are_gone_too_small_or_lack_something_are_one_line(portrait_shards: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such directory"):
        open_samples(config("house", tmp_path / "nowhere", tmp_path))
    with pytest.raises(ValueError, match="no such split"):
        IndexedSamples(portrait_shards, "holdout", 0, 1, Wanted({"caption": Lstm()}))
    large = config("house", portrait_shards, tmp_path).model_dump(mode="json")
    large["stages"] = [{"resolution": 4 * 2**i, "stable_images": 8, "batch_size": 8} for i in range(5)]
    for side in ("generator", "discriminator"):
        large[side]["channels"] = [4] * 5
    with pytest.raises(ValueError, match=r"holds images of 32 pixels and the last stage draws 64: shard again"):
        open_samples(resolve(Config, large))
    with pytest.raises(ValueError, match="holds no caption embeddings: shard with --embed MODEL_DIR"):
        IndexedSamples(portrait_shards, "train", 0, 1, Wanted({"caption": Stored()}))


def test_a_loader_process_says_what_is_wrong_in_one_line(mixed_shards: Path, monkeypatch: pytest.MonkeyPatch):
    samples, before = open_samples(settings("house", mixed_shards)), set(active_children())
    monkeypatch.setattr("t2f_dist.data.dataset.MAX_IDENTITY_TRIES", -3)  # no draw is left for another identity
    for num_workers in (0, 1):
        with pytest.raises(ValueError) as raised:
            next(batches(samples, [(0, 8, 4)], 0, 1, num_workers))
        assert "no second identity within 2 shards" in str(raised.value) and "\n" not in str(raised.value)
        assert not set(active_children()) - before, "what is left of them would keep this process from ending"


def test_no_loader_process_outlives_an_error_that_is_held(mixed_shards: Path, monkeypatch: pytest.MonkeyPatch):
    """Of whatever kind; nor a stream that is closed."""

    def torn(*arguments) -> None:
        raise KeyError("unforeseen")

    samples, before = open_samples(settings("house", mixed_shards)), set(active_children())
    steps = [(0, 8, 4), (8, 8, 4)]
    stream = batches(samples, steps, 0, 1, 1)
    next(stream)
    assert set(active_children()) - before
    stream.close()
    assert not set(active_children()) - before
    monkeypatch.setattr("t2f_dist.data.shards.levels.parse", torn)
    with pytest.raises(KeyError, match="unforeseen") as raised:
        next(batches(samples, steps, 0, 1, 1))
    assert raised.value is not None and not set(active_children()) - before
