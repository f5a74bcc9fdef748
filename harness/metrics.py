"""Figures of merit, of arrays."""

import numpy as np
from scipy import ndimage
from skimage.metrics import structural_similarity

SSIM_WINDOW = 11  # pixels a side; no smaller image has an SSIM


def psnr(mse: float | np.ndarray) -> np.ndarray:
    """10 log10(1 / MSE) in dB, of values in [0, 1]; equal images have 100 dB, not infinity."""
    return 10 * np.log10(1 / np.maximum(mse, 1e-10))


def image_psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """PSNR in dB, as a float64 mean over all pixels and channels of two images of one shape, values in [0, 1]."""
    return float(psnr(np.square(image.astype(np.float64) - truth).mean()))


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """The structural similarity of Wang et al. (2004): an 11 × 11 Gaussian window of σ = 1.5, mean over the channels.

    Args:
        image, truth: shape (rows, columns, channels), values in [0, 1].
    """
    return float(structural_similarity(truth, image, data_range=1, channel_axis=-1, gaussian_weights=True, sigma=1.5,
                                       use_sample_covariance=False))


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two sets of full voxels, bool arrays of one shape, at least one of them not empty."""
    return float((found & truth).sum() / (found | truth).sum())


def radial_spectrum(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The power spectrum |F|² / N of an image, averaged over its channels and over rings of equal frequency.

    Args:
        image: shape (rows, columns, channels), N = rows · columns.

    Returns:
        The rings' frequencies in cycles per pixel, up to 1/2, and the mean power in each.
    """
    power = (np.abs(np.fft.fft2(image.astype(np.float64), axes=(0, 1))) ** 2).mean(axis=-1) / image[..., 0].size
    radius = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, power.shape), indexing="ij"))
    rings = min(power.shape) // 2
    ring = np.rint(radius * 2 * rings).astype(int)
    shown = np.arange(1, rings + 1)  # without the mean, and without the corners beyond the Nyquist frequency
    return shown / (2 * rings), ndimage.mean(power, ring, shown)


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
