"""Images for the 2D experiment: Kodak by number, a file by path, a picture that comes with scikit-image by name."""

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image
from skimage.color import rgba2rgb
from torch import Tensor

from data.download import download
from data.errors import UserError
from data.paths import find_file
from data.rgba import read_rgba

KODAK_URL = "https://r0k.us/graphics/kodak/kodak/kodim{:02d}.png"
# How the SHA-256 of the RGB pixels begins, row by row. None is known here for the others; their size is checked.
KODAK_SHA256 = {
    1: "a002107433535944", 2: "ae5a495df4ec40e0", 3: "234e61f585503f2a", 4: "e88e788fca00e6c7",
    5: "ed3d1ee770909d3b", 6: "7f45158999fa297d", 7: "4e3664bf6fe865b4", 8: "889c3740e4ed54ca"}
BUNDLED = ("astronaut", "camera", "chelsea", "coffee", "rocket")  # of scikit-image, with nothing to download


def load_image(source: str, folder: Path) -> tuple[str, np.ndarray]:
    """The name of an image's case, and the image as `as_rgb` makes it; the arguments are those of `read_image`."""
    case, pixels = read_image(source, folder)
    return case, as_rgb(pixels)


def read_image(source: str, folder: Path) -> tuple[str, np.ndarray]:
    """The name of an image's case, and its pixels, RGBA, uint8 or uint16 (rows, columns, 4).

    `source` is a Kodak number, 1 to 24; one of `BUNDLED`; or the path of an image file, whose stem is the case. A Kodak
    image that is missing in `folder`/kodak is fetched. UserError: no such image, or a file that is not one image.
    """
    if source in BUNDLED:
        return source, np.asarray(Image.fromarray(getattr(skimage.data, source)()).convert("RGBA"))
    path = find_file(Path(source))
    number = int(source) if source.removeprefix("-").isdecimal() else None
    if number is None and not os.path.isfile(path):  # False, where pathlib's raises, of a name that is too long
        what = "a folder" if os.path.isdir(path) else "not there"
        raise UserError(f"{path} is {what}; --image takes a Kodak number, a path, or one of {', '.join(BUNDLED)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's: it reads on, or what stops it is an error
        return (path.stem, read_rgba(path)) if number is None else read_kodak(number, folder)


def describe(case: str, pixels: np.ndarray) -> str:
    """One line on what `read_image` has read."""
    image = as_rgb(pixels)
    kind = "RGB" if np.ptp(pixels[..., :3], axis=-1).any() else "gray"
    on_white = ", transparency put on white" if pixels[..., 3].min() < np.iinfo(pixels.dtype).max else ""
    values = f"values from {image.min():.3g} to {image.max():.3g}" if np.ptp(image, (0, 1)).any() else "of one color"
    return f"{case}: {image.shape[1]} × {image.shape[0]} pixels, {kind}, {8 * pixels.itemsize} bits{on_white}, {values}"


def read_kodak(number: int, folder: Path) -> tuple[str, np.ndarray]:
    """`read_image` of a Kodak image, which is fetched first where it is missing."""
    if not 1 <= number <= 24:
        raise UserError(f"the Kodak images are numbered 1 to 24, there is no {number}")
    path = folder / "kodak" / f"kodim{number:02d}.png"

    def read(file: Path) -> np.ndarray:
        pixels = read_rgba(file)
        found = hashlib.sha256(pixels[..., :3].tobytes()).hexdigest()[:16]
        if sorted(pixels.shape) != [4, 512, 768] or KODAK_SHA256.get(number, found) != found:
            raise UserError(f"{file} does not hold the pixels of Kodak image {number}; delete it to have it fetched")
        return pixels

    if not path.exists():
        download(KODAK_URL.format(number), path, read, "try a picture that needs no download: --image astronaut")
    return path.stem, read(path)


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """RGBA pixels, uint8 or uint16 (rows, columns, 4), as float32 RGB in [0, 1], transparency on white."""
    # Not skimage's img_as_float32: it multiplies with 1 / 255, which is off in the last bit of half the values.
    return rgba2rgb(pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max), background=(1, 1, 1))


def pixel_grid(image: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """The pixels' positions in [−1, 1]², both ends in, down and then right, (N, 2), and their values, (N, 3)."""
    rows, columns, _ = image.shape
    grid = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    return torch.stack(grid, dim=-1).reshape(-1, 2).to(device), torch.from_numpy(image).reshape(-1, 3).to(device)
