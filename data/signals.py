"""The 1D target of the paper's section 4."""

import torch
from torch import Tensor

POINTS = 300
FREQUENCIES = {"1.5": 3, "2.5": 5, "3.5": 7, "4.5": 9}  # where its energy lies: cycles a unit → over its length of 2


def square_like_wave() -> tuple[Tensor, Tensor]:
    """f(x) = 2 · round((sin 3πx + sin 5πx + sin 7πx + sin 9πx) / 2) on 300 even points of [−1, 1], both ends in: the
    points and the values, float32 (300, 1), computed in float64, so that no device rounds a half to another side."""
    x = torch.linspace(-1, 1, POINTS, dtype=torch.float64)[:, None]
    waves = torch.stack([torch.sin(k * torch.pi * x) for k in (3, 5, 7, 9)])
    return x.float(), 2 * torch.round(waves.sum(dim=0) / 2).float()
