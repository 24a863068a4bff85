"""Batches of tars that nobody has indexed: what is drawn stays a function of position, samples come as they come."""

import json
from importlib import import_module
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from webdataset import utils as webdataset_switches

from t2f_dist.config.load import override, resolve
from t2f_dist.config.schema import Config
from t2f_dist.data import stream as data_stream
from t2f_dist.data.batch import Batch
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.data.order import Place
from t2f_dist.data.stream import NOTE, StreamedSamples
from t2f_dist.data.tars import SAMPLE_BYTES_MAX, in_order
from t2f_dist.shard.manifest import Manifest
from t2f_dist.storage.url import expand
from t2f_dist.training.growth import Growth
from tests.data.test_loader import joined
from tests.shard import img2dataset
from tests.shard.raw import speak
from tests.training.small import config

VOICE_ALONE = ("condition.caption=null", "condition.speech.dropout=0", "data.mismatch_candidates=1")


def pattern(shards: Path) -> str:
    num = len(Manifest.load(shards).shards("train"))
    return f"{shards}/train-{{000000..{num - 1:06d}}}.tar"


def settings(kind: str, shards: Path, *overrides: str) -> Config:
    """The small configuration of that name, on the tars of these shards."""
    words = [f"data.vocabulary={shards}/vocabulary.json"] if kind not in ("unconditional", "speech") else []
    return config(kind, Path(pattern(shards)), Path("nowhere"), *words, *overrides)


def stream(configuration: Config, num: int, start: int = 0, rank: int = 0, world: int = 1, workers: int = 0):
    samples = open_samples(configuration)
    steps = Growth(configuration.stages).steps(start)
    made = batches(samples, steps, rank, world, workers)
    try:
        return list(islice(made, num))
    finally:
        made.close()
        samples.close()


def same(one: list[Batch], other: list[Batch]) -> bool:
    pairs = [(joined((a,)), joined((b,))) for a, b in zip(one, other, strict=True)]
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_seed_gives_the_same_stream(portrait_shards: Path, workers: int):
    both = settings("both", portrait_shards)
    first = stream(both, 12, workers=workers)
    assert same(first, stream(both, 12, workers=workers))
    assert not same(first, stream(settings("both", portrait_shards, "seed=1"), 12, workers=workers))


def test_noise_and_draws_are_those_of_the_positions(portrait_shards: Path):
    """As with an index, on any number of ranks; the images are others."""
    streamed = settings("both", portrait_shards)
    indexed = resolve(Config, override(
        streamed.model_dump(mode="json"), [f"data.shards={portrait_shards}", "data.vocabulary=null"]
    ))  # fmt: skip
    whole = [joined((batch,)) for batch in stream(indexed, 6)]
    halves = [joined(pair) for pair in zip(*(stream(streamed, 6, rank=r, world=2) for r in (0, 1)), strict=True)]
    for one, other in zip(whole, halves, strict=True):
        for name in ("positions", "z", "noise", "mixing", "dropout_keys", "augment"):
            assert torch.equal(one[name], other[name])
    assert not all(torch.equal(a["images"], b["images"]) for a, b in zip(whole, halves, strict=True))


def test_images_and_captions_belong_together_and_the_mismatched_are_of_others(portrait_shards: Path):
    """Against the index: the sample is found by its image."""
    indexed = open_samples(config("house", portrait_shards, Path("nowhere")))
    total = Manifest.load(portrait_shards).num_samples("train")
    known = {}
    for position in range(total):
        item = indexed[position, 8]
        known[item.image.tobytes()] = item.identity
    captions: dict[int, set[bytes]] = {}
    assert indexed.vocabulary is not None
    for sample in in_order(expand(pattern(portrait_shards)), False):
        encoded = [np.array(indexed.vocabulary.encode(line, 100)) for line in sample.captions.decode().splitlines()]
        captions.setdefault(sample.identity, set()).update(each.tobytes() for each in encoded)
    seen = []
    for batch in stream(settings("house", portrait_shards), 30, start=48):
        for row, image in enumerate(batch.images):
            identity = known[min(known, key=lambda each: _distance(each, image))]
            seen.append(identity)
            assert identity == int(batch.identities[row]) % 2**64
            tokens, lengths = batch.condition["caption"]
            assert tokens[row, : lengths[row]].numpy().tobytes() in captions[identity]
            assert batch.mismatched_identities[row] != batch.identities[row]
            other, lengths = batch.mismatched["caption"]
            own = captions[int(batch.mismatched_identities[row]) % 2**64]
            assert other[row, : lengths[row]].numpy().tobytes() in own
    assert len(set(seen)) > 50


