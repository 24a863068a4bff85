"""The number of ranks, and of parts in which a share is accumulated, changes only the speed."""

from typing import get_args

import pytest
import torch

from t2f_dist.config.loss import Adversarial
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.training.corpus import facts
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Growth
from t2f_dist.training.step import train_step
from tests.data import mixed
from tests.training.small import RECIPES, config


@pytest.fixture(scope="module")
def mixed_shards(tmp_path_factory):
    return mixed.write(tmp_path_factory.mktemp("mixed") / "shards")


def _train(rank, world_size, recipe, shards, num_parts, *overrides):
    """All steps of the small configuration: weights, average, metrics, and all gradients of the last step."""
    settings = config(recipe, shards, shards, *overrides)
    samples = open_samples(settings)
    growth = Growth(settings.stages)
    gan = Gan(settings, facts(samples), torch.device("cpu"), world_size)
    gradients: dict[str, torch.Tensor] = {}

    def noting(step, side):
        def noted(factor):
            names = {id(parameter): name for name, parameter in gan.networks.named_parameters()}
            gradients.update({names[id(p)]: p.grad.clone() for p in side.parameters})
            return step(factor)

        return noted

    for side in (gan.generator_side, gan.discriminator_side):
        side.step = noting(side.step, side)
    history = []
    stream = batches(samples, growth.steps(0), rank, world_size, 0)
    for seen, size, _ in growth.steps(0):
        metrics = train_step(gan, next(stream), growth.at(seen), seen, num_parts)
        gan.update_ema(seen, size)
        history.append({name: float(value) for name, value in metrics.items()})
    gan.release()
    samples.close()
    weights = {name: tensor.detach().clone() for name, tensor in gan.networks.state_dict().items()}
    average = {name: tensor.clone() for name, tensor in gan.generator_ema.state_dict().items()}
    return weights, average, history, gradients


def _assert_close(left, right, tolerance):
    assert left.keys() == right.keys()
    for name in left:
        # Where a gradient is zero but for rounding (a bias that both scores of a pair share), Adam amplifies rounding.
        scale = max(0.1, float(right[name].double().abs().max()))
        assert float((left[name].double() - right[name].double()).abs().max()) < tolerance * scale, name


def _assert_same_history(ours, first, second, tolerance):
    """Each term of each step: the mean over two ranks is that of one."""
    for step, (alone, a, b) in enumerate(zip(ours, first, second, strict=True)):
        for name in alone:
            together = a[name] if name.startswith("gradient_norm") else (a[name] + b[name]) / 2
            assert abs(together - alone[name]) <= tolerance * max(1.0, abs(alone[name])), (step, name)


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_ranks_are_one_rank_to_float64_accuracy(pair, portrait_shards, recipe):
    first, second = pair.run(_train, recipe, portrait_shards, 1)
    weights, average, history, gradients = _train(0, 1, recipe, portrait_shards, 1)
    for name in weights:
        assert torch.equal(first[0][name], second[0][name]), f"{name} differs between the ranks"
    _assert_close(first[0], weights, 1e-9)
    _assert_close(first[1], average, 1e-9)
    _assert_close(first[3], gradients, 1e-9)
    _assert_same_history(history, first[2], second[2], 1e-9)


NETWORKS = {
    "house": (),
    "msggan": ("augment=null",),
    "dcgan": ("discriminator.batch_norm=false", "loss.feature_matching.weight=0", "loss.l1_weight=0"),
}
LOSSES = [
    *[(kind, []) for kind in get_args(Adversarial.model_fields["kind"].annotation)],
    ("wgan", ["wgan_gp"]), ("hinge", ["r1"]), ("hinge", ["r2"]), ("relativistic_pairing", ["r1", "r2"]),
]  # fmt: skip


@pytest.mark.parametrize("recipe", NETWORKS)
def test_gradients_of_two_ranks_are_those_of_one_for_every_loss_and_penalty(pair, portrait_shards, recipe):
    """Second derivatives included: the last of three steps, each parameter's gradient."""
    for kind, penalties in LOSSES:
        options = [*NETWORKS[recipe], f"loss.adversarial={{kind: {kind}, group_size: 2}}", "stages.0.stable_images=16"]
        options += [f"loss.penalties=[{', '.join(f'{{kind: {penalty}, weight: 2}}' for penalty in penalties)}]"]
        options += ["stages.1.fade_images=8" if recipe == "house" else "stages.1.fade_images=0"]
        options += ["stages.1.stable_images=0" if recipe == "house" else "stages.1.stable_images=8"]
        first, _ = pair.run(_train, recipe, portrait_shards, 1, *options)
        _, _, history, gradients = _train(0, 1, recipe, portrait_shards, 1, *options)
        assert {f"discriminator/{penalty}" for penalty in penalties} <= history[-1].keys()
        assert gradients, kind
        _assert_close(first[3], gradients, 1e-8)  # two steps of Adam have amplified rounding


