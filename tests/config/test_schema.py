"""What a configuration promises: what does not fit together is refused in one line, with the remedy."""

from pathlib import Path

import pytest
import yaml

from t2f_dist.config.condition import MODALITIES, Condition
from t2f_dist.config.load import dump, override, read_yaml, resolve
from t2f_dist.config.loss import Loss
from t2f_dist.config.networks import RESOLUTIONS, Dcgan, DcganCritic, Msggan, MsgganCritic, Progan, ProganCritic
from t2f_dist.config.schema import Config
from tests.training.small import RECIPES, config

HERE = Path("nowhere")
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
SPEECH = "condition.speech={kind: log_mel}"


def changed(recipe: str, *assignments: str) -> Config:
    """Like `--set`, which a section of another kind replaces as a whole."""
    mapping = config(recipe, HERE, HERE).model_dump(mode="json")
    return resolve(Config, override(mapping, assignments), source="run.yaml")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_dump_is_read_back_as_the_same(recipe: str, tmp_path: Path):
    settings = config(recipe, HERE, HERE)
    (tmp_path / "c.yaml").write_text(dump(settings))
    again = resolve(Config, read_yaml(tmp_path / "c.yaml"))
    assert again == settings
    assert dump(again) == dump(settings)
    assert resolve(Config, yaml.safe_load(settings.model_dump_json())) == settings, "as a snapshot keeps it"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_are_valid_and_survive_a_dump(path: Path, tmp_path: Path):
    settings = resolve(Config, read_yaml(path), source=path)
    (tmp_path / "c.yaml").write_text(dump(settings))
    assert resolve(Config, read_yaml(tmp_path / "c.yaml")) == settings