def _distance(known: bytes, image: torch.Tensor) -> int:
    return int(np.abs(np.frombuffer(known, np.uint8).reshape(3, 8, 8).astype(int) - image.numpy()).sum())


def test_a_later_start_is_another_order_and_says_so(portrait_shards: Path):
    house = settings("house", portrait_shards)
    assert not same(stream(house, 4, start=40), stream(house, 9)[5:])
    samples = open_samples(house)
    assert isinstance(samples, StreamedSamples) and samples.note == NOTE
    assert open_samples(config("house", portrait_shards, Path("nowhere"))).note == ""


def test_a_batch_tells_where_its_samples_stand(portrait_shards: Path):
    """Also where a loader process read them: by their numbers in the tars."""
    indexed = open_samples(resolve(Config, override(
        settings("house", portrait_shards).model_dump(mode="json"),
        [f"data.shards={portrait_shards}", "data.vocabulary=null"],
    )))  # fmt: skip
    streamed = open_samples(settings("house", portrait_shards))
    for batch in stream(settings("house", portrait_shards), 6, workers=1):
        for image, place in zip(batch.images, batch.places.tolist(), strict=True):
            there = indexed.source.level(Place(*place), image.shape[-1])
            assert there is not None and np.abs(image.numpy().astype(int) - there).max() < 8, "but for rounding"
            assert streamed.name_of(Place(*place)) == f"sample {place[1]} of {portrait_shards}/train-{place[0]:06}.tar"
    indexed.close()
    streamed.close()


