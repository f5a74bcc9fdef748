"""Image files of all kinds, written here and read back as a viewer shows them."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from data.errors import UserError
from data.rgba import MAX_PIXELS, TURNS, read_rgba

RNG = np.random.default_rng(0)
GRAY, DEEP_GRAY = RNG.integers(0, 256, (13, 17), dtype=np.uint8), RNG.integers(0, 65536, (13, 17), dtype=np.uint16)
RGBA = RNG.integers(1, 256, (13, 17, 4), dtype=np.uint8)
DEEP = RNG.integers(1, 65536, (13, 17, 4), dtype=np.uint16)
RGB = RGBA[..., :3]
SMOOTH = np.dstack(np.broadcast_arrays(np.linspace(0, 255, 24)[:, None], np.linspace(255, 0, 32), 90)).astype(np.uint8)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(path, rows, width, bits, color_type, before=b""):
    """Write a PNG by hand from packed rows, with chunks before its data."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, color_type, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before
                     + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b""))


def saved(image, kind="PNG", **options):
    return lambda path: Image.fromarray(image).save(path, kind, **options)


def tiff(samples=None, **options):
    return lambda path: tifffile.imwrite(path, samples, **options)


def changed(save, change):
    """A file as `save` writes it, with its bytes changed."""
    return lambda path: (save(path), path.write_bytes(change(path.read_bytes())))


def opaque(color, largest=255):
    """RGBA of gray (rows, columns) or RGB."""
    color = np.broadcast_to(color if color.ndim == 3 else color[..., None], (*color.shape[:2], 3))
    return np.dstack([color, np.full(color.shape[:2], largest, color.dtype)])


def same(path, expected, within=0):
    pixels = read_rgba(path)
    assert pixels.dtype == expected.dtype and pixels.shape == expected.shape
    return np.abs(pixels.astype(int) - expected).max() <= within


@pytest.mark.parametrize("name, options", [("a.png", {}), ("a.tif", {}), ("a.tif", {"compression": "tiff_lzw"}),
                                           ("a.webp", {"lossless": True, "exact": True}), ("a.bin", {"format": "PNG"}),
                                           ("a.bmp", {}), ("a.ppm", {})])
def test_lossless_color_whatever_trails_it(tmp_path, name, options):
    with_alpha = [(RGBA, RGBA)] if name not in ("a.bmp", "a.ppm") else []
    for pixels, expected in ((RGB, opaque(RGB)), (GRAY, opaque(GRAY)), *with_alpha):
        Image.fromarray(pixels).save(tmp_path / name, **options)
        for content in (b"", b"junk" * 100):
            (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + content)
            assert same(tmp_path / name, expected)


@pytest.mark.parametrize("mode, options", [
    ("RGB", {}), ("L", {}), ("RGB", {"format": "MPO", "save_all": True, "append_images": [Image.fromarray(RGB)]})])
def test_jpeg_and_of_a_phone_s_two_pictures_the_first(tmp_path, mode, options):
    image = Image.fromarray(SMOOTH).convert(mode)
    image.save(tmp_path / "a.jpg", quality=95, **options)
    assert same(tmp_path / "a.jpg", np.asarray(image.convert("RGBA")), within=10)


@pytest.mark.parametrize("name, write", [
    ("a.png", saved(DEEP_GRAY)), ("a.tif", tiff(DEEP_GRAY)),
    ("a.tif", tiff(DEEP_GRAY, byteorder=">", compression="zlib")),
    ("a.tif", tiff(DEEP_GRAY, compression="zlib", predictor=True)),
    ("a.tif", saved(DEEP_GRAY, "TIFF", compression="tiff_lzw"))])
def test_16_bits_of_gray_are_kept(tmp_path, name, write):
    write(tmp_path / name)
    assert same(tmp_path / name, opaque(DEEP_GRAY, 65535))
    png(tmp_path / "color.png", [row.astype(">u2").tobytes() for row in DEEP], 17, 16, 6)
    assert same(tmp_path / "color.png", (DEEP >> 8).astype(np.uint8), within=1)  # color of 16 bits is read with 8


