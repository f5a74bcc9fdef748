"""The target of the 1D experiment."""

import numpy as np

from data.signals import FREQUENCIES, square_like_wave


def test_target():
    x, target = square_like_wave()
    assert x.shape == target.shape == (300, 1) and x[0] == -1 and x[-1] == 1
    points = np.linspace(-1, 1, 300)
    expected = 2 * np.round(sum(np.sin(k * np.pi * points) for k in (3, 5, 7, 9)) / 2)
    assert np.array_equal(target.numpy()[:, 0], expected) and set(expected) == {-4, -2, 0, 2, 4}


def test_its_energy_lies_at_the_frequencies_that_are_watched():
    power = np.abs(np.fft.rfft(square_like_wave()[1].numpy()[:, 0]))[:12]
    assert sorted(power.argsort()[-4:]) == list(FREQUENCIES.values())
    assert [float(hertz) * 2 for hertz in FREQUENCIES] == list(FREQUENCIES.values())
