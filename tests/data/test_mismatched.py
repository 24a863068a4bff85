"""The sample of another identity: whose it is, what it has, and what becomes of what it lacks."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from t2f_dist.config.condition import Lstm
from t2f_dist.data.captions import Captions, similarity
from t2f_dist.data.loader import open_samples
from t2f_dist.shard import format as shard_format
from t2f_dist.shard.format import identity_number
from t2f_dist.shard.manifest import Manifest
from t2f_dist.text.vocabulary import Vocabulary
from tests.data import mixed
from tests.data.items import ALL, BOTH, NUM, face_of, has, held, other_of, samples_of, texts
from tests.data.mixed import Rare
from tests.training.small import config


def test_the_mismatched_sample_is_of_another_identity_and_has_what_the_own_has(mixed_shards: Path):
    samples = samples_of(mixed_shards)
    for position in range(3 * NUM):
        item = samples[position, 4]
        own, other = face_of(item), other_of(item)
        assert own.person != other.person
        assert has(own) <= has(other)
        assert held(item.mismatched) == held(item.condition) == has(own), "else the lack of one would tell them apart"
        if "caption" in item.mismatched and len(item.mismatched["caption"]):
            assert item.mismatched["caption"].tolist() in texts(other)
        if len(own.voice):
            part = item.mismatched["speech"]
            start = int(part[0]) - int(other.voice[0])
            assert np.array_equal(part, other.voice[start : start + 400]), "condition and image are of one sample"
        assert item.mismatched["identity"].tolist() == [samples._classes[identity_number(f"person {other.person}")]]


def test_the_mismatched_sample_is_the_nearest_in_words(mixed_shards: Path):
    """With so many candidates that the whole window is among them, none of another identity is nearer."""
    captions = Captions(Vocabulary(mixed.WORDS), 100)
    found = []
    for candidates in (1, 4, 400):
        samples = samples_of(mixed_shards, modalities={"caption": Lstm()}, mismatch_candidates=candidates)
        nearness = []
        for position in range(2 * NUM):
            item, (window, _) = samples[position, 4], samples.order.window(position)
            own = face_of(item)
            if not own.captions:
                continue
            own_text = next(text for text in own.captions if captions.encode(text).tokens.tolist() ==
                            item.condition["caption"].tolist())  # fmt: skip
            other = next(text for text in other_of(item).captions if captions.encode(text).tokens.tolist() ==
                         item.mismatched["caption"].tolist())  # fmt: skip
            nearness.append(similarity(captions.encode(own_text), captions.encode(other)))
            if candidates == 400:
                everyone = [mixed.faces(window.place(index)) for index in range(len(window))]
                best = max(
                    similarity(captions.encode(own_text), captions.encode(text))
                    for face in everyone
                    if face.person != own.person
                    for text in face.captions
                )
                assert nearness[-1] == best
        found.append(np.mean(nearness))
    assert found[0] + 0.1 < found[1] < found[2]


def test_of_real_captions_too_the_more_candidates_the_nearer(portrait_shards: Path):
    nearness = []
    for candidates in (1, 8):
        samples = samples_of(portrait_shards, modalities={"caption": Lstm()}, mismatch_candidates=candidates)
        overlaps = []
        for position in range(60):
            item = samples[position, 4]
            own, other = set(item.condition["caption"].tolist()), set(item.mismatched["caption"].tolist())
            overlaps.append(len(own & other) / len(own | other))
        nearness.append(np.mean(overlaps))
    assert nearness[1] > nearness[0] + 0.05


@pytest.mark.parametrize(
    "mismatched",
    [frozenset(), frozenset({"condition"}), frozenset({"image"}), BOTH],
    ids=lambda names: "-".join(sorted(names)),
)
def test_of_the_other_sample_only_what_is_wanted_is_held(mixed_shards: Path, mismatched: frozenset[str]):
    samples, whole = samples_of(mixed_shards, mismatched=mismatched), samples_of(mixed_shards)
    for position in range(20):
        item, full = samples[position, 4], whole[position, 4]
        assert set(item.mismatched) == set(ALL)
        if "image" in mismatched:
            assert np.array_equal(item.mismatched_image, full.mismatched_image)
        else:
            assert item.mismatched_image.shape == (3, 0, 0)
        expected = held(full.mismatched) if "condition" in mismatched else set()
        assert held(item.mismatched) == expected
        assert all(np.array_equal(item.mismatched[name], full.mismatched[name]) for name in expected)


RARE = {name: ALL[name] for name in ("caption", "speech")}


@pytest.mark.parametrize("names", [("speech",), ("caption", "speech"), tuple(ALL)], ids="-".join)
def test_what_few_have_does_not_end_the_run(rare_shards: Path, names: tuple[str, ...]):
    """The two conditions have the same modalities, or there is no mismatched one."""
    samples = samples_of(rare_shards, modalities={name: ALL[name] for name in names})
    whole, partly, nothing = 0, 0, 0
    for position in range(12 * NUM):
        item = samples[position, 4]
        own, other = Rare(face_of(item).number), Rare(other_of(item).number)
        assert own.person != other.person
        assert item.mismatched_identity == identity_number(f"person {other.person}") != item.identity
        full = has(own) & set(names)
        common = full & has(other)
        assert held(item.mismatched) == common
        assert held(item.condition) == (common or full), "nothing is left unconditional for the lack of another"
        nothing += bool(full) and not common
        whole += bool(common) and common == full
        partly += bool(common) and common < full
    assert whole > 0
    assert (partly > 0) == (len(names) > 1)
    assert (nothing > 0) == ("identity" not in names)


def test_what_the_other_lacks_is_withheld_from_what_dropout_left(rare_shards: Path):
    dropping = {name: modality.model_copy(update={"dropout": 0.5}) for name, modality in RARE.items()}
    samples, whole = samples_of(rare_shards, modalities=dropping), samples_of(rare_shards, modalities=RARE)
    without = 0
    for position in range(12 * NUM):
        item, full = samples[position, 4], whole[position, 4]
        own, other = Rare(face_of(item).number), Rare(other_of(item).number)
        assert other_of(full) == other_of(item)
        assert bool(held(item.condition)) == bool(has(own) & set(RARE)), "never all is withheld"
        assert held(item.mismatched) == held(item.condition) & has(other)
        assert held(item.mismatched) in (held(item.condition), set())
        without += bool(held(item.condition)) and not held(item.mismatched)
    assert without > 0


def test_one_identity_alone_cannot_be_mismatched(portrait_shards: Path):
    samples = samples_of(portrait_shards, modalities={"caption": Lstm()})
    for number in range(len(samples.shards.listed)):  # as if the corpus were of one person
        opened = samples.shards[number]
        opened.identities = [7] * len(opened.identities)
    with pytest.raises(ValueError, match="no second identity within 2 shards of position 0"):
        samples[0, 4]


def test_a_damaged_candidate_gives_way_to_another(portrait_shards: Path, tmp_path: Path):
    """Of one candidate only, and the voice of every third sample damaged."""
    shards = Path(shutil.copytree(portrait_shards, tmp_path / "shards"))
    for shard in Manifest.load(shards).shards("train"):
        index = shard_format.open_index(shards / shard.index, shard)
        content = bytearray((shards / shard.name).read_bytes())
        for record in index[::3]:
            content[int(record["speech_offset"]) + 20] ^= 1
        (shards / shard.name).write_bytes(content)
    samples = open_samples(config("both", shards, Path("nowhere"), "data.mismatch_candidates=1"))
    items = [samples[position, 8] for position in range(100)]
    assert sum(bool(item.damage) for item in items) > 20
    assert all(item.mismatched_identity != item.identity for item in items)
