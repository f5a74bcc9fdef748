"""The figures of merit of signals, images and volumes."""

import numpy as np
import pytest

from harness.metrics import iou, psnr, radial_spectrum, relative_spectral_error, ssim


def test_psnr_and_ssim():
    assert psnr(0.01) == pytest.approx(20) and psnr(0.0) == pytest.approx(100)
    image = np.random.default_rng(0).random((32, 48, 3)).astype(np.float32)
    assert ssim(image, image) == pytest.approx(1) and ssim(1 - image, image) < 0


def test_ssim_is_wang_s_over_whole_windows():
    image, truth = np.random.default_rng(0).random((2, 20, 25, 1)).astype(np.float32)
    window = np.exp(-np.arange(-5, 6)**2 / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum()**2

    def mean(values):
        return (np.lib.stride_tricks.sliding_window_view(values[..., 0], (11, 11)) * window).sum(axis=(2, 3))

    x, y = mean(image), mean(truth)
    covariance, variances = mean(image * truth) - x * y, mean(image**2) - x**2 + mean(truth**2) - y**2
    expected = (2 * x * y + 1e-4) * (2 * covariance + 9e-4) / ((x**2 + y**2 + 1e-4) * (variances + 9e-4))
    assert ssim(image, truth) == pytest.approx(expected.mean(), abs=1e-5)


def test_iou():
    assert iou(np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)) == pytest.approx(1 / 3)
    assert iou(np.zeros(3, bool), np.ones(3, bool)) == 0


def test_the_radial_spectrum_of_a_wave_and_of_noise():
    frequency, power = radial_spectrum(np.sin(2 * np.pi * 8 / 64 * np.arange(64))[:, None, None] * np.ones((64, 64, 3)))
    assert frequency[power.argmax()] == pytest.approx(8 / 64) and frequency[-1] == 0.5
    noise = np.random.default_rng(0).normal(size=(128, 96, 3))
    assert radial_spectrum(noise)[1] == pytest.approx(1, abs=0.5)  # white noise of variance 1: flat, at 1


def test_relative_spectral_error_of_a_known_signal():
    t = np.arange(300) / 300
    target = 2 * np.sin(2 * np.pi * 3 * t) + np.cos(2 * np.pi * 7 * t)
    output = np.stack([target, np.sin(2 * np.pi * 3 * t + 1) + 3 * np.cos(2 * np.pi * 7 * t)])
    assert np.allclose(relative_spectral_error(output, target, [3, 7]), [[0, 0], [0.5, 2]])