ALPHA_128 = np.full_like(RGBA[..., :1], 128)


@pytest.mark.parametrize("samples, options, expected, within", [
    (GRAY, {"photometric": "miniswhite"}, opaque(255 - GRAY), 0),
    (GRAY > 99, {"photometric": "miniswhite"}, opaque(np.where(GRAY > 99, 0, 255).astype(np.uint8)), 0),
    (np.moveaxis(RGB, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}, opaque(RGB), 0),
    (np.dstack([RGB // 2, ALPHA_128]), {"photometric": "rgb", "extrasamples": (1,)}, np.dstack([RGB, ALPHA_128]), 2),
    (np.dstack([GRAY // 2, ALPHA_128]), {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": (1,)},
     np.dstack([GRAY, GRAY, GRAY, ALPHA_128]), 2),
    (np.dstack([RGB, GRAY]), {"photometric": "rgb", "extrasamples": (0,)}, opaque(RGB), 0),
    (GRAY, {"photometric": "palette", "colormap": np.stack([np.arange(256) * 257, np.arange(256)[::-1] * 257,
                                                           np.full(256, 65535)]).astype(np.uint16)},
     opaque(np.dstack([GRAY, 255 - GRAY, GRAY * 0 + 255])), 0),
    (np.asarray(Image.fromarray(SMOOTH).convert("YCbCr")), {"photometric": "ycbcr"}, opaque(SMOOTH), 4),
], ids=["min is white", "two colors", "planes", "premultiplied", "gray premultiplied", "no alpha", "palette", "YCbCr"])
def test_tiff_of_8_bits(tmp_path, samples, options, expected, within):
    tifffile.imwrite(tmp_path / "a.tif", samples, **options)
    assert same(tmp_path / "a.tif", expected, within)


def key(*values):
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


LEVELS = (0, 85, 170, 255)
TWO_BITS = bytes([0b00011011])
KEYED = {  # bits, color type, chunks before the data, the row, and what is shown
    "palette": (2, 3, chunk(b"PLTE", bytes(range(12))) + chunk(b"tRNS", bytes([0, 128])), TWO_BITS,
                [[0, 1, 2, 0], [3, 4, 5, 128], [6, 7, 8, 255], [9, 10, 11, 255]]),
    "gray of 1 bit": (1, 0, key(1), bytes([0b01000000]), [[0, 0, 0, 255], [255, 255, 255, 0]]),
    **{f"gray of 2 bits, {k}": (2, 0, key(k), TWO_BITS, [[v, v, v, 255 * (i != k)] for i, v in enumerate(LEVELS)])
       for k in range(4)},
    "gray of 4 bits": (4, 0, key(5), bytes([0x5f]), [[85, 85, 85, 0], [255, 255, 255, 255]]),
    "gray of 8 bits": (8, 0, key(5), bytes([5, 85]), [[5, 5, 5, 0], [85, 85, 85, 255]]),
    "gray of 16 bits": (16, 0, key(1000), struct.pack(">HH", 1000, 60000), [[1000] * 3 + [0], [60000] * 3 + [65535]]),
    "RGB": (8, 2, key(1, 2, 4), bytes([1, 2, 3, 1, 2, 4]), [[1, 2, 3, 255], [1, 2, 4, 0]]),
}


@pytest.mark.parametrize("bits, color_type, before, row, shown", KEYED.values(), ids=KEYED)
def test_palettes_and_color_keys_are_transparency(tmp_path, bits, color_type, before, row, shown):
    png(tmp_path / "a.png", [row], len(shown), bits, color_type, before)
    pixels = read_rgba(tmp_path / "a.png")[0].tolist()
    # Where nothing is seen, viewers and decoders differ in the color.
    assert [pixel if pixel[3] else pixel[3:] for pixel in pixels] == [pixel if pixel[3] else [0] for pixel in shown]


def test_a_gif_has_a_transparent_color(tmp_path):
    image = Image.fromarray(GRAY % 4, "P")
    image.putpalette(bytes(range(12)))
    image.save(tmp_path / "a.gif", transparency=2)
    pixels = read_rgba(tmp_path / "a.gif")
    assert np.array_equal(pixels[..., 3] == 0, GRAY % 4 == 2) and set(np.unique(pixels[..., 3])) == {0, 255}
    assert np.array_equal(pixels[..., 0][GRAY % 4 != 2], (3 * (GRAY % 4))[GRAY % 4 != 2])


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "deep.tif"])
@pytest.mark.parametrize("orientation", range(10))
def test_the_turn_that_the_file_asks_for(tmp_path, name, orientation):
    path, pixels = tmp_path / name, RGBA
    if name == "deep.tif":
        pixels = opaque(DEEP_GRAY, 65535)
        tifffile.imwrite(path, DEEP_GRAY, extratags=[(274, 3, 1, orientation, True)])
    else:
        block = Image.Exif()
        block[274] = orientation
        options = {"lossless": True, "exact": True} if name == "a.webp" else {}
        Image.fromarray(pixels).save(path, exif=block, **options)
    # The definition: which row and column of the file each row and column of the picture begins at.
    turns = {2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.swapaxes(0, 1),
             6: pixels.swapaxes(0, 1)[:, ::-1], 7: pixels[::-1, ::-1].swapaxes(0, 1), 8: pixels.swapaxes(0, 1)[::-1]}
    assert same(path, turns.get(orientation, pixels))
    if orientation in TURNS and orientation != 1:
        with pytest.raises(UserError, match=f"{name} has an EXIF turn"):
            read_rgba(path, turn=False)
    else:
        assert np.array_equal(read_rgba(path, turn=False), pixels)


TURNED_RIGHT = struct.pack(">HHIHH", 274, 3, 1, 6, 0)  # entries of an EXIF block, of 12 bytes each


@pytest.mark.parametrize("entry", [
    struct.pack(">HHII", 271, 2, 5000, 9000), struct.pack(">HHII", 0x8769, 4, 1, 99999),
    struct.pack(">HHIf", 700, 11, 1, 1.5), struct.pack(">HHII", 271, 99, 1, 0),
], ids=["beyond the end", "no such block", "a fraction", "unknown type"])
def test_a_photograph_with_broken_exif_is_good(tmp_path, entry):
    block = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 2) + TURNED_RIGHT + entry + bytes(4)
    Image.fromarray(SMOOTH).save(tmp_path / "a.jpg", quality=95, exif=block)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert same(tmp_path / "a.jpg", opaque(np.rot90(SMOOTH, -1)), within=10)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SWAPPED = SRGB.replace(b"rXYZ", b"zXYZ").replace(b"bXYZ", b"rXYZ").replace(b"zXYZ", b"bXYZ")  # red is blue


@pytest.mark.parametrize("profile, shown", [(SRGB, RGBA), (SWAPPED, RGBA[..., [2, 1, 0, 3]]), (b"junk", RGBA)])
def test_an_icc_profile_is_followed(tmp_path, profile, shown):
    Image.fromarray(RGBA).save(tmp_path / "a.png", icc_profile=profile)
    assert same(tmp_path / "a.png", shown, within=0 if profile != SWAPPED else 2)


def gray_profile(gamma):
    """A profile of gray levels v that stand for the light v^gamma, with what it has to have and no more."""
    d50 = struct.pack(">3i", 63190, 65536, 54061)
    curve, white = b"curv" + struct.pack(">IIH", 0, 1, round(256 * gamma)) + b"\0\0", b"XYZ \0\0\0\0" + d50
    tags = struct.pack(">I4sII4sII", 2, b"kTRC", 156, 14, b"wtpt", 172, 20) + curve + white
    header = struct.pack(">I4xI4s4s4s12x4s28x", 128 + len(tags), 0x02100000, b"mntr", b"GRAY", b"XYZ ", b"acsp") + d50
    return header.ljust(128, b"\0") + tags


@pytest.mark.parametrize("channels", [1, 2])
def test_the_profile_of_a_gray_picture(tmp_path, channels):
    path, pixels = tmp_path / "a.png", np.dstack([GRAY, RGBA[..., 3]])[..., :channels].squeeze()
    light = (GRAY / 255.0)**1.8
    srgb = np.rint(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light**(1 / 2.4) - 0.055)).astype(np.uint8)
    alpha = RGBA[..., 3] if channels == 2 else np.full_like(GRAY, 255)
    for profile, shown, within in ((gray_profile(1.8), srgb, 2), (SWAPPED, GRAY, 2), (SRGB, GRAY, 0)):
        Image.fromarray(pixels).save(path, icc_profile=profile)
        assert same(path, np.dstack([shown, shown, shown, alpha]), within)
    Image.fromarray(DEEP_GRAY).save(path, icc_profile=gray_profile(1.8))
    with pytest.raises(UserError, match="a.png has 16 bits and an ICC profile"):
        read_rgba(path)
    Image.fromarray(RGBA).save(path, icc_profile=gray_profile(1.8))  # not meant for colors
    assert same(path, RGBA)


LONG = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a" * 5_000_000))
SRGB_PRIMARIES = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
P3_PRIMARIES = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
GAMMA, LINEAR = chunk(b"gAMA", struct.pack(">I", 45455)), chunk(b"gAMA", struct.pack(">I", 100_000))


@pytest.mark.parametrize("chunks, read", [
    ([LONG], True), ([chunk(b"cICP", bytes([1, 13, 0, 1]))], True), ([GAMMA, chunk(b"cHRM", SRGB_PRIMARIES)], True),
    ([LINEAR, chunk(b"sRGB", b"\0")], True), ([chunk(b"iCCP", b"a\0\0" + zlib.compress(SRGB)), LINEAR], True),
    ([chunk(b"cICP", bytes([12, 13, 0, 1]))], False), ([chunk(b"cICP", bytes([1, 16, 0, 1])), GAMMA], False),
    ([LONG, LINEAR], False), ([GAMMA, chunk(b"cHRM", P3_PRIMARIES)], False), ([chunk(b"cHRM", P3_PRIMARIES)], False),
], ids=["text", "cICP", "gAMA and cHRM", "sRGB", "iCCP", "P3", "PQ", "linear", "primaries and gAMA", "primaries"])
def test_a_png_is_read_whatever_text_it_has_and_only_in_srgb(tmp_path, chunks, read):
    path = tmp_path / "a.png"
    changed(saved(RGBA), lambda content: content[:33] + b"".join(chunks) + content[33:])(path)  # behind its header
    if read:
        assert same(path, RGBA)
    else:
        with pytest.raises(UserError, match="a.png has colors that are not sRGB's"):
            read_rgba(path)


OTHERS = [  # how files of other kinds begin
    ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0"), ("HEIC", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"),
    ("AVIF", b"\0\0\0\x18ftypavif\0\0\0\0"), ("AVIF", b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif"),
    ("a film or raw file", b"\0\0\0\x18ftypcrx \0\0\0\1"), ("JPEG XL", b"\xff\n\xfa\x1f"),
    ("JPEG 2000", b"\0\0\0\fjP  \r\n\x87\n"), ("EXR", b"v/1\1\2\0\0\0"), ("Radiance HDR", b"#?RADIANCE\n"),
    ("PSD", b"8BPS"), ("SVG", b"<?xml version='1.0'?>\n<!-- a -->\n<svg>"), ("PDF", b"%PDF-1.7"), ("PFM", b"PF\n8 8\n"),
    ("ICO", b"\0\0\1\0\1\0"), ("DDS", b"DDS |"), ("CR2", b"II*\0\x10\0\0\0CR\2\0"), ("TGA", b"")]


@pytest.mark.parametrize("kind, start", OTHERS)
def test_other_kinds_are_refused_by_their_names(tmp_path, kind, start):
    path = tmp_path / f"a.{'tga' if kind == 'TGA' else 'png'}"  # no first bytes tell a TGA
    path.write_bytes(start + bytes(100))
    with pytest.raises(UserError, match=f"{path.name}: {kind} is not read; save it as PNG$"):
        read_rgba(path)


NOISE = RNG.integers(0, 256, (60, 60, 3), dtype=np.uint8)
TWO_FRAMES = {"save_all": True, "append_images": [Image.fromarray(255 - RGB)]}
TILES = [struct.pack("<HHII", 256, 4, 1, width) for width in (17, 170)]
REFUSED = {
    "junk": (lambda path: path.write_bytes(b"not an image"), "cannot be read"),
    "folder": (lambda path: path.mkdir(), "not a file"),
    "absent": (lambda path: None, "not there"),
    "truncated png": (changed(saved(NOISE), lambda content: content[:-100]), "cannot be read"),
    "truncated jpeg": (changed(saved(NOISE, "JPEG"), lambda content: content[:-100]), "truncated"),
    "truncated tiff": (changed(tiff(NOISE, photometric="rgb"), lambda content: content[:-100]), "cannot be read"),
    "tiles that are not there": (changed(tiff(RGB, photometric="rgb", tile=(16, 16)),
                                         lambda content: content.replace(*TILES)), "cut off"),
    "thumbnail": (tiff(RGB, photometric="rgb", subfiletype=1), "thumbnail"),
    "animated png": (saved(RGB, **TWO_FRAMES), "2 frames"),
    "animated gif": (saved(RGB, "GIF", **TWO_FRAMES), "2 frames"),
    "animated webp": (saved(RGB, "WEBP", **TWO_FRAMES), "2 frames"),
    "pages": (tiff(np.stack([RGB, RGB]), photometric="rgb"), "2 frames"),
    "enormous": (lambda path: Image.new("1", (10_000, MAX_PIXELS // 10_000 + 1)).save(path, "PNG"), "pixels, at most"),
    "fractions": (tiff(GRAY / np.float32(255)), "1 samples of 32 bits"),
    "signed": (tiff(GRAY.astype(np.int8)), "whole numbers of 8 bits"),
    "16 bits, 0 is white": (tiff(DEEP_GRAY, photometric="miniswhite"), "black at 0"),
    "16 bits in color": (tiff(DEEP[..., :3], photometric="rgb"), "3 samples of 16 bits"),
    "gray and alpha of 16 bits": (tiff(DEEP[..., :2], photometric="minisblack", extrasamples=(2,),
                                       planarconfig="contig"), "another kind"),
    "JPEG of 12 bits": (changed(saved(SMOOTH, "JPEG"), lambda content: content.replace(
        b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c")), "JPEG of 12 bits is not read"),
    "CMYK": (lambda path: Image.fromarray(RGB).convert("CMYK").save(path, "JPEG"), "kind CMYK"),
    "CIELAB": (tiff(RGB, photometric="cielab"), "kind LAB"),
    "key of 16 bits": (lambda path: png(path, [struct.pack(">HHH", 1, 2, 3)], 1, 16, 2, key(1, 2, 3)),
                       "16 bits with a color key"),
    "a long name": (None, "not there"),
}


@pytest.mark.parametrize("make, said", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_shown_is_named(tmp_path, make, said):
    path = tmp_path / ("a.png" if make else "a" * 300)
    if make:
        make(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UserError, match=said) as error:
            read_rgba(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_tiff_prints_nothing(tmp_path, capfd):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, DEEP_GRAY)
    content = bytearray(buffer.getvalue())
    content[12:14] = b"\xff\xff"  # the type of the first tag
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(UserError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_rgba(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")
