"""Each transform alone against numpy and Pillow; what it is a function of; its derivative; how often it happens."""

from math import pi

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from t2f_dist.config.loss import Ada, DiffAugment
from t2f_dist.models import affine
from t2f_dist.models.augment import _ADA, NUM_DRAWS, augment
from t2f_dist.models.layers import downsample
from t2f_dist.portraits.attributes import portrait
from t2f_dist.portraits.draw import draw

SHUT, OPEN = 1 - 2**-24, 0.0
ALL = Ada()


def portraits(num: int, resolution: int = 32) -> torch.Tensor:
    faces = np.stack([draw(portrait(seed=3, index=i), resolution) for i in range(num)])
    return torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 127.5 - 1


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pyramid(image: torch.Tensor) -> tuple[torch.Tensor, ...]:
    images = [image]
    while images[0].shape[-1] > 4:
        images.insert(0, downsample(images[0]))
    return tuple(images)


def only(num: int, **transforms: tuple[float, float]) -> torch.Tensor:
    """Draws that let these transforms of ADA through, with these two draws each, and no other."""
    draws = torch.full((num, len(_ADA), 3), SHUT)
    for name, values in transforms.items():
        draws[:, _ADA.index(name)] = torch.tensor([OPEN, *values])
    return draws.view(num, NUM_DRAWS)


def ada(image: torch.Tensor, **transforms: tuple[float, float]) -> torch.Tensor:
    (out,) = augment((image,), only(len(image), **transforms), 0.5, ALL)
    return out


def diffaugment(image: torch.Tensor, transform: str, **values: float) -> torch.Tensor:
    names = ("brightness", "saturation", "contrast", "x", "y", "left", "top")
    draws = torch.zeros(len(image), NUM_DRAWS)
    draws[:, : len(names)] = torch.tensor([values.get(name, 0.5) for name in names])
    (out,) = augment((image,), draws, 1.0, DiffAugment.model_validate({"transforms": [transform]}))
    return out


def uniform_of(normal: float) -> float:
    return float(torch.special.ndtr(torch.tensor(normal, dtype=torch.float64)))


# Whole pixels


@pytest.mark.parametrize("resolution", [4, 32, 256])
@pytest.mark.parametrize("flipped", [0, 1])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_flips_and_quarter_turns_move_pixels_exactly(resolution: int, flipped: int, quarters: int):
    image = portraits(2, resolution)
    out = ada(image, flip=(flipped / 2, 0), turn=(quarters / 4, 0))
    expected = image.flip(3) if flipped else image
    assert torch.equal(out, torch.rot90(expected, quarters, dims=(2, 3)))


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (0.999999, 0.0), (0.5, 0.999999), (0.1, 0.8)])
def test_shifts_move_whole_pixels_and_mirror_at_the_border(x: float, y: float):
    image = portraits(2)
    right, down = (round((2 * draw - 1) * 0.125 * 32) for draw in (x, y))
    padded = np.pad(image.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="symmetric")
    expected = padded[:, :, 4 - down : 36 - down, 4 - right : 36 - right]
    np.testing.assert_array_equal(ada(image, shift=(x, y)).numpy(), expected)


def test_pixels_stay_exact_through_flip_turn_and_shift_together():
    image = portraits(1)
    out = ada(image, flip=(0.5, 0), turn=(0.25, 0), shift=(0.999999, 0.0))
    expected = np.pad(np.rot90(image.numpy()[..., ::-1], axes=(2, 3)), ((0, 0), (0, 0), (4, 4), (4, 4)), "symmetric")
    np.testing.assert_array_equal(out.numpy(), expected[:, :, 8:40, 0:32])


# Geometry


def pillow(image: torch.Tensor, inverse: np.ndarray) -> np.ndarray:
    """Bilinear sampling by Pillow, `inverse` [2, 3] in pixels from the centre, with mirrored borders."""
    size = image.shape[-1]
    middle = size / 2
    offset = inverse[:, 2] + size + middle - inverse[:, :2] @ [middle, middle]
    values = np.column_stack([inverse[:, :2], offset]).ravel()
    channels = []
    for channel in np.pad(image[0].numpy(), ((0, 0), (size, size), (size, size)), mode="symmetric"):
        picture = Image.fromarray(channel)
        moved = picture.transform((size, size), Image.Transform.AFFINE, tuple(values), Image.Resampling.BILINEAR)
        channels.append(np.asarray(moved))
    return np.stack(channels)


