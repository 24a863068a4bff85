"""What an item holds: its own sample, one of another identity, and what is drawn for its position."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2f_dist.config.condition import LogMel, Lstm, Modality, OneHot, Stored, Waveform
from t2f_dist.data.batch import Item
from t2f_dist.data.captions import Captions, similarity
from t2f_dist.data.dataset import Classes
from t2f_dist.data.order import Place
from t2f_dist.shard.format import identity_number
from t2f_dist.text.vocabulary import UNKNOWN, Vocabulary
from tests.data import mixed
from tests.data.items import ALL, NUM, face_of, has, held, other_of, same, samples_of, texts
from tests.data.mixed import Face


@pytest.mark.parametrize("caption", [Lstm(), Stored(), None], ids=["lstm", "stored", "none"])
@pytest.mark.parametrize("speech", [LogMel(seconds=0.4), Waveform(seconds=0.4), None], ids=["mel", "wave", "none"])
def test_an_item_is_of_its_sample(mixed_shards: Path, caption: Modality | None, speech: Modality | None):
    modalities = {"caption": caption, "speech": speech, "identity": OneHot()}
    modalities = {name: modality for name, modality in modalities.items() if modality is not None}
    samples = samples_of(mixed_shards, modalities=modalities)
    for position in range(NUM):
        item = samples[position, 8]
        face = mixed.faces(samples.order.locate(position))
        assert np.array_equal(item.image, face.image.transpose(2, 0, 1))
        assert held(item.condition) == has(face) & set(modalities)
        assert set(item.condition) == set(modalities)
        if isinstance(caption, Lstm) and face.captions:
            assert item.condition["caption"].tolist() in texts(face)
        elif caption is not None and face.captions:
            ((number, row),) = item.condition["caption"].tolist()
            assert number == face.number and row in range(3)
        if speech is not None and len(face.voice):
            part = item.condition["speech"]
            start = int(part[0]) - int(face.voice[0])
            assert np.array_equal(part, face.voice[start : start + 400])
            assert len(part) == min(400, len(face.voice)), "whole if short"
        assert item.identity == identity_number(f"person {face.person}")
        assert same(item, samples_of(mixed_shards, modalities=modalities)[position, 8]), "the same in any process"


def test_the_stored_embedding_is_that_of_the_caption_drawn(mixed_shards: Path):
    words, stored = (samples_of(mixed_shards, modalities={"caption": kind}) for kind in (Lstm(), Stored()))
    rows = []
    for position in range(3 * NUM):
        as_words, as_vector = words[position, 4].condition["caption"], stored[position, 4].condition["caption"]
        if len(as_words):
            ((number, row),) = as_vector.astype(int).tolist()
            assert as_words.tolist() == texts(Face(number))[row]
            rows.append(row)
        else:
            assert as_vector.shape == (0, 2)
    assert min(np.bincount(rows)) > len(rows) / 5, "each caption has its turn"


def test_voices_are_cut_at_a_place_of_the_position(mixed_shards: Path):
    samples = samples_of(mixed_shards)
    shares = []
    for position in range(6 * NUM):
        item = samples[position, 4]
        face = face_of(item)
        if len(face.voice) > 450:
            start = int(item.condition["speech"][0]) - int(face.voice[0])
            shares.append(start / (len(face.voice) - 400))
    assert len(shares) > 50 and abs(np.mean(shares) - 0.5) < 0.1 and np.std(shares) > 0.2
    other = samples_of(mixed_shards, seed=6)
    assert not any(same(samples[position, 4], other[position, 4]) for position in range(12))


SHARES = {"caption": 0.3, "speech": 0.5, "identity": 0.2}
DROPPING = {name: modality.model_copy(update={"dropout": SHARES[name]}) for name, modality in ALL.items()}


def test_modalities_are_withheld_in_their_shares_and_never_all(mixed_shards: Path):
    samples, whole = samples_of(mixed_shards, modalities=DROPPING), samples_of(mixed_shards)
    withheld, count = dict.fromkeys(ALL, 0), 0
    for position in range(12 * NUM):
        item, full = samples[position, 4], whole[position, 4]
        left = held(item.condition)
        assert left and left <= held(full.condition)
        assert held(item.mismatched) == left
        assert all(np.array_equal(item.condition[name], full.condition[name]) for name in left)
        assert all(np.array_equal(item.mismatched[name], full.mismatched[name]) for name in left)
        if len(held(full.condition)) == 3:
            count += 1
            for name in ALL:
                withheld[name] += name not in left
        if position % 40 == 0:
            assert same(item, samples_of(mixed_shards, modalities=DROPPING)[position, 4])
    # Of 0.3 * 0.5 * 0.2 = 3 % all would be withheld; one of the three stays then.
    for name, share in SHARES.items():
        assert share - 0.03 - 0.05 < withheld[name] / count < share + 0.05, name
    assert sum(SHARES.values()) - 0.03 - 0.08 < sum(withheld.values()) / count < sum(SHARES.values()) - 0.03 + 0.08


def test_of_one_modality_nothing_is_withheld_even_where_all_should_be(mixed_shards: Path):
    greedy = {name: modality.model_copy(update={"dropout": 1.0}) for name, modality in ALL.items()}
    samples = samples_of(mixed_shards, modalities=greedy)
    left = [held(samples[position, 4].condition) for position in range(60)]
    assert all(len(each) == 1 for each in left)
    assert set().union(*left) == set(ALL), "by turns"


def test_classes_are_those_of_the_training_split_and_only_of_them(mixed_shards: Path):
    train, validation = samples_of(mixed_shards, identities=True), samples_of(mixed_shards, "validation")
    people = {identity_number(f"person {number}") for number in range(mixed.PEOPLE)}
    assert list(train.identities) == list(validation.identities) == sorted(people)
    for position in range(NUM):
        item = train[position, 4]
        assert train.identities[item.identity_class] == item.identity
        assert item.condition["identity"].tolist() == [item.identity_class]
    alone = samples_of(mixed_shards, "validation", mismatched=frozenset())
    known = []
    for position in range(6):
        item, other = alone[position, 4], validation[position, 4]
        known.append(item.identity_class >= 0)
        assert item.condition["identity"].tolist() == ([item.identity_class] if known[-1] else [])
        assert known[-1] == (item.identity in people)
        assert not len(other.mismatched["identity"]), "the other's identity has no class, or one's own has none"
    assert sum(known) == 1, "that one is in both splits"
    nobody = samples_of(mixed_shards, modalities={"caption": Lstm()})
    assert not nobody.identities and nobody[0, 4].identity_class == -1


def test_examples_have_all_that_is_wanted_and_a_label_each(mixed_shards: Path):
    for modalities in (ALL, {"speech": ALL["speech"]}, {"identity": OneHot()}, {"caption": Stored()}):
        samples = samples_of(mixed_shards, modalities=modalities)
        whole = [number for number in range(NUM) if has(Face(number)) >= set(modalities)]
        examples = samples.examples(len(whole) + 9)
        assert len({example.label for example in examples}) == len(examples) > 5
        assert all(held(example.condition) == set(modalities) for example in examples)
        assert [example.label for example in samples.examples(4)] == [example.label for example in examples[:4]]
        first = Face(whole[0])
        if "caption" in modalities:
            assert examples[0].label.startswith(first.captions[0])
        elif "identity" in modalities:
            assert examples[0].label == f"person {first.person}"
        if "speech" in modalities:
            assert f"voice of face-{first.number}" in examples[0].label
            assert np.array_equal(examples[0].condition["speech"], first.voice[:400]), "from its beginning"


def test_examples_look_at_a_bounded_number_of_samples(rare_shards: Path, monkeypatch: pytest.MonkeyPatch):
    samples = samples_of(rare_shards, modalities={"speech": ALL["speech"]})
    read: list[Place] = []
    members = samples.shards.members

    def counted(place: Place, names) -> dict[str, bytes]:
        read.append(place)
        return members(place, names)

    monkeypatch.setattr(samples.shards, "members", counted)
    for limit, labels in ((20, ["voice of face-0"]), (21, ["voice of face-0", "voice of face-20"])):
        monkeypatch.setattr("t2f_dist.data.indexed.MAX_LOOKED_AT", limit)
        read.clear()
        assert [example.label for example in samples.examples(9)] == labels
        assert len(read) == len(set(read)) == limit, "each once"
    read.clear()
    assert len(samples.examples(1)) == len(read) == 1, "no more than needed"


def test_captions_and_flips_vary_from_epoch_to_epoch(portrait_shards: Path):
    samples = samples_of(portrait_shards, modalities={"caption": Lstm()}, flip=True)
    visits: dict[Place, list[Item]] = {}
    for position in range(3 * samples.order.num_samples):
        visits.setdefault(samples.order.locate(position), []).append(samples[position, 4])
    assert np.mean([len({tuple(item.condition["caption"]) for item in items}) > 1 for items in visits.values()]) > 0.7
    flipped = [any(not np.array_equal(items[0].image, item.image) for item in items[1:]) for items in visits.values()]
    assert 0.6 < np.mean(flipped) < 0.9  # three draws of a coin differ with probability 3/4


def test_a_flip_mirrors_both_images_or_none(mixed_shards: Path):
    samples, plain = samples_of(mixed_shards, flip=True), samples_of(mixed_shards)
    flips = 0
    for position in range(NUM):
        item, straight = samples[position, 8], plain[position, 8]
        flip = not np.array_equal(item.image, straight.image)
        flips += flip
        way = -1 if flip else 1
        assert np.array_equal(item.image, straight.image[:, :, ::way])
        assert np.array_equal(item.mismatched_image, straight.mismatched_image[:, :, ::way])
    assert NUM / 4 < flips < 3 * NUM / 4


DAMAGED = Place(1, 3)  # number 15: a voice and no caption; number 14 has both


def test_an_item_is_the_same_from_small_pictures_and_from_whole_ones(mixed_shards: Path, tmp_path: Path):
    stored, decoded = samples_of(mixed_shards), samples_of(mixed.write(tmp_path / "shards", with_levels=False))
    for position in range(NUM):
        for resolution in (4, 8):
            assert same(stored[position, resolution], decoded[position, resolution])


@pytest.mark.parametrize(
    ("member", "row"), [("lod", 3), ("image", 3), ("speech", 3), ("captions", 2), ("embeddings", 2)]
)
def test_a_damaged_sample_changes_exactly_its_own_positions_and_is_recorded(
    mixed_shards: Path, tmp_path: Path, member: str, row: int
):
    shards, place = tmp_path / "shards", Place(1, row)
    if member == "image":  # read where there are no small pictures
        mixed.write(shards, with_levels=False)
    else:
        shutil.copytree(mixed_shards, shards)
    name = mixed.damage(shards, place, member)
    kinds = ALL | ({"caption": Stored()} if member == "embeddings" else {})
    damaged, again, sound = (samples_of(each, modalities=kinds, mismatched=frozenset())
                             for each in (shards, shards, mixed_shards))  # fmt: skip
    hits = 0
    for position in range(2 * NUM):
        item = damaged[position, 4]
        hit = damaged.order.locate(position) == place
        hits += hit
        assert bool(item.damage) == hit
        assert same(item, sound[position, 4]) == (not hit)
        if hit:
            assert item.damage[0][:3] == (position, name, row)
            assert member in item.damage[0].reason and "checksum" in item.damage[0].reason
            assert face_of(item) != mixed.faces(place)
            assert np.array_equal(item.image, again[position, 4].image)
    assert hits == 2
    other = samples_of(shards, modalities=kinds)
    for position in range(2 * NUM):
        item = other[position, 4]
        assert item.damage == damaged[position, 4].damage, "as another's mismatched sample it is passed over"
        assert other_of(item) != mixed.faces(place)


def test_nothing_but_damage_is_given_up_with_a_remedy(mixed_shards: Path, monkeypatch: pytest.MonkeyPatch):
    def torn(*arguments) -> None:
        raise ValueError("torn")

    monkeypatch.setattr("t2f_dist.data.shards.levels.parse", torn)
    with pytest.raises(ValueError, match=r"16 damaged samples in a row at position 3, .* lod: torn; run `t2f-dist"):
        samples_of(mixed_shards)[3, 4]


def test_damage_in_a_tar_at_a_url_is_told_without_what_is_secret_in_it(
    mixed_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    samples = samples_of(Path(shutil.copytree(mixed_shards, tmp_path / "shards")))
    secret = [
        shard.model_copy(update={"name": f"https://me:pass@host/{shard.name}?sign=1"})
        for shard in samples.source.listed
    ]
    shards, position = samples.shards, next(p for p in range(NUM) if samples.order.locate(p) == DAMAGED)
    mixed.damage(tmp_path / "shards", DAMAGED, "lod")
    samples[position, 4]
    monkeypatch.setattr(shards, "listed", secret)
    assert samples[position, 4].damage[0].shard == "https://host/train-000001.tar"
    monkeypatch.setattr("t2f_dist.data.dataset.MAX_SUBSTITUTES", 1)
    with pytest.raises(ValueError, match=r"the last in https://host/train-000001.tar: lod"):
        samples[position, 4]


@settings(max_examples=30)
@given(st.sets(st.integers(0, 2**64 - 1), max_size=9), st.integers(0, 2**64 - 1))
def test_classes_are_the_places_of_identities_among_all_that_are_sorted(known: set[int], other: int):
    listed = sorted(known)
    classes = Classes(listed)
    assert dict(classes) == {identity: number for number, identity in enumerate(listed)}
    assert classes.get(other, -1) == (listed.index(other) if other in known else -1)


def test_a_caption_without_a_known_word_is_one_unknown_word():
    captions = Captions(Vocabulary(mixed.WORDS), 2)
    assert captions.encode("never seen").tokens.tolist() == [UNKNOWN, UNKNOWN]
    assert captions.encode("?!").tokens.tolist() == [UNKNOWN]
    assert captions.encode("w0 w1 w2").tokens.tolist() == [2, 3], "cut to two words"
    assert captions.read(Place(0, 0), b"") == captions.get(Place(0, 0)) == []
    one, other = captions.encode("w1 w2"), captions.encode("w2 w3")
    assert similarity(one, other) == 1 / 3 and similarity(one, one) == 1


def test_a_batch_tells_where_its_samples_stand_and_they_have_names(mixed_shards: Path):
    samples = samples_of(mixed_shards)
    batch = samples.batch([(position, 8) for position in range(40, 60)])
    for row, (own, other) in enumerate(zip(batch.places.tolist(), batch.mismatched_places.tolist(), strict=True)):
        for place, images in ((Place(*own), batch.images), (Place(*other), batch.mismatched_images)):
            face = mixed.faces(place)
            assert np.array_equal(images[row].permute(1, 2, 0).numpy(), face.image)
            assert samples.name_of(place) == f"face-{face.number} in train-{place.shard:06}.tar"
    samples.close()
