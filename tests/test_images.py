"""Images by path and by name, and fetching Kodak from a folder on this machine."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA
from PIL import Image

from data import images
from data.errors import UserError
from data.images import as_rgb, describe, load_image, pixel_grid, read_image

RNG = np.random.default_rng(0)
RGBA = RNG.integers(0, 256, (13, 17, 4), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (13, 17), dtype=np.uint16)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_values_from_0_to_1_and_transparency_on_white(kind):
    pixels = RNG.integers(0, np.iinfo(kind).max + 1, (13, 17, 4), dtype=kind)
    values = pixels / np.iinfo(kind).max
    image = as_rgb(pixels)
    assert image.dtype == np.float32
    assert np.allclose(image, values[..., :3] * values[..., 3:] + 1 - values[..., 3:], rtol=0, atol=1e-6)
    pixels[..., 3] = np.iinfo(kind).max  # exactly the quotient where nothing shows through
    assert np.array_equal(as_rgb(pixels), pixels[..., :3].astype(np.float32) / np.float32(np.iinfo(kind).max))


@pytest.mark.parametrize("pixels, said", [
    (RGBA[..., :3], "RGB, 8 bits, values"), (RGBA[..., 0], "gray, 8 bits, values"), (DEEP, "gray, 16 bits, values"),
    (RGBA, "RGB, 8 bits, transparency put on white, values")], ids=["RGB", "gray", "deep", "RGBA"])
def test_a_file_is_read_and_described(tmp_path, pixels, said):
    path = tmp_path / "100% $x_$ 猫.png"
    Image.fromarray(pixels).save(path)
    case, image = load_image(str(path), Path("nowhere"))
    assert case == path.stem and image.shape == (13, 17, 3) and image.dtype == np.float32
    line = describe(*read_image(str(path), Path("nowhere")))
    assert line == f"{case}: 17 × 13 pixels, {said} from {image.min():.3g} to {image.max():.3g}"


def test_pillow_s_warnings_are_neither_printed_nor_errors(tmp_path, recwarn):
    broken_exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x0f\0\2\0\0\x13\x88\0\0"
    Image.fromarray(RGBA[..., :3]).save(tmp_path / "a.jpg", exif=broken_exif)
    with pytest.warns(UserWarning):
        Image.open(tmp_path / "a.jpg").getexif()
    recwarn.clear()
    assert load_image(str(tmp_path / "a.jpg"), Path("nowhere"))[1].shape == (13, 17, 3)
    Image.new("1", (10_000, 10_000)).save(tmp_path / "b.png")
    with pytest.raises(UserError, match="b.png .*100,000,000 pixels"):
        load_image(str(tmp_path / "b.png"), Path("nowhere"))
    assert not recwarn.list


def test_bundled_pictures_are_there_and_one_color_is_said():
    for name in images.BUNDLED:
        case, image = load_image(name, Path("nowhere"))
        assert case == name and image.shape[2] == 3 and 0.9 < image.max() <= 1
    line = describe(*read_image("camera", Path("nowhere")))
    assert line == "camera: 512 × 512 pixels, gray, 8 bits, values from 0 to 1"
    assert describe("a", np.full((13, 17, 4), 255, np.uint8)) == "a: 17 × 13 pixels, gray, 8 bits, of one color"


def test_pixels_go_with_their_positions():
    image = RNG.random((3, 5, 3), dtype=np.float32)
    x, target = pixel_grid(image, torch.device("cpu"))
    assert np.allclose(x.reshape(3, 5, 2)[1, 4], (0, 1)) and np.allclose(x[[0, -1]], [(-1, -1), (1, 1)])
    assert np.array_equal(target.reshape(3, 5, 3)[1, 4], image[1, 4])


@pytest.mark.skipif(not (DATA / "kodak" / "kodim05.png").exists(), reason="the Kodak images are not here")
def test_kodak_05_however_it_was_saved(tmp_path):
    case, image = load_image("5", DATA)
    assert case == "kodim05" and image.shape == (512, 768, 3)
    (tmp_path / "kodak").mkdir()
    Image.open(DATA / "kodak" / "kodim05.png").convert("RGBA").save(tmp_path / "kodak" / "kodim05.png", optimize=True)
    assert np.array_equal(load_image("5", tmp_path)[1], image)


def test_kodak_is_fetched_once_and_checked(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    for number, shape in (("09", (768, 512)), ("10", (100, 100)), ("05", (512, 768))):
        Image.fromarray(RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(source / f"kodim{number}.png")
    (source / "kodim12.png").write_bytes((source / "kodim09.png").read_bytes()[:100_000])
    folder = tmp_path / "data"
    monkeypatch.setattr(images, "KODAK_URL", source.as_uri() + "/kodim{:02d}.png")
    case, image = load_image("9", folder)
    assert case == "kodim09" and image.shape == (768, 512, 3)
    for number, said in (("10", "pixels of Kodak image 10"), ("5", "pixels of Kodak image 5"), ("11", "No such file"),
                         ("12", "cannot be read")):
        with pytest.raises(UserError, match=said) as error:
            load_image(number, folder)
        assert source.as_uri() in str(error.value) and f"kodim{int(number):02d}.png" in str(error.value)
    assert [file.name for file in (folder / "kodak").iterdir()] == ["kodim09.png"]
    shutil.rmtree(source)
    assert np.array_equal(load_image("9", folder)[1], image)