@pytest.mark.parametrize("recipe", ["house", "t2f"])
def test_two_ranks_are_one_with_stored_embeddings_too(pair, mixed_shards, recipe):
    """Whichever side trains the vector that stands in for a caption that some samples lack."""
    options = ("condition.caption={kind: stored}",)
    first, second = pair.run(_train, recipe, mixed_shards, 1, *options)
    weights, _, history, gradients = _train(0, 1, recipe, mixed_shards, 1, *options)
    assert "generator.encoder.missing.caption" in gradients
    _assert_close(first[0], weights, 1e-9)
    _assert_close(first[3], gradients, 1e-8)
    _assert_same_history(history, first[2], second[2], 1e-9)


@pytest.mark.parametrize("recipe", RECIPES)
def test_accumulated_parts_are_the_whole_to_float64_accuracy(pair, portrait_shards, recipe):
    weights, average, *_ = _train(0, 1, recipe, portrait_shards, 1)
    in_parts = _train(0, 1, recipe, portrait_shards, 2)
    _assert_close(in_parts[0], weights, 1e-9)
    _assert_close(in_parts[1], average, 1e-9)
    sixteen = [f"stages.{stage}.batch_size=16" for stage in range(2)]
    alone = _train(0, 1, recipe, portrait_shards, 1, *sixteen)
    both = pair.run(_train, recipe, portrait_shards, 2, *sixteen)[0]
    _assert_close(both[0], alone[0], 1e-9)


@pytest.mark.parametrize("recipe", ["house", "t2f"])
def test_in_float32_one_and_two_ranks_stay_within_a_ten_thousandth(pair, portrait_shards, recipe):
    """Sums in another order, amplified by Adam where a gradient is near zero: of each tensor's norm."""
    options = ("train.precision=fp32", "stages.1.stable_images=64", "stages.1.fade_images=48")  # 20 steps
    first, second = pair.run(_train, recipe, portrait_shards, 1, *options)
    weights, _, history, _ = _train(0, 1, recipe, portrait_shards, 1, *options)
    assert len(history) == 20
    _assert_same_history(history, first[2], second[2], 1e-4)
    for name in weights:
        assert float((first[0][name] - weights[name]).norm()) <= 1e-4 * float(weights[name].norm()) + 1e-7, name


TERMS = {
    "house": {"mismatched", "contrastive", "kl", "r1"},
    "t2f": {"mismatched", "drift", "kl", "wgan_gp"},
    "both": {"mismatched", "contrastive", "kl", "r1", "r2", "probability", "real_sign"},
    "msggan": {"mismatched", "kl", "r1"},
    "dcgan": {"mismatched", "feature_matching", "l1", "image_identity", "interpolated"},
    "wgan_clipped": {"mismatched"},
    "unconditional": set(),
    "wav2pix": {"mismatched", "feature_matching", "identity"},
    "identity": {"mismatched"},
}
ALWAYS = {"real", "fake", "adversarial"}
NO_TERMS = ("score/", "gradient_norm/", "skipped_steps/", "diversity/")
# A stand-in for what no sample lacks; the bias of a score, which cancels out in pairs and between margins; buffers.
UNTRAINED = ("words.weight", "missing.", "out.bias", "score.bias", ".u", ".v", "running_", "queue.", "window", ".fb")


@pytest.mark.parametrize("recipe", RECIPES)
def test_everything_learns_and_the_terms_are_those_of_the_recipe(portrait_shards, recipe):
    settings = config(recipe, portrait_shards, portrait_shards)
    samples = open_samples(settings)
    before = Gan(settings, facts(samples), torch.device("cpu"), 1)
    samples.close()
    after, _, history, _ = _train(0, 1, recipe, portrait_shards, 1)
    names = {name.partition("/")[2] for step in history for name in step if not name.startswith(NO_TERMS)}
    assert names == ALWAYS | TERMS[recipe]
    initial = before.networks.state_dict()
    still = [n for n in after if not any(part in n for part in UNTRAINED) and torch.equal(after[n], initial[n])]
    assert not still, f"{recipe}: untrained {still}"
    lazy = [number for number, step in enumerate(history) if "discriminator/r1" in step]
    assert lazy == {"house": list(range(1, 16, 2)), "msggan": list(range(1, 16, 2)), "both": list(range(16))}.get(
        recipe, []
    )


def test_weights_are_clipped_and_the_generator_waits_for_its_turn(portrait_shards):
    after, _, history, _ = _train(0, 1, "wgan_clipped", portrait_shards, 1)
    weights = [tensor for name, tensor in after.items() if name.startswith("discriminator") and "running" not in name]
    assert max(float(tensor.abs().max()) for tensor in weights) == 0.05
    turns = [number for number, step in enumerate(history) if "generator/adversarial" in step]
    assert turns == [2, 4, 6, 9, 11, 13]
