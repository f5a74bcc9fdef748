"""Read an image file as a viewer shows it, or refuse it by name: few formats, each read right."""

import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from data.errors import UserError

PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = 1 << 26, 1 << 28  # bytes of text beside the pixels
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM")
UNSUPPORTED = {  # by how a file begins
    rb"\xff\n|\0\0\0\fJXL": "JPEG XL", rb"\xffO\xffQ|\0\0\0\fjP": "JPEG 2000", rb"....ftyp.{,40}avi[fs]": "AVIF",
    rb"....ftyp(he|mif1|msf1)": "HEIC", rb"....ftyp": "a film or raw file", rb"v/1\x01": "EXR", rb"P[Ff]\s": "PFM",
    rb"8BPS": "PSD", rb".{,500}<svg": "SVG", rb"%PDF": "PDF", rb"DDS ": "DDS", rb"II\*.{5}CR": "CR2",
    rb"\0\0\x01\0": "ICO", rb"#\?R": "Radiance HDR", rb"\xff\xd8.*\xff[\xc0-\xc2]\0[\x0b\x11]\f": "JPEG of 12 bits"}
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "YCbCr")  # of Pillow, up to 8 bits a sample
MAX_PIXELS = 89_478_485  # pixels, above which Pillow warns of a decompression bomb
ORIENTATION = 274  # a tag of TIFF and of EXIF
# The eight orientations, 1 as it is: whether to mirror, then how many quarters to turn counter-clockwise.
TURNS = dict(enumerate([(0, 0), (1, 0), (0, 2), (1, 2), (1, 1), (0, 3), (1, 3), (0, 1)], start=1))
SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # x and y of white, red, green and blue


def read_rgba(path: Path, turn: bool = True) -> np.ndarray:
    """The picture in a file: palettes, color keys and so on as RGBA, colors in sRGB, of a phone's two the first.

    Shape (rows, columns, 4), alpha straight, not premultiplied. uint16 of gray of 16 bits, else uint8: a PNG of 16 bits
    in color is read with 8. `turn` turns it as its EXIF says; without, a file that says so is refused. UserError: not a
    file, damaged, not one picture, of more pixels than `MAX_PIXELS`, or of a kind that cannot be shown as it is meant.
    """
    if not os.path.isfile(path):  # False, where pathlib's raises, of a name that is too long
        raise UserError(f"{path} is {'not a file' if os.path.exists(path) else 'not there'}")
    try:
        # Not by its name: Pillow would map the file into memory, and scramble a TIFF that is to be turned by a quarter.
        with open(path, "rb") as file:
            head = file.read(1024)
            kind = "TGA" if path.suffix.lower() == ".tga" else ""  # which no first bytes tell
            if kind := next((kind for start, kind in UNSUPPORTED.items() if re.match(start, head, re.DOTALL)), kind):
                raise UserError(f"{path}: {kind} is not read; save it as PNG")
            with Image.open(file, formats=FORMATS) as image:
                return read_picture(image, path, turn)
    except UserError:
        raise
    except Exception as error:  # a decoder of a damaged file raises nearly anything
        reason = " ".join(str(error).split())[:100] or "it is damaged"
        if isinstance(error, UnidentifiedImageError):
            reason = "it is damaged, or of another kind than PNG, JPEG, TIFF, WebP, GIF, BMP and PPM of 8 bits"
        raise UserError(f"{path} cannot be read as an image ({reason}); save it as PNG") from error


def check_srgb(image: Image.Image, path: Path) -> None:
    """UserError if a PNG says, by something else than an ICC profile, that its colors are not sRGB's."""
    if cicp := re.search(rb"\0\0\0\x04cICP(.{4})", path.read_bytes(), re.DOTALL):  # a chunk that Pillow passes over
        other = cicp[1] != bytes([1, 13, 0, 1])  # sRGB's: the primaries of BT.709, its own curve, RGB, full range
    else:
        away = np.abs(np.subtract(image.info.get("chromaticity", SRGB), SRGB)).max()
        other = abs(image.info.get("gamma", 1 / 2.2) - 1 / 2.2) > 0.02 or away > 0.01
        other = other and not image.info.keys() & {"icc_profile", "srgb"}
    if other:
        raise UserError(f"{path} has colors that are not sRGB's, by its cICP, gAMA or cHRM; save it in sRGB")


