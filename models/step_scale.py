"""κ, how far Adam moves the weight of an FR layer: α and the learning rate mean something only together."""

import math

import torch

from .fourier_reparam import FourierReparamLinear


def step_scale(layer: FourierReparamLinear) -> float:
    """κ: how far Adam's first step moves W, root mean square over its elements, in units of the learning rate.

    That step moves each coefficient by ± lr, and so W by −lr sign(G Bᵀ) B, with G the gradient with respect to W. An
    ordinary W moves by −lr sign(G), where κ = 1. For a G of independent normal numbers those of a row of G Bᵀ are
    normal, with the correlations C of B's rows. The covariance of their signs is S = (2/π) arcsin C (arcsine law). So

        κ² = trace(Bᵀ S B) / d_in.

    Rule of thumb: κ ≈ 0.65 α M / sqrt(d_in). The d_in points tell d_in / 2 frequencies apart. The others alias on
    these, n = 2 M / d_in rows on each. Rows of different ones have S = 0. Two of one, at phases δ apart, have
    C = cos δ and S = 1 − 2|δ| / π, where S C is 4 / π² on average. Their norm is α sqrt(d_in / 2). So

        κ² ≈ (1 / d_in) (d_in / 2) (n² α² d_in / 2) (4 / π²) = (2/π α M)² / d_in.

    With fewer frequencies than half d_in κ is larger.
    """
    phases, waves = layer.exact_factors()
    opposites = layer.phase_num % 2 == 0  # φ + π is there with φ: a row and its negative move W alike
    if opposites:
        phases = phases[:, :layer.phase_num // 2]
    gram = torch.einsum("cfj,dgj->fgcd", waves, waves)
    norms = torch.einsum("cp,ffcd,dp->fp", phases, gram, phases).clamp(min=0).sqrt()
    norms = norms.clamp(min=1e-6 * layer.alpha)  # of rows that are zero but for rounding, see reset_parameters
    trace = 0.0
    for f in range(len(gram)):  # one after another, as M × M numbers are too many
        products = torch.einsum("cp,gcd,dq->pgq", phases, gram[f, f:], phases)  # of f's rows of B with later rows
        correlations = (products / (norms[f, :, None, None] * norms[f:])).clamp(-1, 1)
        with_each = 2 / math.pi * (correlations.asin() * products).sum((0, 2))
        trace += 2 * with_each.sum().item() - with_each[0].item()
    return (2 if opposites else 1) * math.sqrt(trace / layer.in_features)
