"""The encodings of coordinates and directions against their definitions, computed the plain way."""

import math

import numpy as np
import pytest
import torch
from scipy.special import factorial, lpmv

from models import PositionalEncoding
from models.encodings import SphericalHarmonics


@pytest.mark.parametrize("base", [math.pi, 1.0])
@pytest.mark.parametrize("in_features", [1, 3])
def test_positional_encoding_order(in_features, base):
    encoding = PositionalEncoding(in_features, 5, base=base)
    x = torch.rand(4, in_features, dtype=torch.float64) * 2 - 1
    expected = [[*point, *(wave(2**i * base * c) for i in range(5) for c in point for wave in (math.sin, math.cos))]
                for point in x.tolist()]
    assert (encoding(x) - torch.tensor(expected, dtype=torch.float64)).abs().max() < 1e-12
    assert (encoding(x.float()) - encoding(x)).abs().max() < 1e-5 and encoding(x.float()).dtype == torch.float32
    assert encoding.out_features == in_features * 11 and not encoding.state_dict()


@pytest.mark.parametrize("encode, count", [(PositionalEncoding(3, 2), 15), (SphericalHarmonics(), 16)])
def test_an_encoding_of_any_leading_shape(encode, count):
    assert encode.out_features == count and not encode.state_dict()
    for shape in ((3,), (2, 4, 3), (0, 3)):
        x = torch.nn.functional.normalize(torch.randn(shape), dim=-1)
        assert encode(x).shape == (*shape[:-1], count) and encode(x).dtype == torch.float32
        assert torch.equal(encode(x).reshape(-1, count), encode(x.reshape(-1, 3)))


def test_spherical_harmonics_by_legendre_functions():
    z, phi = (axis.ravel() for axis in np.meshgrid(np.linspace(-1, 1, 9), np.linspace(0, 6, 16), indexing="ij"))
    directions = np.stack([np.sqrt(1 - z**2) * np.cos(phi), np.sqrt(1 - z**2) * np.sin(phi), z], -1)
    expected = []
    for degree in range(4):
        for order in range(-degree, degree + 1):
            m = abs(order)
            norm = math.sqrt((2 * degree + 1) / (4 * math.pi) * factorial(degree - m) / factorial(degree + m))
            wave = np.sin(m * phi) if order < 0 else np.cos(m * phi)
            # lpmv has the Condon-Shortley phase.
            expected.append((math.sqrt(2) if m else 1) * norm * lpmv(m, degree, z) * wave)
    values = SphericalHarmonics()(torch.from_numpy(directions)).numpy()
    assert np.abs(values - np.stack(expected, -1)).max() < 1e-7
