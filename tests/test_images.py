"""Reading images of all kinds, and fetching Kodak from a folder on this machine."""

import shutil
import struct
import zlib
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import DATA

from data import images
from data.download import DataError
from data.images import load_image, read_image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (13, 17), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (13, 17, 3), dtype=np.uint8)


def png(path, pixels, bits=8, broken=False):
    """Write a PNG by hand: of 16 bits too, or with its data cut off."""
    height, width = pixels.shape[:2]
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2] if pixels.ndim == 3 else 1]
    rows = pixels.astype(f">u{bits // 8}")
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    path.write_bytes(content[:len(content) // 2] if broken else content)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_lossless_color(tmp_path, name):
    iio.imwrite(tmp_path / name, COLOUR, **({"lossless": True} if name.endswith("webp") else {}))
    image = read_image(tmp_path / name)
    assert image.dtype == np.float32 and np.allclose(image, COLOUR / 255, atol=1e-6)


def test_jpeg(tmp_path):
    smooth = np.broadcast_to(np.linspace(0, 255, 40, dtype=np.uint8)[:, None], (40, 30))
    iio.imwrite(tmp_path / "a.jpg", smooth)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == (40, 30, 3) and np.abs(image - smooth[..., None] / 255).max() < 0.03


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_as_a_png_is(tmp_path, orientation):
    from PIL import Image

    exif = Image.Exif()
    exif[274] = orientation
    for name in ("a.tif", "a.png"):
        Image.fromarray(COLOUR).save(tmp_path / name, exif=exif)
    turned = read_image(tmp_path / "a.tif")
    assert np.array_equal(turned, read_image(tmp_path / "a.png"))
    assert turned.shape == ((17, 13, 3) if orientation > 4 else (13, 17, 3))


def test_grey_is_repeated_and_16_bits_are_kept(tmp_path):
    deep = RNG.integers(0, 65536, (13, 17), dtype=np.uint16)
    png(tmp_path / "grey.png", GREY)
    png(tmp_path / "deep.png", deep, bits=16)
    iio.imwrite(tmp_path / "deep.tif", RNG.integers(0, 65536, (13, 17, 3), dtype=np.uint16))
    assert np.allclose(read_image(tmp_path / "grey.png"), GREY[..., None] / 255, atol=1e-6)
    assert np.allclose(read_image(tmp_path / "deep.png"), deep[..., None] / 65535, atol=1e-7)
    assert np.allclose(read_image(tmp_path / "deep.tif"), iio.imread(tmp_path / "deep.tif") / 65535, atol=1e-7)


def test_color_png_of_16_bits_is_read_with_8(tmp_path):
    deep = RNG.integers(0, 65536, (13, 17, 3), dtype=np.uint16)
    png(tmp_path / "deep.png", deep, bits=16)
    assert np.abs(read_image(tmp_path / "deep.png") - deep / 65535).max() < 1 / 255


@pytest.mark.parametrize("bits", [8, 16])
def test_transparency_is_composited_on_white(tmp_path, bits):
    pixels = RNG.integers(0, 2**bits, (13, 17, 4))
    png(tmp_path / "a.png", pixels, bits=bits)
    values = pixels / (2**bits - 1)
    expected = values[..., :3] * values[..., 3:] + 1 - values[..., 3:]
    assert np.abs(read_image(tmp_path / "a.png") - expected).max() < (1e-6 if bits == 8 else 2 / 255)


def test_exif_turn_is_applied(tmp_path):
    # An EXIF block with one entry, orientation 6: the camera was turned, show it turned clockwise.
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 274, 3, 1, 6, 0, 0)
    iio.imwrite(tmp_path / "a.webp", COLOUR, lossless=True, exif=b"Exif\0\0" + tiff)
    assert np.allclose(read_image(tmp_path / "a.webp"), np.rot90(COLOUR, -1) / 255, atol=1e-6)


@pytest.mark.parametrize("make", [
    lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"not an image"),
    lambda path: png(path, RNG.integers(0, 256, (300, 300, 3)), broken=True), lambda path: path.mkdir(),
    lambda path: png(path, COLOUR[:1, :1]), lambda path: png(path, COLOUR[:10]),
    lambda path: iio.imwrite(path, np.stack([COLOUR, 255 - COLOUR]), extension=".png"),
    lambda path: png(path, np.zeros((10_000, 10_000), np.uint8)), lambda path: None,
], ids=["empty", "junk", "truncated", "folder", "one pixel", "too narrow", "animated", "enormous", "absent"])
def test_what_is_not_one_image_is_named(tmp_path, make):
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(DataError, match="a.png"):
        read_image(path)


@pytest.mark.parametrize("number", ["0", "25", "-1"])
def test_kodak_has_24_images(tmp_path, number):
    with pytest.raises(DataError, match="1 to 24"):
        load_image(number, tmp_path)


def test_bundled_pictures():
    for name in images.BUNDLED:
        case, image = load_image(name, Path("nowhere"))
        assert case == name and image.shape[2] == 3 and 0.9 < image.max() <= 1


@pytest.mark.skipif(not (DATA / "kodak").exists(), reason="the Kodak images are not here")
def test_kodak_05():
    case, image = load_image("5", DATA)
    assert case == "kodim05" and image.shape == (512, 768, 3)


def test_kodak_is_fetched_once_and_checked(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    png(source / "kodim09.png", RNG.integers(0, 256, (768, 512, 3)))
    png(source / "kodim10.png", RNG.integers(0, 256, (100, 100, 3)))
    png(source / "kodim05.png", RNG.integers(0, 256, (512, 768, 3)))
    folder = tmp_path / "data"
    monkeypatch.setattr(images, "KODAK_URL", source.as_uri() + "/kodim{:02d}.png")
    case, image = load_image("9", folder)
    assert case == "kodim09" and image.shape == (768, 512, 3)
    for number, said in (("10", "768 × 512"), ("5", "checksum"), ("11", "No such file")):
        with pytest.raises(DataError, match=said) as error:
            load_image(number, folder)
        assert source.as_uri() in str(error.value) and f"kodim{int(number):02d}.png" in str(error.value)
    assert [file.name for file in (folder / "kodak").iterdir()] == ["kodim09.png"]
    shutil.rmtree(source)
    assert np.array_equal(load_image("9", folder)[1], image)
