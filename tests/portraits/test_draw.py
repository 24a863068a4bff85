import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest

from t2f_dist.portraits.attributes import ATTRIBUTES, portrait
from t2f_dist.portraits.draw import draw

DIGEST = (
    "import hashlib\n"
    "from t2f_dist.portraits.attributes import portrait\n"
    "from t2f_dist.portraits.draw import draw\n"
    "print(hashlib.sha256(b''.join(draw(portrait(3, i), 32).tobytes() for i in range(40))).hexdigest())\n"
)


def test_the_same_bytes_in_another_process():
    here = hashlib.sha256(b"".join(draw(portrait(3, i), 32).tobytes() for i in range(40))).hexdigest()
    there = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True).stdout.strip()
    assert here == there


@pytest.mark.parametrize("resolution", [1, 7, 32, 50, 128, 513])
def test_any_resolution(resolution):
    picture = draw(portrait(0, 1), resolution)
    assert picture.dtype == np.uint8
    assert picture.shape == (resolution, resolution, 3)


def test_a_picture_is_the_same_picture_at_any_resolution():
    for index in range(20):
        fine, coarse = draw(portrait(1, index), 128).astype(float), draw(portrait(1, index), 32).astype(float)
        reduced = fine.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
        assert np.abs(reduced - coarse).mean() < 2.5


def test_edges_are_smooth():
    """A hard edge between two flat colours has no colours between them; an area filter makes many."""
    picture = draw(portrait(0, 4), 64)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500


def test_every_attribute_and_jitter_shows():
    person = dataclasses.replace(portrait(0, 11))
    person.attributes.update(hair_style="short", sex="man", beard="beard", glasses="none")
    plain = draw(person, 64)
    for name, values in ATTRIBUTES.items():
        seen = {
            draw(dataclasses.replace(person, attributes={**person.attributes, name: v}), 64).tobytes() for v in values
        }
        assert len(seen) == len(values), name
    unseen = {"pitch", "speed", "vowel_1", "vowel_2", "vowel_3", "breath", "intonation"}  # these are heard
    unseen |= {"hair_length", "curl", "earrings", "frame", "frame_colour"}  # of other styles, women, glasses
    for name in person.jitter:
        other = dataclasses.replace(person, jitter={**person.jitter, name: -person.jitter[name]})
        assert (draw(other, 64) == plain).all() == (name in unseen), name


def test_a_beard_has_the_colour_of_the_hair():
    """It is relational: nothing but the hair's colour tells its own."""
    person = portrait(0, 11)
    person.attributes.update(hair_style="short", sex="man", glasses="none", mouth="closed")
    for colour in ATTRIBUTES["hair_colour"]:
        person.attributes.update(hair_colour=colour, beard="none")
        bare = draw(person, 128).astype(int)
        person.attributes.update(beard="beard")
        bearded = draw(person, 128)
        changed = np.abs(bearded - bare).sum(axis=2) > 60
        hair = np.median(bearded[26:36, 56:72].reshape(-1, 3), axis=0)
        beard = np.median(bearded[changed], axis=0)
        assert np.abs(beard - hair).max() < 30, colour


def test_no_pixel_no_picture():
    with pytest.raises(ValueError, match="resolution must be at least 1"):
        draw(portrait(0, 0), 0)
