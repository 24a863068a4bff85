"""The noise of positions: each its own, whatever else is drawn and whoever stands beside it."""

import numpy as np

from t2f_dist.data.noise import Wishes, draw_noise
from t2f_dist.data.positions import Stream, draw

ALL = Wishes(z_size=5, noise_size=3, mixing=True, dropout=True, augment=True)


def test_noise_is_a_function_of_its_position():
    together = draw_noise(4, range(10, 20), ALL)
    for row in (0, 3, 9):
        alone = draw_noise(4, [10 + row], ALL)
        assert all(np.array_equal(a[row], b[0]) for a, b in zip(together, alone, strict=True))
        assert np.array_equal(together.z[row], draw(4, Stream.Z, 10 + row).standard_normal(5))
        assert together.mixing[row] == draw(4, Stream.MIXING, 10 + row).random()
        assert together.dropout_keys[row] == draw(4, Stream.DROPOUT, 10 + row).integers(2**63)
        expected = draw(4, Stream.AUGMENT, 10 + row).random(together.augment.shape[1:], np.float32)
        assert np.array_equal(together.augment[row], expected)
    other = draw_noise(5, range(10, 20), ALL)
    assert not any(np.array_equal(a, b) for a, b in zip(together, other, strict=True))


def test_what_is_not_wanted_changes_nothing_else():
    everything = draw_noise(4, range(8), ALL)
    for name, none in Wishes()._asdict().items():
        field = {"z_size": "z", "noise_size": "noise", "dropout": "dropout_keys"}.get(name, name)
        found = draw_noise(4, range(8), ALL._replace(**{name: none}))._asdict()
        assert not found.pop(field).any()
        assert all(np.array_equal(values, getattr(everything, other)) for other, values in found.items())


def test_noise_is_unit_normal_and_uniform():
    found = draw_noise(0, range(3000), ALL)
    assert abs(found.z.mean()) < 0.05 and abs(found.z.std() - 1) < 0.03
    assert abs(found.mixing.mean() - 0.5) < 0.03 and found.mixing.min() >= 0 and found.mixing.max() < 1
    assert abs(found.augment.mean() - 0.5) < 0.01
