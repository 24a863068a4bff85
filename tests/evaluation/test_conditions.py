"""Every kind of condition, of a person who asks and of shards, through real networks to faces."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from t2f_dist.evaluation.conditions import Asked, Conditions
from t2f_dist.evaluation.sample import sample
from t2f_dist.models.snapshot import Corpus, Snapshot, load, save
from t2f_dist.shard.format import identity_number
from t2f_dist.shard.manifest import Manifest
from t2f_dist.text.vocabulary import Vocabulary
from tests.models.untrained import untrained
from tests.sentence_model import model_folder
from tests.shard.raw import speak

STORED = "condition={caption: {kind: stored}}"
STRICT = ("condition.caption.dropout=0", "condition.speech.dropout=0")
ALL = ("condition.identity={kind: one_hot, dropout: 0.3}",)  # of the recipe `both`
WIDE = ("condition.speech.hidden_sizes=[64]", "condition.speech.size=32", "condition.speech.channels=[4, 8, 8, 16]")
TEXTS = ["a smiling man", "A woman with red hair."]


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three, of other pitches and lengths."""
    folder = tmp_path_factory.mktemp("voices")
    for number, rate in enumerate((16_000, 16_000, 22_050)):
        speak(folder / f"voice {number}.wav", number * 7, rate, seconds=0.2 + 0.1 * number)
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def both() -> Snapshot:
    return untrained(recipe="both")


def faces(snapshot: Snapshot, asked: Asked, num: int = 1, seed: int = 3) -> torch.Tensor:
    return sample(snapshot, Conditions(snapshot), asked, num, seed)


def recorded(shards: Path) -> dict[str, Any]:
    """What the caption embeddings in shards are."""
    embedding = Manifest.load(shards).embedding
    assert embedding is not None
    return embedding.model_dump(mode="json")


def ask(snapshot: Snapshot, **texts: list[str]) -> Asked:
    return Conditions(snapshot).asked(texts)


def test_captions_and_voices_are_one_grid_whose_cells_are_single_draws(both: Snapshot, voices: list[str]):
    asked = ask(both, speech=voices, caption=TEXTS)
    assert asked.rows == tuple(TEXTS)
    assert asked.columns == ("voice 0.wav", "voice 1.wav", "voice 2.wav")
    grid = faces(both, asked)
    pairs = list(itertools.product(TEXTS, voices))
    for (text, voice), cell in zip(pairs, grid, strict=True):
        assert torch.equal(faces(both, ask(both, caption=[text], speech=[voice]))[0], cell)
    assert len({cell.numpy().tobytes() for cell in grid}) == 6, "a face follows its caption, and its voice"


@pytest.mark.parametrize("modality", ["caption", "speech"])
def test_one_of_two_is_a_row_each_with_other_noise_across(both: Snapshot, voices: list[str], modality: str):
    texts = {"caption": TEXTS, "speech": voices}[modality]
    asked = ask(both, **{modality: texts})
    assert asked.columns == ()
    assert asked.rows == (tuple(TEXTS) if modality == "caption" else ("voice 0.wav", "voice 1.wav", "voice 2.wav"))
    drawn = faces(both, asked, num=2)
    for row, text in enumerate(texts):
        assert torch.equal(faces(both, ask(both, **{modality: [text]}), num=2), drawn[2 * row : 2 * row + 2])
    assert len({cell.numpy().tobytes() for cell in drawn}) == len(drawn)


def test_a_missing_modality_is_the_learnt_vector_and_not_silence(both: Snapshot, voices: list[str]):
    alone, together = ask(both, caption=TEXTS[:1]), ask(both, caption=TEXTS[:1], speech=voices[:1])
    before = faces(both, together)
    assert not torch.equal(faces(both, alone), before)
    other = untrained(recipe="both")
    other.generator.encoder.missing["speech"].fill_(2.0)
    assert not torch.equal(faces(other, alone), faces(both, alone))
    assert torch.equal(faces(other, together), before)


def test_all_three_have_voices_across_and_combinations_of_the_rest_down(voices: list[str]):
    snapshot = untrained(*ALL, recipe="both")
    asked = ask(snapshot, caption=TEXTS, speech=voices[:2], identity=["p 3", "Ada"])
    assert asked.rows == tuple(f"{text}, identity {name}" for text in TEXTS for name in ("p 3", "Ada"))
    grid = faces(snapshot, asked)
    assert len({cell.numpy().tobytes() for cell in grid}) == 8
    for index, (text, name, voice) in enumerate(itertools.product(TEXTS, ("p 3", "Ada"), voices[:2])):
        single = ask(snapshot, caption=[text], speech=[voice], identity=[name])
        assert torch.equal(faces(snapshot, single)[0], grid[index])
    for given in ({"identity": ["Ada"]}, {"speech": voices}, {"caption": TEXTS, "identity": ["Ada"]}):
        assert len(faces(snapshot, ask(snapshot, **given))) == max(map(len, given.values()))


