"""A snapshot draws the same faces anywhere, from one file, which may come from a stranger."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from t2f_dist.models import snapshot
from tests.models.untrained import untrained

ROOT = Path(__file__).resolve().parents[2]
TOKENS = [[2, 3], [4, 5, 6, 7], [8], [1, 9, 2]]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    snapshot.save(tmp_path / "faces.safetensors", untrained())
    return tmp_path / "faces.safetensors"


def contents(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safetensors.safe_open(path, framework="pt") as file:
        return safetensors.torch.load_file(path), file.metadata()


@pytest.mark.parametrize("recipe", ["house", "t2f"])
@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16"])
def test_saved_and_loaded_it_draws_the_same_faces_to_the_bit(recipe: str, precision: str, tmp_path: Path):
    before = untrained(f"train.precision={precision}", recipe=recipe)
    snapshot.save(tmp_path / "new/faces.safetensors", before)
    after = snapshot.load(tmp_path / "new/faces.safetensors")
    assert replace(after, generator=before.generator) == before
    drawn = after.draw(TOKENS, range(4), seed=3)
    assert drawn.shape == (4, 3, 8, 8)
    assert drawn.dtype == torch.uint8
    assert torch.equal(drawn, before.draw(TOKENS, range(4), seed=3))
    assert drawn.float().std() > 20, "faces, not one flat colour"
    assert not any(parameter.requires_grad for parameter in after.generator.parameters())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["faces.safetensors"], "no temporary file is left"


def test_saving_twice_writes_the_same_bytes(saved: Path, tmp_path: Path):
    snapshot.save(tmp_path / "again.safetensors", snapshot.load(saved))
    ours, theirs = contents(saved), contents(tmp_path / "again.safetensors")
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys()
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in ours[0])


def test_another_process_elsewhere_needs_nothing_but_the_file(saved: Path, tmp_path: Path):
    code = (
        "import sys; from t2f_dist.models import snapshot;"
        "faces = snapshot.load(sys.argv[1]).draw([[2, 3], [4, 5, 6, 7], [8], [1, 9, 2]], range(4), seed=3);"
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
    assert result.stdout.strip() == untrained().draw(TOKENS, range(4), seed=3).numpy().tobytes().hex()
    assert not list(elsewhere.iterdir())


def test_a_face_does_not_depend_on_what_else_is_drawn():
    faces = untrained()
    whole = faces.draw(TOKENS, [0, 1, 2, 3], seed=5)
    assert torch.equal(faces.draw(TOKENS, [0, 1, 2, 3], seed=5, batch_size=1), whole)
    assert torch.equal(faces.draw(TOKENS, [0, 1, 2, 3], seed=5, batch_size=3), whole)
    assert torch.equal(faces.draw(TOKENS[::-1], [3, 2, 1, 0], seed=5), whole.flip(0))
    assert torch.equal(faces.draw(TOKENS[2:3], [2], seed=5), whole[2:3])


def test_noise_is_of_its_seed_and_number_alone():
    faces = untrained()
    same = faces.draw([TOKENS[0]] * 4, [0, 1, 0, 2**40], seed=5)
    assert torch.equal(same[0], same[2])
    assert len({face.numpy().tobytes() for face in same}) == 3
    assert not torch.equal(faces.draw([TOKENS[0]], [0], seed=6)[0], same[0])
    assert not torch.equal(faces.draw([TOKENS[1]], [0], seed=5)[0], same[0]), "the caption counts too"


def test_opening_and_drawing_leave_the_global_generator_alone(saved: Path):
    before = torch.random.get_rng_state()
    snapshot.load(saved).draw(TOKENS, range(4))
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
            assert loaded.draw(TOKENS, range(4)).shape[0] == 4
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
    _edit(saved, version="2")
    with pytest.raises(ValueError, match="not a t2f-dist-snapshot of version 1"):
        snapshot.load(saved)
    saved.write_bytes(safetensors.torch.save({"weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match="not a t2f-dist-snapshot of version 1"):
        snapshot.load(saved)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"config": "not json"}, "a header that cannot be read"),
        ({"config": "[1]"}, "a header that cannot be read"),
        ({"config": "{}"}, "data is required"),
        ({"images_seen": "many"}, "many"),
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
        {"text_encoder.words.weight": torch.zeros((), dtype=torch.float64)},
        {"text_encoder.words.weight": torch.zeros(5, 7, dtype=torch.float64)},
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
    wide = {"z_size": 10**6, "channels": [10**6, 10**6], "convs_per_block": 1}
    _edit(saved, config=_config(saved, generator=wide))
    with pytest.raises(ValueError, match="does not hold the weights"):
        snapshot.load(saved)


def test_a_save_that_fails_keeps_the_old_file(saved: Path, tmp_path: Path):
    before = saved.read_bytes()
    (tmp_path / ".faces.safetensors.tmp").mkdir()  # in the way of the temporary file
    with pytest.raises(OSError, match="directory"):
        snapshot.save(saved, untrained())
    assert saved.read_bytes() == before