def turned(radians: float) -> np.ndarray:
    return np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])


GEOMETRY = {
    "larger": ({"scale": (uniform_of(2.5), 0)}, np.eye(2) / 2**0.5, (0, 0)),
    "rotated before": ({"rotation_before": (0.6, 0)}, turned(0.2 * pi), (0, 0)),
    "rotated after": ({"rotation_after": (0.05, 0)}, turned(-0.9 * pi), (0, 0)),
    "a fraction": ({"fraction": (uniform_of(0.3), uniform_of(-1.1))}, np.eye(2), (0.3 * 0.125, -1.1 * 0.125)),
    "rotated, then moved": (
        {"rotation_before": (0.7, 0), "fraction": (uniform_of(1), uniform_of(0.5))},
        turned(0.4 * pi),
        (0.125, 0.0625),
    ),
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_is_that_of_pillow(name: str):
    transforms, linear, (right, down) = GEOMETRY[name]
    image = portraits(1, 64)
    offset = -linear @ [right * 64, down * 64]
    expected = pillow(image, np.column_stack([linear, offset]))
    np.testing.assert_allclose(ada(image, **transforms)[0].numpy(), expected, atol=0.02)  # Pillow's steps are coarse


def test_a_stretch_keeps_the_area_and_happens_along_x_before_the_second_rotation():
    squares = torch.zeros(1, 3, 64, 64)
    squares[:, :, 24:40, 24:40] = 1
    wide = ada(squares, stretch=(uniform_of(5), 0))[0, 0]  # by 2: 32 x 8
    assert wide[32].sum() == pytest.approx(32, abs=0.5)
    assert wide[16:48, 32].sum() == pytest.approx(8, abs=0.5)  # beyond are mirrored ones
    high = ada(squares, stretch=(uniform_of(5), 0), rotation_after=(0.75, 0))[0, 0]
    torch.testing.assert_close(high, torch.rot90(wide), atol=1e-4, rtol=0)


def test_half_the_size_is_the_box_filter():
    image = noise(1, 3, 32, 32)
    out = ada(image, scale=(uniform_of(-5), 0))
    torch.testing.assert_close(out[:, :, 8:24, 8:24], downsample(image), atol=1e-4, rtol=0)


def test_shrinking_lets_less_through_of_what_the_smaller_picture_cannot_show():
    stripes = torch.tensor([1.0, -1.0]).repeat(32).expand(1, 3, 64, 64).contiguous()  # of one pixel
    shrunk = torch.tensor([2**-0.7], dtype=torch.float64)
    moves = affine.scaling(shrunk, shrunk)
    aliased = affine.moved(stripes, moves, "reflection", antialias=False)
    assert affine.moved(stripes, moves, "reflection").abs().mean() < 0.7 * aliased.abs().mean()


# Colour

GREY, RED = (0.3, 0.3, 0.3), (0.5, -0.1, -0.1)


@pytest.mark.parametrize(
    ("transforms", "colour", "expected"),
    [
        ({"brightness": (uniform_of(2), 0)}, RED, (0.9, 0.3, 0.3)),
        ({"contrast": (uniform_of(-2), 0)}, RED, (0.25, -0.05, -0.05)),
        ({"luma_flip": (0.5, 0)}, GREY, (-0.3, -0.3, -0.3)),
        ({"luma_flip": (0.5, 0)}, RED, (0.3, -0.3, -0.3)),  # mean .1 -> -.1, the rest stays
        ({"luma_flip": (0.49, 0)}, RED, RED),
        ({"hue": (0.5 + 1 / 3, 0)}, RED, (-0.1, 0.5, -0.1)),
        ({"hue": (0.5 - 1 / 3, 0)}, RED, (-0.1, -0.1, 0.5)),
        ({"hue": (0.9, 0)}, GREY, GREY),
        ({"saturation": (uniform_of(1), 0)}, RED, (0.9, -0.3, -0.3)),
        ({"saturation": (uniform_of(-1), 0)}, RED, (0.3, 0.0, 0.0)),
        ({"saturation": (0.0, 0)}, GREY, GREY),
        ({"brightness": (uniform_of(2), 0), "contrast": (uniform_of(2), 0)}, RED, (1.8, 0.6, 0.6)),  # in this order
    ],
)
def test_colours(transforms: dict[str, tuple[float, float]], colour: tuple[float, ...], expected: tuple[float, ...]):
    image = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 4, 4).contiguous()
    out = ada(image, **transforms)
    torch.testing.assert_close(out, torch.tensor(expected).view(1, 3, 1, 1).expand(1, 3, 4, 4), atol=1e-6, rtol=0)


