"""Figures of merit, of arrays."""

import numpy as np


def relative_spectral_error(outputs: np.ndarray, target: np.ndarray, bins: list[int]) -> np.ndarray:
    """| |F_output(k)| − |F_target(k)| | / |F_target(k)| with F the DFT over the samples (paper, section 4).

    Args:
        outputs: shape (..., samples).
        target: shape (samples,).
        bins: the frequencies k, in cycles over the whole interval.

    Returns:
        Shape (..., len(bins)).
    """
    found = np.abs(np.fft.rfft(outputs.astype(np.float64))[..., bins])
    wanted = np.abs(np.fft.rfft(target.astype(np.float64))[bins])
    return np.abs(found - wanted) / wanted
