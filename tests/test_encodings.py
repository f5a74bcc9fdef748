"""The spherical harmonics against their definition by Legendre functions."""

import math

import numpy as np
import pytest
import torch
from scipy.special import factorial, lpmv

from models.encodings import SphericalHarmonics


def directions_and_weights():
    """Nodes of a quadrature on the sphere that is exact for products of two harmonics of degree 3."""
    cosines, weights = np.polynomial.legendre.leggauss(8)
    azimuths = 2 * np.pi * np.arange(16) / 16
    z, phi = (a.ravel() for a in np.meshgrid(cosines, azimuths, indexing="ij"))
    r = np.sqrt(1 - z**2)
    return np.stack([r * np.cos(phi), r * np.sin(phi), z], -1), np.repeat(weights, 16) * 2 * np.pi / 16, phi


def test_spherical_harmonics_are_orthonormal():
    directions, weights, _ = directions_and_weights()
    values = SphericalHarmonics()(torch.from_numpy(directions)).numpy()
    assert values.shape == (128, 16)
    assert np.abs(values.T @ (weights[:, None] * values) - np.eye(16)).max() < 1e-7


def test_spherical_harmonics_by_legendre_functions():
    directions, _, phi = directions_and_weights()
    expected = []
    for degree in range(4):
        for order in range(-degree, degree + 1):
            m = abs(order)
            norm = math.sqrt((2 * degree + 1) / (4 * math.pi) * factorial(degree - m) / factorial(degree + m))
            wave = np.sin(m * phi) if order < 0 else np.cos(m * phi)
            # lpmv has the Condon-Shortley phase.
            expected.append((math.sqrt(2) if m else 1) * norm * lpmv(m, degree, directions[:, 2]) * wave)
    values = SphericalHarmonics()(torch.from_numpy(directions)).numpy()
    assert np.abs(values - np.stack(expected, -1)).max() < 1e-7


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 4, 3), (0, 3)])
def test_spherical_harmonics_of_any_leading_shape(shape):
    harmonics = SphericalHarmonics()
    values = harmonics(torch.nn.functional.normalize(torch.randn(shape), dim=-1))
    assert values.shape == (*shape[:-1], harmonics.out_features) and values.dtype == torch.float32
    assert not harmonics.state_dict()