def test_damaged_samples_are_replaced_and_told(portrait_shards: Path, tmp_path: Path):
    for shard in Manifest.load(portrait_shards).shards("train"):
        content = bytearray((portrait_shards / shard.name).read_bytes())
        if shard.name.startswith("train-000001"):
            content = content[: len(content) // 2]
        content[512:516] = b"????"  # of the first image
        (tmp_path / shard.name).write_bytes(content)
    (tmp_path / "vocabulary.json").write_bytes((portrait_shards / "vocabulary.json").read_bytes())
    tars = pattern(portrait_shards).replace(str(portrait_shards), str(tmp_path))
    made = stream(settings("house", portrait_shards, f"data.shards={tars}", "data.buffer_samples=20"), 14)
    damage = [each for batch in made for each in batch.damage]
    assert all(len(batch) == 8 for batch in made)
    reasons = {each.reason.partition(":")[0] for each in damage}
    assert reasons == {"image", "the rest of the tar"}
    assert all(each.shard.endswith(".tar") and 0 <= each.position < 14 * 8 for each in damage)


def test_loader_processes_without_a_tar_are_not_started_and_ranks_refused(portrait_shards: Path):
    samples = open_samples(settings("house", portrait_shards))
    assert isinstance(samples, StreamedSamples)
    num = len(samples.tars)
    assert samples.begin([(0, 8, 4)], 0, 1, 100)[1] == num
    assert samples.begin([(0, 8, 4)], 1, num, 3)[1] == 1
    with pytest.raises(ValueError, match=rf"names {num} tars for {num + 1} ranks.*t2f-dist index"):
        samples.begin([], 0, num + 1, 1)


def test_voices_are_heard_and_those_of_another_rate_are_damaged(tmp_path: Path):
    members = []
    for number in range(40):
        wav = tmp_path / f"{number}.flac"
        speak(wav, number, rate=8_000 if number % 10 == 9 else 16_000, seconds=0.2)
        voice = [] if number % 4 == 2 else [(f"{number:09d}.flac", wav.read_bytes())]
        members += [*img2dataset.sample(f"{number:09d}"), *voice]
    tar = img2dataset.write(tmp_path / "voices.tar", members)
    speech = config("both", tar, Path("nowhere"), *VOICE_ALONE)
    made = stream(speech, 12)
    samples = open_samples(speech)
    assert samples.manifest.sample_rate_hz == 16_000
    lengths = torch.cat([batch.condition["speech"][1] for batch in made]).tolist()
    assert set(lengths) == {0, 3200}
    assert {damage.reason for batch in made for damage in batch.damage} == {
        "speech: 8000 Hz, where the first voices have 16000"
    }
    assert [example.label for example in samples.examples(2)] == ["voice of 000000000", "voice of 000000001"]
    silent = img2dataset.write(tmp_path / "x.tar", members[:3])
    with pytest.raises(ValueError, match="none of the first 256 samples has a voice"):
        open_samples(config("both", silent, Path("nowhere"), *VOICE_ALONE))


def test_the_rate_is_that_of_most_of_the_first_voices_that_can_be_decoded(tmp_path: Path):
    def tar(name: str, voices: list[bytes]) -> Path:
        keys = [f"{number:09d}" for number in range(len(voices))]
        pairs = [(*img2dataset.sample(key), (f"{key}.wav", voice)) for key, voice in zip(keys, voices, strict=True)]
        return img2dataset.write(tmp_path / name, [member for pair in pairs for member in pair])

    def rate(path: Path) -> int | None:
        return open_samples(config("both", path, Path("nowhere"), *VOICE_ALONE)).manifest.sample_rate_hz

    spoken = {}
    for hertz in (500, 8_000, 16_000):
        speak(tmp_path / "x.wav", 1, rate=hertz, seconds=0.01)
        spoken[hertz] = (tmp_path / "x.wav").read_bytes()
    noise = b"RIFF" + bytes(40)
    most = [noise, spoken[500], spoken[500], spoken[500], spoken[8_000], spoken[16_000], spoken[16_000]]
    assert rate(tar("most.tar", most)) == 16_000
    with pytest.raises(
        ValueError, match=r"none of .* has a voice .*; none.tar, sample 0: speech: cannot be decoded .Format not"
    ):
        rate(tar("none.tar", [noise, spoken[500]]))


def test_what_is_read_ahead_is_bounded_in_bytes(portrait_shards: Path, monkeypatch: pytest.MonkeyPatch):
    house = settings("house", portrait_shards, "data.buffer_samples=1")
    plain = stream(house, 3)
    for most, length in ((SAMPLE_BYTES_MAX + (1 << 16), (5, 63)), (0, (2, 2))):
        monkeypatch.setattr(data_stream, "QUEUE_BYTES_MAX", most)
        samples = open_samples(house)
        assert isinstance(samples, StreamedSamples)
        for position in range(24):
            samples[position, 8]
            queue = samples._queue
            assert length[0] <= len(queue) <= length[1]
            held = [samples._in_hand.sample(queue.place(which)).num_bytes for which in range(len(queue))]
            assert queue.num_bytes == sum(held) and (not most or sum(held) - held[-1] <= 1 << 16)
        samples.close()
        assert samples._queue.num_bytes == 0
    monkeypatch.undo()
    assert same(plain, stream(house, 3))


def test_a_damaged_tar_does_not_end_a_rank_that_was_dealt_no_other(portrait_shards: Path, tmp_path: Path):
    shard = Manifest.load(portrait_shards).shards("train")[0]
    (tmp_path / "0.tar").write_bytes(b"?" * 2048)
    (tmp_path / "1.tar").write_bytes((portrait_shards / shard.name).read_bytes())
    house = settings("house", portrait_shards, f"data.shards={tmp_path}/{{0,1}}.tar", "data.buffer_samples=10")
    for rank in range(2):
        damage = [each for batch in stream(house, 20, rank=rank, world=2) for each in batch.damage]
        assert {each.shard.rpartition("/")[2] for each in damage} <= {"0.tar"}


def test_examples_are_of_the_first_samples(portrait_shards: Path):
    samples = open_samples(settings("house", portrait_shards))
    examples = samples.examples(5)
    with_index = open_samples(config("house", portrait_shards, Path("nowhere"))).examples(5)
    assert [example.label for example in examples] == [example.label for example in with_index]
    for one, other in zip(examples, with_index, strict=True):
        assert np.array_equal(one.condition["caption"], other.condition["caption"])


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("identity", None, "condition.identity needs an index"),
        ("house", "data.split=test", "data.split test needs an index"),
        ("house", "data.lanes=2", "data.lanes 2 needs an index"),
        ("house", "data.cache_dir=x", "data.cache_dir x needs an index"),
        ("house", "condition.caption={kind: stored}", "condition.caption.kind stored needs an index"),
        ("house", "data.vocabulary=null", "brings no list of words: give data.vocabulary"),
        ("house", "data.vocabulary=nowhere.json", "data.vocabulary nowhere.json: no such file"),
        ("unconditional", "data.vocabulary=words.json", "without condition.caption has no use"),
        ("house", "data.shards=pipe:touch ran; cat x.tar", "scheme 'pipe' is not allowed"),
        ("house", "data.shards=http://h/a.tar::pipe:x.tar", "chains of places"),
        ("house", "data.shards=ais://bucket/x.tar", "scheme 'ais' is not allowed"),
    ],
)
def test_what_is_impossible_is_refused_in_a_line(portrait_shards: Path, kind: str, change: str | None, message: str):
    changes = [f"data.vocabulary={portrait_shards}/vocabulary.json"] if kind == "house" else []
    base = config(kind, Path("x-{0..3}.tar"), Path("nowhere")).model_dump(mode="json")
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        open_samples(resolve(Config, override(base, [*changes, *([change] if change else [])])))
    assert message in str(raised.value) and "\n" not in str(raised.value)
    if "needs an index" in message:
        assert "t2f-dist index" in str(raised.value)


