"""Read an image file as a viewer shows it, whatever lies in it.

Pillow reads all but TIFFs of 16 bits a sample, of which it would keep 8. Of these tifffile gives the samples.
"""

import io
import logging
import os
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageCms

from data.errors import UserError

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # which would print what the error says in one line
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how a file begins; the last two are BigTIFF
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr")  # of Pillow, up to 8 bits a sample
LARGEST = 89_478_485  # pixels, above which Pillow warns of a decompression bomb
ORIENTATION, ICC_PROFILE = 274, 34675  # tags of TIFF, the first of EXIF too
# The eight orientations, 1 as it is: whether to mirror, then how many quarters to turn counter-clockwise.
TURNS = {1: (False, 0), 2: (True, 0), 3: (False, 2), 4: (True, 2),
         5: (True, 1), 6: (False, 3), 7: (True, 3), 8: (False, 1)}


def read_rgba(path: Path, turn: bool = True) -> np.ndarray:
    """The picture in a file: palettes, color keys, CMYK and so on as RGBA, colors in sRGB, of a phone's two the first.

    Args:
        turn: turn the picture as its EXIF says; without, a file that says so is refused.

    Returns:
        Shape (rows, columns, 4), alpha straight, not premultiplied. uint16 of a gray PNG and a TIFF of 16 bits, else
        uint8: a PNG of 16 bits and more than one channel is read with 8.

    Raises:
        UserError: not a file, damaged, not one picture, of more pixels than `LARGEST`, or of a kind that
            cannot be shown as it is meant; the message says which.
    """
    if not os.path.isfile(path):  # False, where pathlib's raises, of a name that is too long
        raise UserError(f"{path} is {'not a file' if os.path.exists(path) else 'not there'}")
    try:
        with open(path, "rb") as file:
            tiff = file.read(4) in TIFF
        pixels, orientation = read_tiff(path) if tiff else read_with_pillow(path)
    except UserError:
        raise
    except Exception as error:  # a decoder of a damaged file raises nearly anything
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path} cannot be read as an image; it is damaged, too large, or none ({reason})") from error
    if not turn and orientation != 1:
        raise UserError(f"{path} has an EXIF turn, and a camera's numbers may mean the picture before or after it; "
                        "save the picture turned")
    return pixels


def read_with_pillow(path: Path, page: int | None = None) -> tuple[np.ndarray, int]:
    """The picture, and the orientation that the file gives; of a TIFF the picture on `page`."""
    # Not by its name: Pillow would map the file into memory, and scramble a TIFF that is to be turned by a quarter.
    with open(path, "rb") as file, Image.open(file) as image:
        if page is not None:
            image.seek(page)
        elif image.format != "MPO":  # that is, a JPEG with a second one for the other eye, or for bright screens
            check_one(path, getattr(image, "n_frames", 1))
        check_size(image.width * image.height)
        key = image.info.get("transparency")
        if image.format == "PNG" and key is not None:
            raw = str(image.tile[0][3])  # as L;2 for two bits
            if raw == "RGB;16B":
                raise UserError(f"{path} is a PNG of 16 bits with a color key, which cannot be read; save it with 8")
            if raw in ("L;2", "L;4") and key < 2**int(raw[2]):
                image.info["transparency"] = key * 255 // (2**int(raw[2]) - 1)  # as Pillow scales the samples
        orientation = orientation_of(image)
        image.load()
        left = orientation_of(image)  # 1 of a TIFF, which Pillow has turned
        if image.mode in ("I;16", "I;16B", "I;16L", "I") and image.format in ("PNG", "PPM", "JPEG2000"):
            gray = np.asarray(image).astype(np.uint16)
            pixels = np.stack([gray, gray, gray, np.where(gray == key, 0, 65535).astype(np.uint16)], axis=-1)
        elif image.mode in MODES:
            pixels = np.array((image.convert("LA") if image.mode == "La" else image).convert("RGBA"))
        else:
            raise UserError(f"{path} has pixels of the kind {image.mode}; save it as gray or RGB of 8 or 16 bits")
        profile = image.info.get("icc_profile")
        if profile:
            pixels = in_srgb(pixels, profile, path, image if image.mode == "CMYK" else None)
        return turned(pixels, left), orientation