def test_waveforms_too_are_a_row_each_and_only_their_beginnings_are_heard(voices: list[str], tmp_path: Path):
    snapshot = untrained(*WIDE, recipe="wav2pix")
    drawn = faces(snapshot, ask(snapshot, speech=voices))
    assert len({face.numpy().tobytes() for face in drawn}) == 3
    for name, seconds in (("half", 0.5), ("long", 2.0)):
        speak(tmp_path / f"{name}.wav", 3, seconds=seconds)
    asked = ask(snapshot, speech=[str(tmp_path / "half.wav"), str(tmp_path / "long.wav")])
    assert [len(cell["speech"]) for cell in asked.cells] == [8000, 8000]
    half, long = faces(snapshot, asked)
    assert torch.equal(half, long)


def test_identities_are_their_places_among_those_trained_with(tmp_path: Path):
    snapshot = untrained(recipe="identity")
    save(tmp_path / "faces.safetensors", snapshot)
    loaded = load(tmp_path / "faces.safetensors")
    asked = ask(loaded, identity=["Émile", "p 3"])
    assert asked.rows == ("identity Émile", "identity p 3")
    places = [snapshot.corpus.identities.index(identity_number(name)) for name in ("Émile", "p 3")]
    assert [cell["identity"].tolist() for cell in asked.cells] == [[place] for place in places]
    drawn = faces(loaded, asked)
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn, faces(snapshot, asked))
    with pytest.raises(ValueError, match="identity 'ada' is none of the 3 that the snapshot was trained with"):
        ask(loaded, identity=["ada"])


def test_without_any_condition_there_is_one_cell():
    snapshot = untrained(recipe="unconditional")
    asked = ask(snapshot)
    assert asked == Asked(("",), (), ({},))
    drawn = faces(snapshot, asked, num=3)
    assert torch.equal(drawn, snapshot.draw({}, range(3), seed=3))
    assert not torch.equal(drawn[0], drawn[1])
    with pytest.raises(ValueError, match="draws without any condition: leave --shards out"):
        Conditions(snapshot).of_shards(Path("nowhere"), "test", 3)


@pytest.mark.parametrize(
    ("snapshot", "given", "message"),
    [
        (untrained(), "", "no caption: give --caption TEXT, or --captions FILE with one a line"),
        (untrained(), "caption speech", r"not trained with a voice \(condition.speech is null\): leave --voice out"),
        (untrained(), "identity", r"not trained with an identity .*: leave --identity out"),
        (untrained(recipe="unconditional"), "caption", "not trained with a caption .*: leave --caption out"),
        (untrained(recipe="wav2pix"), "", "no voice: give --voice FILE, or --voices DIR"),
        (untrained(recipe="identity"), "", "no identity: give --identity NAME"),
        (untrained(recipe="both"), "", "no condition: give --caption TEXT, .*; --voice FILE, or --voices DIR"),
        (untrained(*STRICT, recipe="both"), "caption", r"\(condition.speech.dropout is 0\): give --voice FILE, .*drop"),
        (untrained(STRICT[0], recipe="both"), "speech", r"\(condition.caption.dropout is 0\): give --caption TEXT"),
    ],
)
def test_what_a_snapshot_cannot_be_asked_with_is_refused(snapshot: Snapshot, given: str, message: str):
    with pytest.raises(ValueError, match=message):
        ask(snapshot, **{name: ["anything"] for name in given.split()})


def test_only_a_modality_that_is_never_withheld_is_needed(voices: list[str]):
    caption_always = untrained(STRICT[0], recipe="both")
    assert len(ask(caption_always, caption=TEXTS).cells) == 2
    strict = untrained(*STRICT, recipe="both")
    assert len(ask(strict, caption=TEXTS, speech=voices).cells) == 6


def test_a_sentence_encoder_embeds_new_captions_as_it_did_those_of_the_shards(embedded: Path):
    snapshot = untrained(STORED, corpus=Corpus("", recorded(embedded)))
    conditions = Conditions(snapshot, model_folder())
    stored = conditions.of_shards(embedded, "train", 3)
    asked = conditions.asked({"caption": [*stored.rows, "  somebody else\n"]})
    assert len(stored.rows) == 3
    for here, there in zip(stored.cells, asked.cells, strict=False):
        assert np.abs(here["caption"] - there["caption"]).max() < 1e-5
    drawn = faces(snapshot, asked)
    assert len({face.numpy().tobytes() for face in drawn}) == 4
    with pytest.raises(ValueError, match=r"embeddings of the model 'model' \(sha256 \w{8}\.\.\.\): give its folder"):
        ask(snapshot, caption=TEXTS)
    with pytest.raises(ValueError, match="is empty"):
        conditions.asked({"caption": [" \n"]})


