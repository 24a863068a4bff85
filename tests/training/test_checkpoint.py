from collections.abc import Callable
from dataclasses import replace

import pytest
import safetensors.torch
import torch
import torch.distributed as dist

from t2f_dist.config.load import resolve
from t2f_dist.config.schema import Config
from t2f_dist.training.checkpoints import checkpoint
from t2f_dist.training.checkpoints.archive import Archive
from t2f_dist.training.checkpoints.resume import differences
from tests.training.short_run import read_checkpoint, state, trained, unequal, untrained, write_checkpoint
from tests.training.small import RECIPES, config

STATE = checkpoint.State(images_seen=72, dataset="abc", config={"seed": 0})
HALF = ("train.precision=bf16", "train.channels_last=true")


@pytest.mark.parametrize(
    ("recipe", "options"),
    [(recipe, HALF if recipe in ("house", "t2f") else ("train.precision=fp32",)) for recipe in RECIPES],
)
def test_going_on_from_a_checkpoint_is_going_on(portrait_shards, tmp_path, recipe, options):
    """To the bit, from the middle of a fade, where some blocks have an optimizer state and others have none; in the
    middle of an interval of the adaptive augmentation, of a queue, and of the discriminator's turns."""
    settings = config(recipe, portrait_shards, tmp_path, *options)
    quiet = trained(settings)
    half = trained(settings, stop=72)
    path = write_checkpoint(tmp_path, half, STATE, keep=2)
    loaded = untrained(config(recipe, portrait_shards, tmp_path, *options, "seed=9"))
    loaded.config = settings
    kept = state(half, tmp_path / "half")
    assert unequal(state(loaded, tmp_path / "loaded"), kept)
    assert read_checkpoint(path, loaded) == STATE
    assert unequal(state(loaded, tmp_path / "loaded"), kept) == []
    ours, theirs = (state(gan, tmp_path / "end") for gan in (trained(settings, loaded, start=72), quiet))
    assert unequal(ours, theirs) == []
    assert unequal(kept, theirs), "the second half changed something"


@pytest.mark.parametrize(
    ("recipe", "parts"),
    [
        ("both", ("queue.vectors", "queue.num_pushed", "augment.probability", "augment.sign_sum", "missing.speech")),
        ("dcgan", ("running_mean", "running_var")),
        ("wav2pix", (".u", ".v", "running_var")),
        ("wgan_clipped", ("running_mean", "exp_avg_sq")),
    ],
)
def test_what_is_neither_weight_nor_moment_is_kept_too_and_had_moved(portrait_shards, tmp_path, recipe, parts):
    """So that the test above can fail: what goes along with the weights differs between the half and the end."""
    settings = config(recipe, portrait_shards, tmp_path, "train.precision=fp32")
    before, after = (state(trained(settings, stop=stop), tmp_path / str(stop)) for stop in (72, 128))
    differing = set(unequal(before, after))
    for part in parts:
        names = [name for name in after if name.endswith((part, f"{part}/exp_avg"))]
        assert names and differing.intersection(names), part


def _stopped_and_gone_on(rank, world_size, recipe, shards, folder):
    """Whether both halves of a run, on two ranks, are the whole, and the state at the end."""
    settings = config(recipe, shards, folder, "train.precision=fp32")
    half = trained(settings, stop=72, rank=rank, world_size=world_size)
    if rank == 0:
        write_checkpoint(folder / "kept", half, STATE, keep=2)
    dist.barrier()
    loaded = untrained(settings, world_size)
    read_checkpoint(folder / "kept" / "images-000000000072", loaded)
    runs = [
        trained(settings, loaded, start=72, rank=rank, world_size=world_size),
        trained(settings, rank=rank, world_size=world_size),
    ]
    return [state(gan, folder / f"end-{rank}") for gan in runs]


@pytest.mark.parametrize(
    "recipe", ["both", "wgan_clipped", *(pytest.param(each, marks=pytest.mark.slow) for each in ("dcgan", "wav2pix"))]
)
def test_two_ranks_go_on_as_one_run(pair, portrait_shards, tmp_path, recipe):
    (resumed, whole), (other_resumed, other_whole) = pair.run(_stopped_and_gone_on, recipe, portrait_shards, tmp_path)
    assert unequal(resumed, whole) == []
    assert unequal(other_resumed, other_whole) == []
    assert unequal(whole, other_whole) == []


def _without_a_moment(moments: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(name for name in moments if name.endswith("/exp_avg"))
    return {key: tensor for key, tensor in moments.items() if key != name}


def _of_another_shape(moments: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(name for name, moment in moments.items() if name.endswith("/exp_avg") and moment.dim() > 1)
    return moments | {name: torch.zeros(1)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without_a_moment, r"does not hold the state of the \w+'s optimizer \("),
        (_of_another_shape, r"optimizer \(.* is of another shape\)"),
        (lambda _: (5).to_bytes(8, "little") + b"wrong", r"is damaged: optimizers.safetensors holds no tensors"),
        (lambda _: (1 << 40).to_bytes(8, "little") + bytes(64), r"has a header of more than 33,554,432 bytes"),
    ],
)
def test_a_strangers_files_are_one_line(portrait_shards, tmp_path, change: Callable, said: str):
    """With right checksums."""
    settings = config("house", portrait_shards, tmp_path)
    path = write_checkpoint(tmp_path, trained(settings, stop=8), STATE)
    kept = Archive(tmp_path).read(path.name)
    changed = change(safetensors.torch.load(kept.files["optimizers.safetensors"]))
    content = changed if isinstance(changed, bytes) else safetensors.torch.save(changed)
    other = replace(kept, files=kept.files | {"optimizers.safetensors": content})
    with pytest.raises(ValueError, match=said):
        checkpoint.fill(untrained(settings), other, str(path))


def test_networks_of_another_shape_are_refused(portrait_shards, tmp_path):
    path = write_checkpoint(tmp_path, untrained(config("house", portrait_shards, tmp_path)), STATE)
    other = untrained(config("house", portrait_shards, tmp_path, "generator.channels=[12,4]"))
    with pytest.raises(ValueError, match=r"is of other networks \(generator_ema\.synthesis"):
        read_checkpoint(path, other)


def test_what_differs_is_named_but_for_what_changes_no_weight(portrait_shards, tmp_path):
    before = config("house", portrait_shards, tmp_path).model_dump(mode="json")
    changed = resolve(
        Config,
        before,
        [
            "seed=4",
            "run=elsewhere",
            "data.num_workers=3",
            "stages.1.fade_images=56",
            "log.every_images=1",
            "train.batch_per_gpu_max=4",
        ],
    )
    assert differences(before, changed.model_dump(mode="json")) == [
        "seed was 0, now 4",
        "stages.1.fade_images was 48, now 56",
    ]