def test_a_vocabulary_beside_shards_is_refused(portrait_shards: Path):
    with pytest.raises(ValueError, match="is for tars that are streamed"):
        open_samples(config("house", portrait_shards, Path("nowhere"), "data.vocabulary=x.json"))


def test_nothing_that_the_secure_switch_of_webdataset_forbids_is_used(
    portrait_shards: Path, monkeypatch: pytest.MonkeyPatch
):
    """It forbids pickles, shells, and local paths too: here tars are opened, and members decoded, without it."""
    plain = stream(settings("both", portrait_shards), 3)
    monkeypatch.setattr(webdataset_switches, "enforce_security", True)
    monkeypatch.setattr(import_module("webdataset.gopen"), "gopen_schemes", {})
    assert same(plain, stream(settings("both", portrait_shards), 3))


def test_img2dataset_tars_without_text_files_give_the_caption_of_the_json(tmp_path: Path, portrait_shards: Path):
    members = [
        (name, content) for n in range(30) for name, content in img2dataset.sample(f"{n:09d}") if ".txt" not in name
    ]
    tar = img2dataset.write(tmp_path / "x.tar", members)
    words = {"format": "t2f-dist-vocabulary", "version": 1, "words": ["caption", "of"]}
    (tmp_path / "words.json").write_text(json.dumps(words))
    made = stream(config("house", tar, Path("nowhere"), f"data.vocabulary={tmp_path}/words.json"), 2)
    tokens, lengths = made[0].condition["caption"]
    assert lengths.tolist() == [3] * 8 and tokens.tolist() == [[2, 3, 1]] * 8