def read_tiff(path: Path) -> tuple[np.ndarray, int]:
    """The picture, and the orientation that the file gives."""
    with tifffile.TiffFile(path) as file:
        pages = [page for page in file.pages if isinstance(page, tifffile.TiffPage)
                 and not (page.is_reduced or page.is_mask)]  # a thumbnail is no picture
        check_one(path, len(pages))
        page, = pages
        bits, kind = page.bitspersample, str(getattr(page.photometric, "name", page.photometric))
        if page.sampleformat != 1 or bits not in (1, 2, 4, 8, 16) or not set(page.axes) <= set("YXS"):
            raise UserError(f"{path} has samples of {bits} bits, or signed ones, or fractions; save whole numbers of 8 "
                            "or 16 bits")
        if bits < 16:
            return read_with_pillow(path, page.index)
        check_size(page.imagewidth * page.imagelength)
        colors = {"MINISWHITE": 1, "MINISBLACK": 1, "RGB": 3}.get(kind)
        if colors is None:
            raise UserError(f"{path} is a TIFF of 16 bits and of the kind {kind}; save gray or RGB, or 8 bits")
        samples = page.asarray()
        samples = np.moveaxis(samples, page.axes.index("S"), -1) if "S" in page.axes else samples[..., None]
        extra = page.extrasamples or (2,) * (samples.shape[-1] - colors)  # 1 premultiplied, 2 straight alpha, 0 neither
        if samples.shape[-1] != colors + len(extra):
            raise ValueError(f"{samples.shape[-1]} samples")
        color = 65535 - samples[..., :colors] if kind == "MINISWHITE" else samples[..., :colors]
        alpha = samples[..., colors:colors + 1] if extra[:1] in ((1,), (2,)) else np.full_like(color[..., :1], 65535)
        if extra[:1] == (1,):
            color = np.rint(color.clip(max=alpha) / np.maximum(alpha, 1) * 65535).astype(np.uint16)
        pixels = np.concatenate([np.broadcast_to(color, (*color.shape[:2], 3)), alpha], axis=-1)
        profile = page.tags.valueof(ICC_PROFILE)
        orientation = page.tags.valueof(ORIENTATION)
        orientation = orientation if orientation in TURNS else 1
        return turned(in_srgb(pixels, profile, path) if profile else pixels, orientation), orientation


def in_srgb(pixels: np.ndarray, profile: bytes, path: Path, cmyk: Image.Image | None = None) -> np.ndarray:
    """RGBA pixels with their colors, which are in the space of an ICC profile, in sRGB; as they are if it is sRGB.

    A profile that is damaged, or that is for another kind of pixels, is passed over, as viewers do.

    Args:
        cmyk: the image before it was RGBA, if it was CMYK.
    """
    rgba = Image.fromarray(pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8))
    try:
        space = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        kind = space.profile.xcolor_space.strip()
        if (kind == "CMYK") != (cmyk is not None):
            return pixels
        source = cmyk
        if source is None:
            source = rgba.convert("L" if kind == "GRAY" and not np.ptp(pixels[..., :3], axis=-1).any() else "RGB")
        shown = np.asarray(ImageCms.profileToProfile(source, space, ImageCms.createProfile("sRGB"), outputMode="RGB"))
    except (OSError, ValueError, ImageCms.PyCMSError):
        return pixels
    if np.abs(shown.astype(np.int16) - np.asarray(rgba)[..., :3]).max() <= 2:  # no more than rounding does
        return pixels
    if pixels.dtype != np.uint8:
        raise UserError(f"{path} has 16 bits and an ICC profile that is not sRGB's; save it in sRGB, or with 8 bits")
    return np.dstack([shown, pixels[..., 3]])


def orientation_of(image: Image.Image) -> int:
    orientation = image.getexif().get(ORIENTATION)
    return orientation if orientation in TURNS else 1


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    mirrored, quarters = TURNS[orientation]
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if mirrored else pixels, quarters))


def check_one(path: Path, count: int) -> None:
    if count != 1:
        raise UserError(f"{path} has {count} frames; give one still image")


def check_size(pixels: int) -> None:
    if pixels > LARGEST:
        raise ValueError(f"{pixels:,} pixels, at most {LARGEST:,}")