# DiffAugment


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.999), (0.7, 0.0), (0.5, 0.5)])
def test_translation_moves_whole_pixels_by_at_most_an_eighth_and_leaves_nothing(x: float, y: float):
    image = portraits(1)
    right, down = (int(draw * 9) - 4 for draw in (x, y))
    padded = np.pad(image.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)))
    expected = padded[:, :, 4 - down : 36 - down, 4 - right : 36 - right]
    np.testing.assert_array_equal(diffaugment(image, "translation", x=x, y=y).numpy(), expected)


@pytest.mark.parametrize(("left", "top"), [(0.0, 0.0), (0.999, 0.2), (0.5, 0.5)])
def test_a_square_of_half_the_size_with_its_centre_in_the_image_is_cut(left: float, top: float):
    image = portraits(1) + 3  # nothing is 0 before
    out = diffaugment(image, "cutout", left=left, top=top)
    x, y = (int(draw * 33) - 8 for draw in (left, top))
    expected = image.clone()
    expected[:, :, max(y, 0) : y + 16, max(x, 0) : x + 16] = 0
    assert torch.equal(out, expected)


@pytest.mark.parametrize(
    "values", [(0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.999, 0.5), (0.5, 0.5, 0.0), (0.9, 0.2, 0.8)]
)
def test_diffaugment_colours(values: tuple[float, float, float]):
    image = portraits(2).double()
    bright, saturated, contrasted = values
    out = diffaugment(image, "colour", brightness=bright, saturation=saturated, contrast=contrasted)
    expected = image.numpy() + bright - 0.5
    mean = expected.mean(axis=1, keepdims=True)
    expected = mean + (expected - mean) * 2 * saturated
    mean = expected.mean(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(out.numpy(), mean + (expected - mean) * (contrasted + 0.5), atol=1e-6)


# What it is a function of


@pytest.mark.parametrize("probability", [0, 0.0, torch.tensor(0.0)])
def test_at_probability_0_images_come_back_bit_by_bit(probability: float | torch.Tensor):
    images = pyramid(-portraits(3) * 0)  # of negative zeros, too
    images = (*images[:-1], torch.where(noise(3, 1, 32, 32) < 0.5, images[-1], portraits(3)))
    for before, after in zip(images, augment(images, noise(3, NUM_DRAWS), probability, ALL), strict=True):
        assert torch.equal(before.view(torch.int32), after.view(torch.int32))


def test_an_untouched_sample_stays_bit_by_bit_beside_touched_ones():
    image, draws = portraits(3), noise(3, NUM_DRAWS)
    draws[1] = SHUT
    (out,) = augment((image,), draws, 0.9, ALL)
    assert torch.equal(out[1].view(torch.int32), image[1].view(torch.int32))
    assert not torch.equal(out[0], image[0])


@pytest.mark.parametrize("section", [ALL, DiffAugment()], ids=["ada", "diffaugment"])
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6), cut=st.integers(1, 5))
def test_however_the_batch_is_shared_out_each_sample_is_the_same(section: Ada | DiffAugment, seed: int, cut: int):
    images, draws = pyramid(noise(6, 3, 16, 16, seed=seed) * 2 - 1), noise(6, NUM_DRAWS, seed=seed + 1)
    whole = augment(images, draws, 0.8, section)
    shares = [
        augment(tuple(image[rows] for image in images), draws[rows], torch.tensor(0.8), section)
        for rows in (slice(cut), slice(cut, None))
    ]
    for together, *apart in zip(whole, *shares, strict=True):
        assert torch.equal(together, torch.cat(apart))


@pytest.mark.parametrize("section", [ALL, DiffAugment()], ids=["ada", "diffaugment"])
def test_half_precision_is_left_even_under_autocast(section: Ada | DiffAugment):
    image, draws = portraits(2), noise(2, NUM_DRAWS)
    (expected,) = augment((image.bfloat16().float(),), draws, 0.8, section)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (out,) = augment((image.bfloat16(),), draws, 0.8, section)
    assert out.dtype == torch.float32
    assert torch.equal(out, expected)


