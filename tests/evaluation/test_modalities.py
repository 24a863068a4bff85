"""How words and voices of a person who asks are read, beside how shards hold them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from t2f_dist.config.recipe import AudioRecipe
from t2f_dist.data.speech import listen
from t2f_dist.evaluation.conditions import Conditions
from t2f_dist.evaluation.modalities import Modality
from t2f_dist.models.snapshot import Snapshot
from t2f_dist.shard.encode import encode_speech
from t2f_dist.text.vocabulary import Vocabulary
from tests.models.untrained import WORDS, untrained
from tests.shard.raw import speak


@pytest.fixture(scope="module")
def faces() -> Snapshot:
    return untrained(recipe="both")


def reader(snapshot: Snapshot, name: str) -> Modality:
    return Conditions(snapshot).modalities[name]


def changed(snapshot: Snapshot, **corpus: object) -> Snapshot:
    return replace(snapshot, corpus=replace(snapshot.corpus, **corpus))


def test_words_that_the_vocabulary_lacks_are_noted_once_in_order(faces: Snapshot):
    words = reader(faces, "caption")
    text = "a man with green hair"
    assert words.note(text) == f"not in the vocabulary, so without effect: green (in {text!r})"
    assert "effect: an, old, of, the, town (in" in words.note("an old, OLD man of the old town")
    assert words.note("A smiling woman.") == ""
    expected = [2, WORDS.index("man") + 2, WORDS.index("with") + 2, 1, WORDS.index("hair") + 2]
    assert words.asked(text).tolist() == expected
    assert words.asked(" a  MAN\twith gre\u0065n hair\n").tolist() == expected


@pytest.mark.parametrize("text", ["zebra crossing", "", "?!", "42"])
def test_a_caption_without_a_known_word_is_refused(faces: Snapshot, text: str):
    with pytest.raises(ValueError, match=r"has no word of the vocabulary, which holds 8 words such as a, woman"):
        reader(faces, "caption").asked(text)


def test_known_words_past_the_limit_are_not_read():
    short = reader(untrained("data.max_words=2"), "caption")
    assert short.asked("a man with red hair").tolist() == [2, 4]
    with pytest.raises(ValueError, match="has no word of the vocabulary"):
        short.asked("never seen man")


def test_a_vocabulary_of_other_weights_is_refused(faces: Snapshot):
    for words in (WORDS[:-1], (*WORDS, "more")):
        with pytest.raises(ValueError, match=r"vocabulary has .* its encoder 10"):
            Conditions(changed(faces, vocabulary=Vocabulary(words).to_json()))
    with pytest.raises(ValueError, match="not a vocabulary"):
        Conditions(changed(faces, vocabulary="{}"))


def test_what_a_damaged_snapshot_lacks_is_named():
    with pytest.raises(ValueError, match="lists 1 identities, its encoder has 3"):
        Conditions(changed(untrained(recipe="identity"), identities=(7,)))
    stored = untrained("condition={caption: {kind: stored}}")
    with pytest.raises(ValueError, match="does not say what its caption embeddings are"):
        Conditions(changed(stored, embedding=None))
    with pytest.raises(ValueError, match="size"):
        Conditions(changed(stored, embedding={"model": "m"}))


@pytest.mark.parametrize(("suffix", "kind"), [("wav", "WAV"), ("flac", "FLAC"), ("ogg", "OGG"), ("mp3", "MP3")])
def test_a_voice_of_any_format_is_read_as_shards_store_it(faces: Snapshot, tmp_path: Path, suffix: str, kind: str):
    speak(tmp_path / "a.wav", 5, seconds=0.8)
    wave, rate = soundfile.read(tmp_path / "a.wav")
    path = tmp_path / f"voice.{suffix}"
    soundfile.write(path, wave, rate, format=kind)
    heard = reader(faces, "speech").asked(str(path))
    assert heard.dtype == np.int16
    assert len(heard) == 8000, "half a second"
    stored, _ = encode_speech(path, AudioRecipe())
    assert (heard == listen(stored, 0.5, start=0.0)).all()
    assert np.corrcoef(heard, wave[:8000])[0, 1] > 0.98


def test_voices_of_other_rates_and_channels_are_brought_to_that_of_the_snapshot(faces: Snapshot, tmp_path: Path):
    speak(tmp_path / "a.wav", 5, rate=44_100, channels=2, seconds=0.4)
    speak(tmp_path / "b.wav", 5, rate=16_000, seconds=0.4)
    here, there = (reader(faces, "speech").asked(str(tmp_path / name)) for name in ("a.wav", "b.wav"))
    assert len(here) == len(there) == 6400
    assert np.corrcoef(here, there)[0, 1] > 0.99


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"not audio at all", "unreadable audio"), (b"", "unreadable audio")],
)
def test_what_is_no_voice_is_named(faces: Snapshot, tmp_path: Path, content: bytes | None, message: str):
    if content is not None:
        (tmp_path / "voice.wav").write_bytes(content)
    with pytest.raises(ValueError, match=rf"voice .*voice\.wav: {message}.*; give a file of wav, flac, ogg or mp3"):
        reader(faces, "speech").asked(str(tmp_path / "voice.wav"))


def test_a_voice_without_a_sound_is_refused(faces: Snapshot, tmp_path: Path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    with pytest.raises(ValueError, match="without samples"):
        reader(faces, "speech").asked(str(tmp_path / "empty.wav"))
