"""Images for the 2D experiment: Kodak by number, a file by path, a picture that comes with scikit-image by name."""

import os
import warnings
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image
from skimage.color import rgba2rgb

from data.download import DataError, download, sha256
from data.rgba import read_rgba

KODAK_URL = "https://r0k.us/graphics/kodak/kodak/kodim{:02d}.png"
# For the others no checksum is known here; their size is checked.
KODAK_SHA256 = {
    1: "a56e27cbf5f843c048b6af1d6e090760e9c92fadba88b7dee0205918a37523bd",
    2: "4f4b74a79237e311d72cad958237b5f7088d8bce1c82305ebefe1a70e3022dfd",
    3: "e25ca1ff2f0c0cb5fdfd5f9b0a0bb21ac4c3de3c84a67f35b09a85d3306249db",
    4: "e3b946107c5d3441c022f678d0c3caf1e224d81b1604ba840a4f88e562de61aa",
    5: "10349e963c5c813d327852f82c1795fa4148d69fedffc4c589bee458e3ac3d53",
    6: "363510303b715d4cbc384e1ce227e466b613a09e1b71ae985882bf8e7fbd9b18",
    7: "b77d3f006f42414bb242222e0482e750c0fb9e5ee8d4bed2f6f11c5605fe54a4",
    8: "ba23983c76b4832ee0e8af0592664756841a16779acd69f792e268fb6d13d6e7",
}
BUNDLED = ("astronaut", "camera", "chelsea", "coffee", "rocket")  # of scikit-image, with nothing to download


def load_image(source: str, folder: Path) -> tuple[str, np.ndarray]:
    """An image and the name of its case.

    Args:
        source: a Kodak number, 1 to 24; one of `BUNDLED`; or the path of an image file.
        folder: where data sets lie; a Kodak image that is missing there is fetched into `folder`/kodak.

    Returns:
        The case (kodim05, a bundled picture's name, a file's stem) and the image, float32 in [0, 1], shape
        (rows, columns, 3). Transparency is composited on white, gray repeated three times.

    Raises:
        DataError: no such image, or a file that is not one image.
    """
    case, pixels = find(source, folder)
    return case, as_rgb(pixels)


def describe(source: str, folder: Path) -> str:
    """One line on what `load_image` reads, which this reads for itself."""
    case, pixels = find(source, folder)
    image = as_rgb(pixels)
    kind = "RGB" if np.ptp(pixels[..., :3], axis=-1).any() else "gray"
    on_white = ", transparency put on white" if pixels[..., 3].min() < np.iinfo(pixels.dtype).max else ""
    return (f"{case}: {image.shape[1]} × {image.shape[0]} pixels, {kind}, {8 * pixels.itemsize} bits{on_white}, "
            f"values from {image.min():.3g} to {image.max():.3g}")


def find(source: str, folder: Path) -> tuple[str, np.ndarray]:
    """The case and the pixels, uint8 or uint16 RGBA, of an image named as for `load_image`."""
    if source in BUNDLED:
        return source, np.asarray(Image.fromarray(getattr(skimage.data, source)()).convert("RGBA"))
    path = kodak(int(source), folder) if source.removeprefix("-").isdecimal() else Path(source)
    if not os.path.isfile(path):  # False, where pathlib's raises, of a name that is too long
        what = "a folder" if os.path.isdir(path) else "not there"
        raise DataError(f"{path} is {what}; --image takes a Kodak number, a path, or one of {', '.join(BUNDLED)}")
    return path.stem, read_pixels(path)


def read_pixels(path: Path) -> np.ndarray:
    """`read_rgba` without Pillow's warnings: it reads on, or what stops it is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_rgba(path)


def kodak(number: int, folder: Path) -> Path:
    """The path of a Kodak image, which is fetched first where it is missing."""
    if not 1 <= number <= 24:
        raise DataError(f"the Kodak images are numbered 1 to 24, there is no {number}")
    path = folder / "kodak" / f"kodim{number:02d}.png"
    if not path.exists():
        download(KODAK_URL.format(number), path, lambda file: check_kodak(file, number),
                 "try a picture that needs no download: --image astronaut")
    check_kodak(path, number)
    return path


def check_kodak(path: Path, number: int) -> None:
    """DataError if the file is not that Kodak image, as far as is known here."""
    if number in KODAK_SHA256:
        if sha256(path) != KODAK_SHA256[number]:
            raise DataError(f"{path} has the wrong checksum; delete it to have it fetched again")
    elif sorted(read_pixels(path).shape) != [4, 512, 768]:
        raise DataError(f"{path} is not 768 × 512 or 512 × 768 pixels; delete it to have it fetched again")


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """RGBA pixels, uint8 or uint16 (rows, columns, 4), as float32 RGB in [0, 1], transparency on white."""
    # Not skimage's img_as_float32: it multiplies with 1 / 255, which is off in the last bit of half the values.
    return rgba2rgb(pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max), background=(1, 1, 1))