def test_another_sentence_encoder_is_refused_by_name(tmp_path: Path):
    snapshot = untrained(STORED)
    (tmp_path / "other").mkdir()
    for path in model_folder().iterdir():
        (tmp_path / "other" / path.name).symlink_to(path)
    with pytest.raises(ValueError, match=r"other is not the model that embedded .* of small-model 000000000000\.\.\."):
        Conditions(snapshot, tmp_path / "other").asked({"caption": TEXTS})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Conditions(snapshot, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is no sentence-transformers model"):
        Conditions(snapshot, tmp_path)
    with pytest.raises(ValueError, match="reads no caption by a sentence encoder; leave it out"):
        Conditions(untrained(), tmp_path / "other")


def test_embeddings_of_a_corpus_have_no_new_captions():
    of_corpus = {"size": 5, "model": "", "sha256": "", "source": "corpus"}
    snapshot = untrained(STORED, corpus=Corpus("", of_corpus))
    with pytest.raises(ValueError, match="came with their embeddings, .* with --shards DIR"):
        ask(snapshot, caption=TEXTS)


def test_samples_of_shards_are_asked_as_the_snapshot_reads_them(portrait_shards: Path, both: Snapshot):
    """By the words of the snapshot, which are others than those of these shards."""
    asked = Conditions(both).of_shards(portrait_shards, "validation", 3)
    assert asked.columns == ()
    assert len(set(asked.rows)) == 3
    words = Vocabulary.from_json(both.corpus.vocabulary)
    for row, cell in zip(asked.rows, asked.cells, strict=True):
        text, _, voice = row.partition(" (voice of ")
        assert cell["caption"].tolist() == words.encode(text, 100)
        assert voice.endswith(")")
        assert cell["speech"].dtype == np.int16
        assert 0 < len(cell["speech"]) <= 8000, "half a second"
    drawn = faces(both, asked, num=2)
    assert len({face.numpy().tobytes() for face in drawn}) == 6
    assert Conditions(both).of_shards(portrait_shards, "validation", 2).rows == asked.rows[:2]
    caption_alone = Conditions(untrained()).of_shards(portrait_shards, "validation", 3)
    assert caption_alone.rows == tuple(row.partition(" (voice of ")[0] for row in asked.rows)


def test_identities_that_the_split_does_not_share_are_missing_where_they_may_be(portrait_shards: Path):
    asked = Conditions(untrained(*ALL, recipe="both")).of_shards(portrait_shards, "test", 2)
    assert [set(cell) for cell in asked.cells] == [{"caption", "speech"}] * 2
    with pytest.raises(ValueError, match="no sample of the split test in .* has an identity"):
        Conditions(untrained(recipe="identity")).of_shards(portrait_shards, "test", 2)


def test_shards_of_another_kind_are_refused(portrait_shards: Path, both: Snapshot, tmp_path: Path):
    with pytest.raises(ValueError, match="holds no caption embeddings: shard it again with --embed"):
        Conditions(untrained(STORED)).of_shards(portrait_shards, "test", 2)
    slow = replace(both, facts=replace(both.facts, sample_rate_hz=8000))
    with pytest.raises(ValueError, match="of 16000 Hz, and the snapshot was trained with 8000 Hz"):
        Conditions(slow).of_shards(portrait_shards, "test", 2)
    with pytest.raises(FileNotFoundError, match="no such directory of shards"):
        Conditions(both).of_shards(tmp_path / "nowhere", "test", 2)


def test_embeddings_of_another_model_in_shards_are_refused(embedded: Path):
    snapshot = untrained(STORED, corpus=Corpus("", recorded(embedded) | {"model": "small-model", "sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"are of model \(sha256 .*trained with those of small-model"):
        Conditions(snapshot).of_shards(embedded, "train", 2)


def test_samples_without_captions_are_passed_over(embedded: Path):
    """People 1 and 6 have none."""
    conditions = Conditions(untrained(STORED, corpus=Corpus("", recorded(embedded))))
    rows = {row for split in ("train", "test") for row in conditions.of_shards(embedded, split, 99).rows}
    assert rows == {f"person {person} smiles" for person in (0, 2, 3, 4, 5, 7)}
