import pytest
import torch
from click.testing import CliRunner

from t2f_dist.portraits.attributes import ABSENT, ATTRIBUTES, portrait
from t2f_dist.portraits.reader import WEIGHTS, Network, Reader
from t2f_dist.portraits.reader_training import accuracy, disturbed, drawn, held_out, main, targets, train


@pytest.fixture(scope="module")
def reader():
    return Reader.load()


@pytest.mark.parametrize(("resolution", "num"), [(32, 800), (64, 300)])
def test_right_on_combinations_it_never_saw(reader, resolution, num):
    right = accuracy(reader, 77, num, resolution)
    assert min(right.values()) >= 0.99, right


def test_soft_and_noisy_portraits_are_read_too(reader):
    people = [portrait(78, index) for index in range(400)]
    images = drawn(people, 32).float() / 127.5 - 1
    read, truth = reader.read(disturbed(images, torch.Generator().manual_seed(0))), targets(people)
    for name in ATTRIBUTES:
        assert (read[name] == truth[name]).double().mean() > 0.95, name


def test_any_size_from_16_pixels_bytes_or_floats(reader):
    people = [portrait(79, index) for index in range(40)]
    truth = targets(people)
    for resolution in (16, 48, 100, 256):
        images = drawn(people, resolution)
        read = reader.read(images)
        right = [(read[name] == truth[name]).double().mean().item() for name in ATTRIBUTES]
        assert sum(right) / len(right) > (0.85 if resolution == 16 else 0.98), resolution
        floats = reader.read(images.float() / 127.5 - 1, batch_size=7)
        assert all((read[name] == floats[name]).all() for name in ATTRIBUTES)
        assert all((label == ABSENT).any() == (name == "hair_colour") for name, label in read.items())
    assert reader.features(images).shape == (40, 48)


def test_small_enough_to_ship():
    assert sum(parameter.numel() for parameter in Network().parameters()) <= 60_000
    assert WEIGHTS.stat().st_size <= 150_000


def test_held_out_combinations_are_a_tenth():
    people = [portrait(0, index) for index in range(3000)]
    assert 0.07 < sum(map(held_out, people)) / 3000 < 0.13
    for person in people[:100]:
        twin = next((p for p in people if p.identity == person.identity and p is not person), person)
        assert held_out(twin) == held_out(person)


def test_training_is_a_function_of_the_seed(tmp_path):
    before = torch.random.get_rng_state()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            train(seed, 300, 2).save(tmp_path / name)
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()
    assert torch.equal(torch.random.get_rng_state(), before)  # the global generator is not touched


def test_bad_images_and_weights_are_named(reader, tmp_path):
    with pytest.raises(ValueError, match=r"got \[1, 3, 8, 8\]"):
        reader.read(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"got torch\.int64"):
        reader.read(torch.zeros(1, 3, 32, 32, dtype=torch.long))
    with pytest.raises(FileNotFoundError, match="no reader at"):
        Reader.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(WEIGHTS.read_bytes()[:1000])
    with pytest.raises(ValueError, match="does not hold a reader"):
        Reader.load(tmp_path / "bad.safetensors")


def test_help_teaches():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "never trained on" in result.output