@pytest.mark.parametrize("section", [ALL, DiffAugment()], ids=["ada", "diffaugment"])
def test_scales_are_augmented_alike(section: Ada | DiffAugment):
    """The picture, augmented and then made smaller, is nearly the small picture, augmented: much nearer than others."""
    image, draws = portraits(24, 64), noise(24, NUM_DRAWS, seed=5)
    out = augment(pyramid(image), draws, 0.9, section)
    for small, large in zip(out[2:-1], pyramid(out[-1])[2:-1], strict=True):
        error = (small - large).abs().mean(dim=(1, 2, 3))
        between = (small - large.roll(1, dims=0)).abs().mean(dim=(1, 2, 3)).mean()
        assert error.max() < 0.3 * between
        assert error.mean() < 0.08 * between


def test_colours_and_squares_of_a_smaller_picture_are_exactly_those_of_its_original():
    faces, flat = portraits(8, 64).double(), torch.ones(8, 3, 64, 64, dtype=torch.float64)
    draws = noise(8, NUM_DRAWS, seed=6)
    cases = [(faces, Ada(transforms=("colour",))), (faces, DiffAugment(transforms=("colour",)))]
    for image, section in [*cases, (flat, DiffAugment(transforms=("cutout",)))]:
        out = augment(pyramid(image), draws, 0.9, section)
        for small, expected in zip(out, pyramid(out[-1]), strict=True):
            torch.testing.assert_close(small, expected, atol=1e-12, rtol=0)


# Derivatives and frequencies


@pytest.mark.parametrize("section", [ALL, DiffAugment()], ids=["ada", "diffaugment"])
def test_gradient(section: Ada | DiffAugment):
    image = noise(3, 3, 8, 8, dtype=torch.float64).requires_grad_()
    draws = noise(3, NUM_DRAWS, seed=2)
    assert torch.autograd.gradcheck(lambda x: augment(pyramid(x), draws, 0.9, section), image)
    (gradient,) = torch.autograd.grad(augment((image,), draws, 0.9, section)[0].sum(), image)
    assert (gradient.flatten(1).abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.9])
def test_each_transform_happens_as_often_as_it_should(probability: float):
    num = 4000
    draws = noise(num, NUM_DRAWS, seed=7)
    image = portraits(1, 8).expand(num, 3, 8, 8)
    rotations = 1 - (1 - probability) ** 0.5
    shares = {"flip": probability / 2, "turn": probability * 3 / 4, "luma_flip": probability / 2}
    shares |= {"rotation_before": rotations, "rotation_after": rotations}
    shares["shift"] = probability * (1 - 0.5**2)  # of a pixel at most: half of the draws round to none, on either axis
    for number, name in enumerate(_ADA):
        rows = torch.full((num, len(_ADA), 3), SHUT)
        rows[:, number] = draws.view(num, -1, 3)[:, number]
        (out,) = augment((image,), rows.flatten(1), probability, ALL)
        changed = (out != image).flatten(1).any(dim=1).double().mean().item()
        assert changed == pytest.approx(shares.get(name, probability), abs=0.035), name
    (out,) = augment((image,), draws, probability, ALL)
    untouched = (out == image).flatten(1).all(dim=1).double().mean().item()
    expected = (1 - probability) ** 7 * (1 - probability / 2) ** 2
    expected *= (1 - probability * 3 / 4) ** 2 * (1 - rotations) ** 2
    assert untouched == pytest.approx(expected, abs=0.02)


def test_only_the_chosen_transforms_happen():
    image, draws = portraits(16), noise(16, NUM_DRAWS, seed=8)
    (blit,) = augment((image,), draws, 1.0, Ada(transforms=("blit",)))
    assert torch.isin(blit, image).all(), "pixels are moved, no value is new"
    (colours,) = augment((torch.full((16, 3, 8, 8), 0.25),), draws, 1.0, Ada(transforms=("colour",)))
    assert (colours == colours[:, :, :1, :1]).all(), "no pixel is moved"
    assert (colours != 0.25).flatten(1).any(dim=1).all()
    for section in (Ada, DiffAugment):
        with pytest.raises(ValueError, match="at least 1 item"):
            section(transforms=())
