"""Images for the 2D experiment: Kodak by number, a file by path, a picture that comes with scikit-image by name."""

import warnings
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import skimage.data
from skimage.color import gray2rgb, rgba2rgb

from data.download import DataError, download, sha256

KODAK_URL = "https://r0k.us/graphics/kodak/kodak/kodim{:02d}.png"
# Of the others no checksum is known here; their size is checked.
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
# EXIF's eight orientations, 1 as it is: whether to mirror, then how many quarters to turn counter-clockwise.
TURNS = {1: (False, 0), 2: (True, 0), 3: (False, 2), 4: (True, 2),
         5: (True, 1), 6: (False, 3), 7: (True, 3), 8: (False, 1)}
SMALLEST = 11  # pixels a side: the window of the SSIM


def load_image(source: str, folder: Path) -> tuple[str, np.ndarray]:
    """An image and the name of its case.

    Args:
        source: a Kodak number, 1 to 24; one of `BUNDLED`; or the path of an image file.
        folder: where data sets lie; a Kodak image that is missing there is fetched into `folder`/kodak.

    Returns:
        The case (kodim05, a bundled picture's name, a file's stem) and the image, float32 in [0, 1], shape
        (rows, columns, 3).

    Raises:
        DataError: no such image, or a file that is not one image of at least 11 × 11 pixels.
    """
    if source.lstrip("-").isdecimal():
        path = kodak(int(source), folder)
    elif source in BUNDLED:
        return source, as_rgb(getattr(skimage.data, source)(), source)
    else:
        path = Path(source)
    return path.stem, read_image(path)


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
    elif sorted(read_image(path).shape) != [3, 512, 768]:
        raise DataError(f"{path} is not 768 × 512 or 512 × 768 pixels; delete it to have it fetched again")


def read_image(path: Path) -> np.ndarray:
    """Read one image file: PNG, JPEG, TIFF or WebP; grey, RGB or RGBA; 8 or 16 bits.

    An EXIF turn is applied. Transparency is composited on white, grey repeated three times. A PNG of 16 bits and more
    than one channel is read with 8.

    Returns:
        float32 in [0, 1], shape (rows, columns, 3).

    Raises:
        DataError: not a file, or not one image of at least 11 × 11 pixels.
    """
    if not path.is_file():
        raise DataError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; --image takes a Kodak number, a "
                        f"path, or one of {', '.join(BUNDLED)}")
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            pixels = iio.imread(path, plugin="tifffile")
            one = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] <= 4)
            mirrored, quarters = TURNS[iio.immeta(path, plugin="tifffile", index=0).get("Orientation") or 1]
            frames = [np.rot90(pixels[:, ::-1] if mirrored else pixels, quarters)] if one else pixels
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # of Pillow at 90 million pixels, and of trailing junk
                mode = iio.immeta(path, plugin="pillow", index=0)["mode"]
                convert = {"mode": "RGB"} if mode in ("CMYK", "YCbCr", "LAB", "HSV") else {}
                frames = list(iio.imiter(path, plugin="pillow", rotate=True, **convert))
    except Exception as error:  # a decoder of a damaged file raises nearly anything
        raise DataError(f"{path} cannot be read as an image; it is damaged, too large, or none") from error
    if len(frames) != 1:
        raise DataError(f"{path} has {len(frames)} frames; give one still image")
    return as_rgb(frames[0], str(path))


def as_rgb(pixels: np.ndarray, name: str) -> np.ndarray:
    """Integer pixels (rows, columns[, 1 to 4 channels]) as float32 RGB in [0, 1], transparency on white."""
    largest = {"bool": 1, "uint8": 255, "uint16": 65535}.get(str(pixels.dtype))
    if largest is None:
        raise DataError(f"{name} has pixels of type {pixels.dtype}; 8 and 16 bits can be read")
    if min(pixels.shape[:2]) < SMALLEST:
        raise DataError(f"{name} is {pixels.shape[1]} × {pixels.shape[0]} pixels; the SSIM needs {SMALLEST} a side")
    # Not skimage's img_as_float32, which multiplies with 1 / 255 and so is off in the last bit of half the values.
    values = pixels.astype(np.float32) / np.float32(largest)
    if values.ndim == 2 or values.shape[-1] == 1:
        return gray2rgb(values.reshape(values.shape[:2]))
    if values.shape[-1] == 2:
        values = np.dstack([gray2rgb(values[..., 0]), values[..., 1]])
    return rgba2rgb(values, background=(1, 1, 1)) if values.shape[-1] == 4 else values
