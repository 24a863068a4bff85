import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.config.load import dump, override, read_yaml, resolve
from t2f_dist.config.schema import Config

SMALL = {
    "data": {"shards": "x"},
    "generator": {"channels": [8, 8]},
    "discriminator": {"channels": [8, 8]},
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
        ("stages.1.resolution=16", "16 follows 4"),
        ("stages.1.resolution=4", "nothing to fade in"),
        ("stages.0.fade_images=8", "nothing to fade from"),
        ("generator.channels=[8]", "generator.channels has 1 entries"),
        ("stages.0.batch_size=6", "multiple of 4"),
        ("loss.penalty.kind=wgan_gp", "belongs to loss.adversarial wgan"),
        ("ema.half_life_images=0", "ema.half_life_images is 0"),
        ("optimizer.generator.learning_rate=.nan", "optimizer.generator.learning_rate is nan"),
    ],
)
def test_what_does_not_fit_together_is_refused(assignment, message):
    assert message in _refused(SMALL, [assignment])


@pytest.mark.parametrize("assignment", ["seed", "=1", "a..b=1", "seed.x=1", "stages.7.resolution=4", "stages.x=1"])
def test_a_wrong_assignment_names_itself(assignment):
    with pytest.raises(ValueError, match="--set"):
        override({**SMALL, "seed": 1}, [assignment])
