"""A snapshot draws the same faces anywhere, from one file, which may come from a stranger."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from t2f_dist.models import snapshot
from t2f_dist.models.batch_norm import GroupBatchNorm
from t2f_dist.models.condition import Inputs
from t2f_dist.models.facts import Facts
from t2f_dist.models.snapshot import Corpus
from tests.models.untrained import EMBEDDING, IDENTITIES, untrained
from tests.training.small import RECIPES

ROOT = Path(__file__).resolve().parents[2]
NUM = 4
INPUTS = {
    "caption": (torch.tensor([[2, 3, 0, 0], [4, 5, 6, 7], [8, 0, 0, 0], [1, 9, 2, 0]]), torch.tensor([2, 4, 1, 3])),
    "speech": (
        torch.randint(-9000, 9000, (NUM, 9000), generator=torch.Generator().manual_seed(0), dtype=torch.int16),
        torch.tensor([9000, 5000, 0, 8001]),  # the third has no voice
    ),
    "identity": (torch.tensor([[0], [1], [2], [0]]), torch.tensor([1, 1, 1, 0])),
}


def rows(*numbers: int, **changes: tuple[torch.Tensor, torch.Tensor]) -> Inputs:
    """Those of INPUTS, in this order."""
    given = INPUTS | changes
    return {name: (values[list(numbers)], lengths[list(numbers)]) for name, (values, lengths) in given.items()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    snapshot.save(tmp_path / "faces.safetensors", untrained())
    return tmp_path / "faces.safetensors"


def contents(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safetensors.safe_open(path, framework="pt") as file:
        return safetensors.torch.load_file(path), file.metadata()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16"])
def test_saved_and_loaded_it_draws_the_same_faces_to_the_bit(recipe: str, precision: str, tmp_path: Path):
    before = untrained(f"train.precision={precision}", recipe=recipe)
    snapshot.save(tmp_path / "new/faces.safetensors", before)
    after = snapshot.load(tmp_path / "new/faces.safetensors")
    assert replace(after, generator=before.generator) == before
    assert (after.corpus.identities, after.corpus.embedding) == (IDENTITIES, EMBEDDING)
    drawn = after.draw(INPUTS, range(NUM), seed=3)
    assert drawn.shape == (NUM, 3, 8, 8)
    assert drawn.dtype == torch.uint8
    assert torch.equal(drawn, before.draw(INPUTS, range(NUM), seed=3))
    assert len({face.numpy().tobytes() for face in drawn}) >= 3  # two voices may be one to an untrained encoder
    if before.config.generator.kind != "dcgan":  # whose weights begin small
        assert drawn.float().std() > 20, "faces, not one flat colour"
    assert not any(parameter.requires_grad for parameter in after.generator.parameters())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["faces.safetensors"], "no temporary file is left"


@pytest.mark.parametrize("recipe", RECIPES)
def test_saving_twice_writes_the_same(recipe: str, tmp_path: Path):
    snapshot.save(tmp_path / "faces.safetensors", untrained(recipe=recipe))
    snapshot.save(tmp_path / "again.safetensors", snapshot.load(tmp_path / "faces.safetensors"))
    ours, theirs = contents(tmp_path / "faces.safetensors"), contents(tmp_path / "again.safetensors")
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys()
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in ours[0])


def test_another_process_elsewhere_needs_nothing_but_the_file(saved: Path, tmp_path: Path):
    code = (
        "import sys, torch; from t2f_dist.models import snapshot;"
        "tokens = torch.tensor([[2, 3, 0, 0], [4, 5, 6, 7], [8, 0, 0, 0], [1, 9, 2, 0]]);"
        "inputs = {'caption': (tokens, torch.tensor([2, 4, 1, 3]))};"
        "faces = snapshot.load(sys.argv[1]).draw(inputs, range(4), seed=3);"
        "print(faces.numpy().tobytes().hex());"
        "loaded = {'accelerate', 'wandb', 'webdataset', 't2f_dist.training', 't2f_dist.data'} & set(sys.modules);"
        "assert not loaded, loaded"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code, str(saved)], cwd=elsewhere, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == untrained().draw(INPUTS, range(NUM), seed=3).numpy().tobytes().hex()
    assert not list(elsewhere.iterdir())


def trained_statistics(faces: snapshot.Snapshot) -> snapshot.Snapshot:
    """As if batch normalisation had seen something."""
    for number, norm in enumerate(m for m in faces.generator.modules() if isinstance(m, GroupBatchNorm)):
        random = torch.Generator().manual_seed(number)
        norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=random))
        norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=random) * 0.01 + 0.001)
    return faces


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_face_does_not_depend_on_what_else_is_drawn(recipe: str):
    faces = trained_statistics(untrained(recipe=recipe))
    whole = faces.draw(INPUTS, [0, 1, 2, 3], seed=5)
    assert torch.equal(faces.draw(INPUTS, [0, 1, 2, 3], seed=5, batch_size=1), whole)
    assert torch.equal(faces.draw(INPUTS, [0, 1, 2, 3], seed=5, batch_size=3), whole)
    assert torch.equal(faces.draw(rows(3, 2, 1, 0), [3, 2, 1, 0], seed=5), whole.flip(0))
    assert torch.equal(faces.draw(rows(2), [2], seed=5), whole[2:3])


@pytest.mark.parametrize("recipe", ["both", "wav2pix"])
def test_what_a_sample_lacks_is_not_looked_at(recipe: str):
    faces = trained_statistics(untrained(recipe=recipe))
    waveform, lengths = INPUTS["speech"]
    other = faces.draw(INPUTS | {"speech": (waveform.roll(1, dims=0), torch.zeros_like(lengths))}, range(NUM), seed=5)
    silent = faces.draw(INPUTS | {"speech": (waveform[:, :1], torch.zeros_like(lengths))}, range(NUM), seed=5)
    assert torch.equal(other, silent)
    assert not torch.equal(silent[0], faces.draw(INPUTS, range(NUM), seed=5)[0]), "who has a voice is heard"


def test_noise_is_of_its_seed_and_number_alone():
    faces = untrained()
    same = faces.draw(rows(0, 0, 0, 0), [0, 1, 0, 2**40], seed=5)
    assert torch.equal(same[0], same[2])
    assert len({face.numpy().tobytes() for face in same}) == 3
    assert not torch.equal(faces.draw(rows(0), [0], seed=6)[0], same[0])
    assert not torch.equal(faces.draw(rows(1), [0], seed=5)[0], same[0]), "the caption counts too"


def test_opening_and_drawing_leave_the_global_generator_alone(saved: Path):
    before = torch.random.get_rng_state()
    snapshot.load(saved).draw(INPUTS, range(NUM))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_newest_of_a_run_is_opened(tmp_path: Path):
    first = untrained()
    for images in (900, 1000, 80):
        path = tmp_path / "run/snapshots" / f"images-{images:012d}.safetensors"
        snapshot.save(path, replace(first, images_seen=images))
    (tmp_path / "run/snapshots/.images-000000002000.safetensors.tmp").write_bytes(b"cut short by a kill")
    assert snapshot.load(tmp_path / "run").images_seen == 1000
    with pytest.raises(FileNotFoundError, match=r"holds no snapshot: did you mean .*/run\?"):
        snapshot.load(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no snapshot: train first"):
        snapshot.load(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no such snapshot or run"):
        snapshot.load(tmp_path / "nowhere")


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_a_file_cut_short_is_refused(saved: Path, length: int):
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(ValueError, match="is not a safetensors file, or is cut short"):
        snapshot.load(saved)


def test_a_flipped_header_is_refused_or_changes_nothing(saved: Path):
    """Any bit of the header, one after another: a clear ValueError, or a snapshot that still draws."""
    whole = saved.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    refused = []
    places = [*range(8), *range(8, length, 61)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 7)
        saved.write_bytes(damaged)
        try:
            loaded = snapshot.load(saved)
        except ValueError as error:
            refused.append(str(error))
        else:
            assert loaded.draw(INPUTS, range(NUM)).shape[0] == 4
    assert len(refused) > len(places) / 3
    for message in refused:
        assert message.startswith((str(saved), f"the configuration in {saved}"))
        assert "\n" not in message


def _edit(path: Path, tensors: dict[str, torch.Tensor] | None = None, **header: str) -> None:
    old_tensors, old_header = contents(path)
    changed = old_tensors | (tensors or {})
    if tensors is not None:
        header["sha256"] = snapshot._digest(changed)
    path.write_bytes(safetensors.torch.save(changed, metadata=old_header | header))


def _config(path: Path, **changes: object) -> str:
    return json.dumps(json.loads(contents(path)[1]["config"]) | changes)


def test_what_is_no_snapshot_is_named(saved: Path):
    _edit(saved, version="1")
    with pytest.raises(ValueError, match="not a t2f-dist-snapshot of version 2"):
        snapshot.load(saved)
    saved.write_bytes(safetensors.torch.save({"weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match="not a t2f-dist-snapshot of version 2"):
        snapshot.load(saved)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"config": "not json"}, "a header that cannot be read"),
        ({"config": "[1]"}, "a header that cannot be read"),
        ({"config": "{}"}, "data is required"),
        ({"images_seen": "many"}, "many"),
        ({"facts": "[1]"}, "a header that cannot be read"),
        ({"facts": "{}"}, "captions, and the shards have none"),
        ({"facts": '{"num_words": "ten"}'}, "a header that cannot be read"),
        ({"facts": '{"num_words": 10, "more": 1}'}, "a header that cannot be read"),
        ({"facts": '{"num_words": Infinity}'}, "a header that cannot be read"),
        ({"facts": "[" * 100_000}, "a header that cannot be read"),
        ({"corpus": "[]"}, "a header that cannot be read"),
        ({"corpus": '{"vocabulary": "", "embedding": 3, "identities": []}'}, "a header that cannot be read"),
        ({"corpus": '{"vocabulary": "", "embedding": null, "identities": [null]}'}, "a header that cannot be read"),
        ({"resolution": "16"}, "resolution 16"),
        ({"resolution": "12"}, "resolution 12"),
        ({"alpha": "nan"}, "alpha nan"),
        ({"alpha": "2"}, "alpha 2"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(saved: Path, header: dict[str, str], message: str):
    _edit(saved, **header)
    with pytest.raises(ValueError, match=message) as raised:
        snapshot.load(saved)
    assert str(saved) in str(raised.value)


def test_a_configuration_with_unknown_keys_is_refused(saved: Path):
    _edit(saved, config=_config(saved, hook="os.system"))
    with pytest.raises(ValueError, match=r"the configuration in .*: unknown key hook"):
        snapshot.load(saved)


def test_a_flipped_bit_of_a_weight_is_found(saved: Path):
    content = bytearray(saved.read_bytes())
    content[-5] ^= 1
    saved.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its weights do not match their checksum"):
        snapshot.load(saved)


def test_weights_of_another_shape_or_name_are_refused(saved: Path):
    whole = saved.read_bytes()
    for changed in (
        {"conditioning.layer.weight": torch.zeros(3, 3, dtype=torch.float64)},
        {"conditioning.extra": torch.zeros(3, dtype=torch.float64)},
        {"encoder.encoders.caption.words.weight": torch.zeros((), dtype=torch.float64)},
        {"encoder.encoders.caption.words.weight": torch.zeros(5, 7, dtype=torch.float64)},
    ):
        saved.write_bytes(whole)
        _edit(saved, changed)
        with pytest.raises(ValueError, match="does not hold the weights that its configuration describes"):
            snapshot.load(saved)
    saved.write_bytes(whole)
    _edit(saved, {"conditioning.layer.bias": torch.zeros(8, dtype=torch.float32)})
    with pytest.raises(ValueError, match="another number format"):
        snapshot.load(saved)


def test_a_configuration_of_huge_networks_takes_no_memory(saved: Path):
    wide = {"kind": "progan", "z_size": 10**6, "channels": [10**6, 10**6], "convs_per_block": 1}
    _edit(saved, config=_config(saved, generator=wide))
    with pytest.raises(ValueError, match="does not hold the weights"):
        snapshot.load(saved)


def test_a_small_file_of_layers_that_are_wide_where_images_are_large_is_refused(saved: Path):
    """Its weights would fit, and what they draw would take a terabyte."""
    wide = {"kind": "progan", "channels": [1] * 8 + [2**16]}
    _edit(saved, config=_config(saved, generator=wide))
    with pytest.raises(ValueError, match="65,536 channels at 1024 pixels are 68,719,476,736 numbers an image"):
        snapshot.load(saved)


def test_what_is_drawn_at_a_time_fits_into_memory(monkeypatch: pytest.MonkeyPatch):
    faces = untrained()
    whole = faces.draw(INPUTS, range(NUM), seed=5)
    sizes = []
    faces.generator.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    for rows_of_widest, expected in ((0.5, [1, 1, 1, 1]), (2, [2, 2]), (3.9, [3, 1]), (10**6, [4])):
        monkeypatch.setattr(snapshot, "DRAWN_MAX", int(rows_of_widest * faces.config.generator.widest))
        sizes.clear()
        assert torch.equal(faces.draw(INPUTS, range(NUM), seed=5), whole)
        assert sizes == expected


SIZES = {"num_words": "house", "sample_rate_hz": "both", "num_identities": "identity"}


@pytest.mark.parametrize("value", [-1, -(10**9), 10**7, 10**12, 2**70])
@pytest.mark.parametrize("fact", SIZES)
def test_facts_that_are_not_those_of_the_weights_take_no_memory(fact: str, value: int, tmp_path: Path):
    path = tmp_path / "faces.safetensors"
    faces = untrained(recipe=SIZES[fact])
    snapshot.save(path, faces)
    _edit(path, facts=json.dumps(vars(faces.facts) | {fact: value}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="does not hold the weights") as raised:
        snapshot.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19, (
        "in KiB: half a gigabyte, where the file asks for many"
    )
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("recipe", "section", "changes"),
    [
        ("both", "speech", {"window_seconds": 1e9}),
        ("both", "speech", {"window_seconds": 1e308}),
        ("both", "speech", {"hop_seconds": 1e308}),
        ("both", "speech", {"hop_seconds": 1e-5}),
        ("both", "speech", {"seconds": 1e9}),
        ("both", "speech", {"hidden_size": 4000}),
        ("wav2pix", "speech", {"seconds": 1e308}),
        ("wav2pix", "speech", {"seconds": 59}),
        ("wav2pix", "speech", {"channels": [10**9]}),
        ("house", "caption", {"embedding_size": 10**12}),
    ],
)
def test_encoders_of_absurd_sizes_take_no_memory(recipe: str, section: str, changes: dict, tmp_path: Path):
    path = tmp_path / "faces.safetensors"
    snapshot.save(path, untrained(recipe=recipe))
    condition = json.loads(contents(path)[1]["config"])["condition"]
    _edit(path, config=_config(path, condition=condition | {section: condition[section] | changes}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=f"does not hold the weights|the configuration in .*condition.{section}"):
        snapshot.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19, (
        "in KiB: half a gigabyte, where the file asks for many"
    )


def test_a_run_without_words_keeps_no_vocabulary(tmp_path: Path):
    faces = untrained(recipe="wav2pix", corpus=Corpus(identities=IDENTITIES))
    assert faces.facts == Facts(sample_rate_hz=16_000, num_identities=3)
    snapshot.save(tmp_path / "faces.safetensors", faces)
    assert snapshot.load(tmp_path / "faces.safetensors").corpus == Corpus("", None, IDENTITIES)


def test_a_save_that_fails_keeps_the_old_file(saved: Path, tmp_path: Path):
    before = saved.read_bytes()
    (tmp_path / ".faces.safetensors.tmp").mkdir()  # in the way of the temporary file
    with pytest.raises(OSError, match="directory"):
        snapshot.save(saved, untrained())
    assert saved.read_bytes() == before
