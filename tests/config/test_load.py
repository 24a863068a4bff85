import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.config.load import dump, override, read_yaml, resolve
from t2f_dist.config.schema import Config

SMALL = {
    "data": {"shards": "x"},
    "condition": {"caption": {"kind": "lstm"}},
    "generator": {"kind": "progan", "channels": [8, 8]},
    "discriminator": {"kind": "progan", "channels": [8, 8]},
    "stages": [
        {"resolution": 4, "stable_images": 16, "batch_size": 8},
        {"resolution": 8, "fade_images": 16, "stable_images": 16, "batch_size": 8},
    ],
}


def _refused(mapping, overrides=()):
    with pytest.raises(ValueError) as caught:
        resolve(Config, mapping, overrides, source="run.yaml")
    message = str(caught.value)
    assert "\n" not in message and message.startswith("run.yaml: ")
    return message


def test_a_resolved_configuration_is_the_same_after_a_round_trip(tmp_path):
    config = resolve(Config, SMALL, ["optimizer.generator.eps=1e-10", "stages.1.learning_rate_factor=0.5"])
    (tmp_path / "c.yaml").write_text(dump(config))
    assert resolve(Config, read_yaml(tmp_path / "c.yaml")) == config
    assert config.optimizer.generator.eps == 1e-10 and config.stages[1].learning_rate_factor == 0.5


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_read_as_a_number(value):
    assert override({}, [f"a.b={value!r}"]) == {"a": {"b": value}}


def test_an_exponent_without_a_dot_is_a_number_and_a_duplicate_key_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: 1e-4\nb: 2E5\nc: v1e4\n")
    assert read_yaml(path) == {"a": 1e-4, "b": 2e5, "c": "v1e4"}
    path.write_text("a: 1\nb:\n  c: 1\n  c: 2\n")
    with pytest.raises(ValueError, match=r"c\.yaml line 4: the key 'c' is given twice"):
        read_yaml(path)


@pytest.mark.parametrize("text", ["- a\n", "a: [", "a: b: c", "{", "\t- x", "!!python/object:os.system {}"])
def test_what_is_no_mapping_is_one_line(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value) and "c.yaml" in str(caught.value)


def test_a_typing_error_names_the_key_and_the_near_one():
    assert "unknown key data.shard (did you mean shards?)" in _refused(SMALL, ["data.shard=y"])
    assert "unknown key stages.1.resolutoin (did you mean resolution?)" in _refused(SMALL, ["stages.1.resolutoin=8"])
    assert "generator.z_size is 'many'" in _refused(SMALL, ["generator.z_size=many"])
    assert "generator is required" in _refused({key: SMALL[key] for key in SMALL if key != "generator"})


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("generator.z_szie=4", "unknown key generator.z_szie (did you mean z_size?)"),
        ("condition.caption.hiden_size=4", "unknown key condition.caption.hiden_size (did you mean hidden_size?)"),
        ("condition.capton=null", "unknown key condition.capton (did you mean caption?)"),
        ("condition.identity.kid=one_hot", "unknown key condition.identity.kid (did you mean kind?)"),
        ("augment={kind: ada, tagret: 0.5}", "unknown key augment.tagret (did you mean target?)"),
        ("loss.penalties=[{kind: r1, wieght: 1}]", "unknown key loss.penalties.0.wieght (did you mean weight?)"),
        ("loss.matching.wieght=1", "unknown key loss.matching.wieght (did you mean weight?)"),
        ("discriminator.dropout=0.5", "unknown key discriminator.dropout (known here: channels, convs_per_block,"),
        (
            "discriminator={kind: dcgan, channels: [8], minibatch_discrimination: {num_kernel: 3}}",
            "unknown key discriminator.minibatch_discrimination.num_kernel (did you mean num_kernels?)",
        ),
        ("generator.kind=stylegan", "generator.kind is 'stylegan': choose one of progan, msggan, dcgan"),
        ("condition.speech={kind: mel}", "condition.speech.kind is 'mel': choose one of log_mel, waveform"),
        ("condition.speech={seconds: 1}", "condition.speech.kind is required: it says which section this is"),
        ("augment={target: 0.5}", "augment.kind is required"),
        ("generator.kind=null", "generator.kind"),
        ("condition.speech={kind: log_mel, num_mels: 0}", "condition.speech.num_mels is 0: "),
        ("condition.speech={kind: log_mel, num_mels: 10000}", "condition.speech.num_mels is 10000: "),
        ("loss.adversarial.kind=gan", "loss.adversarial.kind is 'gan': "),
        ("condition.caption=lstm", "condition.caption is 'lstm': "),
    ],
)
def test_a_section_of_several_kinds_is_named_as_the_file_writes_it(assignment, message):
    assert message in _refused(SMALL, [assignment])


@pytest.mark.parametrize("assignment", ["seed", "=1", "a..b=1", "seed.x=1", "stages.7.resolution=4", "stages.x=1"])
def test_a_wrong_assignment_names_itself(assignment):
    with pytest.raises(ValueError, match="--set"):
        override({**SMALL, "seed": 1}, [assignment])