def read_picture(image: Image.Image, path: Path, turn: bool) -> np.ndarray:
    """`read_rgba` of a file that Pillow has opened."""
    frames = getattr(image, "n_frames", 1)
    if frames != 1 and image.format != "MPO":  # a JPEG with a second picture, for the other eye or bright screens
        raise UserError(f"{path} has {frames} frames; give one still image")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        check_tiff(image, path)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width * image.height:,} pixels, at most {MAX_PIXELS:,}")
    if image.format == "PNG":
        check_srgb(image, path)
    key = image.info.get("transparency")
    if image.format == "PNG" and key is not None:
        raw = str(image.tile[0][3])  # type: ignore[attr-defined]  # as L;2 for two bits
        if raw == "RGB;16B":
            raise UserError(f"{path} is a PNG of 16 bits with a color key, which cannot be read; save it with 8")
        if raw in ("L;2", "L;4") and key < 2**int(raw[2]):
            image.info["transparency"] = key * 255 // (2**int(raw[2]) - 1)  # as Pillow scales the samples
    if not turn and image.getexif().get(ORIENTATION, 1) in range(2, 9):
        raise UserError(f"{path} has an EXIF turn, and a camera's numbers may mean the picture before or after it; "
                        "save the picture turned")
    image.load()
    mirrored, quarters = TURNS.get(image.getexif().get(ORIENTATION, 1), TURNS[1])  # Pillow has turned a TIFF
    if image.mode in ("I;16", "I;16B", "I") and image.format in ("PNG", "PPM", "TIFF"):
        gray = np.asarray(image).astype(np.uint16)
        pixels = np.stack([gray, gray, gray, np.where(gray == key, 0, 65535).astype(np.uint16)], axis=-1)
    elif image.mode in MODES:
        pixels = np.array((image.convert("LA") if image.mode == "La" else image).convert("RGBA"))
    else:
        raise UserError(f"{path} has pixels of the kind {image.mode}; save it as gray or RGB of 8 bits")
    if profile := image.info.get("icc_profile"):
        pixels = in_srgb(pixels, profile, path)
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if mirrored else pixels, quarters))


def check_tiff(image: TiffImagePlugin.TiffImageFile, path: Path) -> None:
    """UserError if Pillow would not keep all bits of a TIFF, or take a thumbnail or a mask for the picture."""
    def tag(number: int, default: int) -> list[int]:
        return np.atleast_1d(image.tag_v2.get(number, default)).tolist()

    bits, planes = tag(258, 1), len(tag(258, 1)) if tag(284, 1) == [2] else 1
    if tag(254, 0)[0] & 5 or {*tag(339, 1)} != {1} or max(bits) > 8 and (bits, tag(262, 1)) != ([16], [1]):
        raise UserError(f"{path} has {len(bits)} samples of {max(bits)} bits a pixel, or first a thumbnail; of a TIFF "
                        "whole numbers of 8 bits are read, and gray of 16 with black at 0; save it so")
    tiles: Any = image.tile  # of what is compressed libtiff sees to it that all are there
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for codec, box, *_ in tiles if codec == "raw")
    if area not in (0, image.width * image.height * planes):
        raise ValueError("it is cut off")


def in_srgb(pixels: np.ndarray, profile: bytes, path: Path) -> np.ndarray:
    """RGBA pixels with their colors, which are in the space of an ICC profile, in sRGB; as they are if it is sRGB's, or
    if it is damaged or for another kind of pixels, as viewers do."""
    rgba = Image.fromarray(pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8))
    try:
        space = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        gray = space.profile.xcolor_space.strip() == "GRAY" and not np.ptp(pixels[..., :3], axis=-1).any()
        source = rgba.convert("L" if gray else "RGB")
        shown = np.asarray(ImageCms.profileToProfile(source, space, ImageCms.createProfile("sRGB"), outputMode="RGB"))
    except (OSError, ValueError, ImageCms.PyCMSError):
        return pixels
    if np.abs(shown.astype(np.int16) - np.asarray(rgba)[..., :3]).max() <= 2:  # no more than rounding does
        return pixels
    if pixels.dtype != np.uint8:
        raise UserError(f"{path} has 16 bits and an ICC profile that is not sRGB's; save it in sRGB, or with 8 bits")
    return np.dstack([shown, pixels[..., 3]])