@pytest.mark.parametrize(
    ("recipe", "assignment", "message"),
    [
        ("house", "stages=[]", "stages: at least one stage is needed"),
        ("house", "stages.1.resolution=16", "16 follows 4"),
        ("house", "stages.1.resolution=4", "nothing to fade in"),
        ("house", "stages.0.fade_images=8", "nothing to fade from: set its fade_images to 0"),
        ("house", "stages.0.stable_images=0", "the stage at resolution 4 shows no image: raise stable_images"),
        ("house", "generator.channels=[8]", "generator.channels has 1 entries, for 4 pixels, and the last stage"),
        ("house", "discriminator.channels=[8, 8, 8]", "for 16 pixels, and the last stage is of 8: give 2"),
        ("dcgan", "generator.channels=[8, 8]", "generator.channels has 2 entries, for 16 pixels, and the last stage"),
        ("dcgan", "stages.0.resolution=4", "generator.kind dcgan does not grow: give every stage the resolution 8"),
        ("msggan", "stages.0.resolution=4", "generator.kind msggan does not grow"),
        (
            "house",
            "discriminator={kind: msggan, channels: [8, 8], stddev_group_size: 2}",
            "discriminator.kind msggan does not grow",
        ),
        (
            "dcgan",
            "discriminator={kind: msggan, channels: [8, 8], stddev_group_size: 2}",
            "generator.kind dcgan and discriminator.kind msggan",
        ),
        (
            "msggan",
            "discriminator={kind: dcgan, channels: [8]}",
            "both must be msggan, or neither",
        ),
        ("unconditional", "generator.z_size=0", "generator.z_size is 0, and there is no condition: nothing to draw"),
        ("house", "ema.half_life_images=0", "ema.half_life_images is 0"),
        ("house", "optimizer.generator.learning_rate=.nan", "optimizer.generator.learning_rate is nan"),
        ("house", "seed=-1", "seed is -1"),
        # the condition
        ("house", "discriminator.head=unconditional", "head unconditional with the condition caption: use concat"),
        ("unconditional", "discriminator.head=concat", "head concat with no condition: use unconditional, or give"),
        (
            "unconditional",
            "conditioning={kind: projection}",
            "conditioning.kind projection has no condition to work on: use direct",
        ),
        ("unconditional", "loss.matching.weight=1", "loss.matching.weight is 1.0, and there is no condition: set it"),
        ("unconditional", "loss.matching.interpolation_weight=0.5", "interpolation_weight is 0.5, and there is no"),
        ("unconditional", "loss.contrastive.discriminator_weight=2", "discriminator_weight is 2.0, and there is no"),
        ("unconditional", "loss.identity.condition_weight=1", "condition_weight is 1.0, and there is no condition"),
        ("house", "condition.caption.dropout=0.5", "condition: caption.dropout withholds one of several modalities"),
        ("wav2pix", "condition.speech.dropout=0.1", "speech is the only one: set it to 0"),
        ("both", "condition.caption.dropout=1.5", "condition.caption.dropout is 1.5"),
        # the losses
        ("house", "loss.contrastive.discriminator_weight=0", "follows a head that nothing trains: set discriminator"),
        ("both", "loss.penalties.1.kind=r1", "loss.penalties names r1 twice: give each kind once"),
        ("house", "loss.penalties.0.kind=wgan_gp", "wgan_gp belongs to loss.adversarial.kind wgan; use r1 or r2"),
        ("dcgan", "loss.penalties=[{kind: r1}]", "loss.penalties r1 asks for the gradient of each image alone"),
        ("t2f", "loss.adversarial.real_label=0.9", "real_label belongs to labels, and wgan has none: set it to 1"),
        ("house", "loss.adversarial.real_label=0.5", "loss.adversarial.real_label is 0.5"),
        # what would do nothing, or other than it says
        ("house", "loss.weight_clip=0.1", "loss.weight_clip 0.1 is of weights that are used as they stand, and those"),
        ("wav2pix", "loss.weight_clip=0.1", "use discriminator.kind dcgan without spectral_norm, or a penalty"),
        ("t2f", "loss.contrastive.queue_size=8", "loss.contrastive.queue_size 8 serves a term whose weights are 0:"),
        ("t2f", "augment={kind: ada}", "augment.kind ada reads the sign of scores, and those of loss.adversarial.kind"
         " wgan have no zero: use diffaugment, or another kind"),
        ("msggan", "augment={kind: ada}", "those of loss.adversarial.kind relativistic_average_hinge have no zero"),
        ("both", "loss.adversarial.kind=relativistic_pairing", "loss.adversarial.kind relativistic_pairing have no z"),
        ("identity", "loss.identity.condition_weight=1", "condition_weight trains encoders, and no encoder here is le"),
        ("wav2pix", "data.mismatch_candidates=3", "data.mismatch_candidates 3 compares captions, and there are none:"),
        ("house", "loss.penalties.0.weight=0", "loss.penalties.0.weight is 0: input should be greater than 0"),
        ("house", "loss.contrastive.group_size=1", "loss.contrastive.group_size is 1"),
        ("both", "augment.transforms=[]", "augment.transforms is []: tuple should have at least 1 item"),
        ("msggan", "augment.transforms=[]", "augment.transforms is []: tuple should have at least 1 item"),
        # sizes
        ("house", "generator.channels=[]", "generator.channels is []: tuple should have at least 1 item"),
        ("dcgan", "discriminator.channels=[]", "discriminator.channels is []: tuple should have at least 1 item"),
        ("house", f"generator.channels={[8] * 10}", "tuple should have at most 9 items"),
        ("house", f"discriminator.channels={[8] * 10}", "tuple should have at most 9 items"),
        ("msggan", f"generator.channels={[8] * 10}", "tuple should have at most 9 items"),
        ("msggan", f"discriminator.channels={[8] * 10}", "tuple should have at most 9 items"),
        ("dcgan", f"generator.channels={[8] * 9}", "tuple should have at most 8 items"),
        ("dcgan", f"discriminator.channels={[8] * 9}", "tuple should have at most 8 items"),
        ("msggan", "discriminator.channels=[12, 1]", "discriminator.channels.1 is 1: input should be greater than or"),
        ("house", "generator.channels=[8, 4194305]", "generator.channels: 4,194,305 channels at 8 pixels"
         " are 268,435,520 numbers an image: give 4,194,304 or fewer there"),
        ("both", "condition.speech.channels=[5000]", "condition.speech.channels.0 is 5000: input should be less th"),
        ("both", "condition.speech.hop_seconds=0.0001", "condition.speech.hop_seconds is 0.0001: input should be gr"),
        ("wav2pix", "condition.speech.seconds=100", "condition.speech.seconds is 100: input should be less than or"),
        ("house", "condition.caption.num_layers=9", "condition.caption.num_layers is 9: input should be less than or"),
        ("wav2pix", "condition.speech.channels=[]", "condition.speech.channels is []: tuple should have at least 1"),
        ("wav2pix", f"condition.speech.channels={[2] * 9}", "tuple should have at most 8 items"),
        ("wav2pix", f"condition.speech.hidden_sizes={[2] * 9}", "tuple should have at most 8 items"),
        ("both", f"condition.speech.channels={[2] * 9}", "tuple should have at most 8 items"),
        # groups
        ("house", "stages.0.batch_size=6", "batch_size 6 at resolution 4 must be a multiple of 4, the images that"),
        ("house", "loss.contrastive.group_size=3", "discriminator.stddev_group_size 2 does not divide loss.contrast"),
        ("dcgan", "batch_norm.group_size=3", "batch_norm.group_size 3 does not divide"),
        ("dcgan", "batch_norm.group_size=1", "batch_norm.group_size is 1"),
        ("dcgan", "discriminator.minibatch_discrimination.group_size=16", "batch_size 8 at resolution 8 must be a"),
        ("identity", "batch_norm.group_size=16", "multiple of 16"),  # of the conditioning
        ("wav2pix", "batch_norm.group_size=16", "multiple of 16"),  # of the encoder
        ("msggan", "loss.adversarial.group_size=16", "(discriminator.stddev_group_size, loss.adversarial.group_size)"),
        ("dcgan", "loss.feature_matching.group_size=16", "multiple of 16"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(recipe: str, assignment: str, message: str):
    with pytest.raises(ValueError) as raised:
        changed(recipe, assignment)
    assert message in str(raised.value)
    assert str(raised.value).startswith("run.yaml: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("recipe", "assignments"),
    [
        ("both", ["condition.caption.dropout=1", "condition.speech.dropout=1"]),  # one of the two always stays
        ("house", ["loss.contrastive.discriminator_weight=0", "loss.contrastive.generator_weight=0"]),
        ("house", ["loss.contrastive.group_size=16", "loss.contrastive.discriminator_weight=0",
                   "loss.contrastive.generator_weight=0"]),  # a group that no term forms may be of any size
        ("msggan", ["loss.adversarial.kind=hinge", "loss.adversarial.group_size=16"]),
        ("dcgan", ["loss.feature_matching.weight=0", "loss.feature_matching.group_size=3"]),
        ("house", ["discriminator.stddev_group_size=1"]),
        ("t2f", ["loss.penalties.0.kind=r1"]),
        ("wav2pix", ["generator.z_size=0"]),
        ("dcgan", ["discriminator.batch_norm=false", "loss.penalties=[{kind: r1}]"]),
        ("unconditional", ["condition={identity: {}}", "discriminator.head=concat"]),
        ("both", ["loss.adversarial.kind=hinge"]),  # ADA goes with scores that have a zero, or a middle
        ("both", ["loss.adversarial.kind=least_squares"]),
        ("t2f", ["augment={kind: diffaugment}"]),
        ("t2f", ["loss.contrastive={discriminator_weight: 1, queue_size: 8, group_size: 4}"]),
        ("wav2pix", ["condition.speech.channels=[4]", "condition.speech.hidden_sizes=[]"]),
        ("identity", ["condition.caption={kind: lstm}", "loss.identity.condition_weight=1"]),
        ("house", ["condition.caption={kind: stored}", "data.mismatch_candidates=8"]),
    ],
)  # fmt: skip
def test_what_fits_is_taken(recipe: str, assignments: list[str]):
    changed(recipe, *assignments)


@pytest.mark.parametrize(
    ("recipe", "size"),
    [("house", 4), ("t2f", 4), ("both", 4), ("msggan", 4), ("dcgan", 4), ("unconditional", 4), ("identity", 4)],
)
def test_the_group_is_the_largest_and_each_divides_it(recipe: str, size: int):
    settings = config(recipe, HERE, HERE)
    assert settings.group_size == size
    sizes = settings._group_sizes()
    assert max(sizes.values()) == size
    assert all(size % each == 0 for each in sizes.values())


def test_without_anything_that_compares_images_a_group_is_one():
    settings = changed("unconditional", "generator.batch_norm=false", "loss.adversarial.kind=non_saturating")
    assert settings.group_size == 1


@pytest.mark.parametrize(
    ("recipe", "assignments", "needed"),
    [
        ("house", [], {"condition"}),
        ("dcgan", [], {"image", "condition"}),  # interpolation goes half way to another condition
        ("dcgan", ["loss.matching.interpolation_weight=0"], {"image"}),
        ("house", ["loss.matching.weight=0"], {"condition"}),  # as hard negatives
        ("house", ["loss.matching.weight=0", "loss.contrastive.hard_negatives=false"], set()),
        ("unconditional", [], set()),
    ],
)
def test_what_of_another_identity_a_step_looks_at(recipe: str, assignments: list[str], needed: set[str]):
    assert changed(recipe, *assignments).needs_mismatched == needed


@pytest.mark.parametrize(
    ("section", "resolutions", "grows"),
    [(Progan, RESOLUTIONS, True), (ProganCritic, RESOLUTIONS, True), (Msggan, RESOLUTIONS, False),
     (MsgganCritic, RESOLUTIONS, False), (Dcgan, RESOLUTIONS[1:], False), (DcganCritic, RESOLUTIONS[1:], False)],
)  # fmt: skip
def test_each_width_is_a_resolution(section: type, resolutions: tuple[int, ...], grows: bool):
    for number, resolution in enumerate(resolutions, start=1):
        assert section(channels=(8,) * number).resolution == resolution
    assert section(channels=(8,)).grows == grows


def test_modalities_stand_in_one_order_whatever_the_file_says():
    condition = Condition.model_validate({"identity": {}, "speech": {"kind": "log_mel"}, "caption": {"kind": "lstm"}})
    assert tuple(condition.modalities) == MODALITIES
    assert not Condition().modalities


def test_a_default_names_no_group_and_asks_for_no_head():
    assert Loss().group_sizes == {}
    assert not Loss().contrastive.used and not Loss().identity.used
