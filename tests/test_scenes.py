"""Scene folders written here and read back: pictures, names, downscaling, and images that are no views."""

import json
import math
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import DATA, camera_at, matrix, write_scene, write_views

from data import toy_scene
from data.errors import UserError
from data.rgba import read_rgba
from data.scenes import (
    FAR,
    NEAR,
    Views,
    average,
    describe,
    load_scene,
    near_far,
    normalize_poses,
    scene_center,
)


def edit(folder, change, split="train"):
    path = folder / f"transforms_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def give(shared, own):
    """A change of a transforms file: the intrinsics of the file and of each frame."""
    def change(content):
        del content["camera_angle_x"]
        content.update(shared)
        for frame in content["frames"]:
            frame.update(own)
    return change


def test_a_folder_is_read_as_it_was_written(tmp_path):
    train, test = write_scene(tmp_path / "box")
    scene = load_scene(str(tmp_path / "box"), Path("nowhere"))
    assert scene.name == "box"
    for images, views, count in ((train, scene.train, 3), (test, scene.test, 2)):
        assert views.images.dtype == np.uint8 and views.poses.dtype == np.float32
        assert np.array_equal(views.images, images)
        assert np.allclose(views.poses, [matrix(i)[:3] for i in range(count)], atol=1e-6)
        focal = 7 / math.tan(0.35)
        assert views.intrinsics[0, 0] == pytest.approx(focal)
        assert views.intrinsics.dtype == np.float64 and np.allclose(views.intrinsics, [[focal, focal, 7, 5]] * count)
        assert views.names == [f"r_{i}" for i in range(count)]


def test_a_public_scene_lies_in_the_data_folder(tmp_path):
    write_scene(tmp_path / "nerf_synthetic" / "mic")
    assert load_scene("mic", tmp_path).name == "mic"
    with pytest.raises(UserError) as error:
        load_scene("chair", tmp_path)
    for said in (str(tmp_path / "nerf_synthetic" / "chair"), "nerf_synthetic.zip", "--scene toy"):
        assert said in str(error.value)


@pytest.mark.parametrize("files, names", [
    (["test/cam0/000.png", "test/cam1/000.png"], ["cam0/000", "cam1/000"]),
    (["a/000.png", "000.png"], ["a/000", "000"]),
    (["test/a.png", "test/a.jpg", "test/b.png"], ["a.png", "a.jpg", "b.png"]),
    (["test/a.png", "test/a.jpg", "test/a.png.png"], ["a.png", "a.jpg", "a.png.png"]),
    (["test/r_0.5.png", "test/a_$x_$.JPG"], ["r_0.5", "a_$x_$"]),
    (["test/cam0/only.png"], ["only"]),
])
def test_each_view_has_a_name_of_its_own_that_follows_its_path(folder, files, names):
    views = {file: np.full((10, 14, 3), 20 * index, np.uint8) for index, file in enumerate(files)}
    write_views(folder, "test", views)
    scene = load_scene(str(folder), folder)
    assert scene.test.names == names
    assert np.abs(scene.test.images[..., :3].astype(int) - [*views.values()]).max() <= 3
    assert (scene.test.images[..., 3] == 255).all()
    (folder / files[0]).unlink()  # the others keep their names
    if len(files) > 1:
        assert load_scene(str(folder), folder).test.names == names[1:]


@pytest.mark.parametrize("block, top, left", [(1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 1), (5, 1, 0)])
def test_what_is_seen_stays_in_its_direction(tmp_path, block, top, left):
    write_scene(tmp_path / "box", 13, 15)
    image = np.zeros((13, 15), np.uint8)
    image[top + block:top + 2 * block, left + 2 * block:left + 3 * block] = 255  # what becomes one pixel
    iio.imwrite(tmp_path / "box" / "train" / "r_0.png", image)
    edit(tmp_path / "box", give({"fl_x": 20, "fl_y": 15, "cx": 8.5, "cy": 3}, {}))
    views = load_scene(str(tmp_path / "box"), tmp_path, block).train
    (row, column), = np.argwhere(views.images[0, ..., 0] == 255)
    fx, fy, cx, cy = views.intrinsics[0]
    assert (column + 0.5 - cx) / fx == pytest.approx((left + 2.5 * block - 8.5) / 20)
    assert (row + 0.5 - cy) / fy == pytest.approx((top + 1.5 * block - 3) / 15)


def test_near_and_far_follow_the_scale_of_the_scene_and_its_middle_the_cameras():
    poses = toy_scene.cameras()[0]
    assert near_far(poses) == (NEAR, FAR)
    assert np.array_equal(scene_center(poses), np.zeros(3))  # a Blender scene's cameras look past it by little
    for scale in (0.25, 0.9, 1.2, 4, 1000):
        for shift in (0, 5):
            moved = place(poses, scale, scale * shift)
            assert near_far(moved) == pytest.approx((NEAR * scale, FAR * scale), rel=1e-3)
            assert np.allclose(scene_center(moved), scale * shift, atol=0.1 * scale)
    # Cameras that look the same way say nothing of the scale.
    assert near_far(poses[:1]) == near_far(np.repeat(poses[:1], 3, axis=0)) == (NEAR, FAR)


def inverse(poses):
    return np.linalg.inv(np.concatenate([poses, np.tile([[[0, 0, 0, 1]]], (len(poses), 1, 1))], axis=1))[:, :3]


def place(poses, scale, shift=0.0):
    """The cameras elsewhere, looking as they did."""
    return np.concatenate([poses[..., :3], scale * poses[..., 3:] + shift], axis=-1)


TOY = toy_scene.cameras()[0].astype(np.float64)
JITTER = np.random.default_rng(0).normal(size=(60, 3, 1))
WRONG = {  # cameras that do not look at one place from around it
    "OpenCV's axes": TOY * [1, -1, -1, 1], "OpenCV's axes, shifted": place(TOY * [1, -1, -1, 1], 3, 50),
    "looking the other way": TOY * [-1, 1, -1, 1], "outward from one place": place(TOY * [-1, 1, -1, 1], 0.01),
    "outward from exactly one place": place(TOY, 0, 3), "world to camera": inverse(TOY),
    "world to camera, as measured": inverse(place(TOY, 1, 0.3 * JITTER)),
    "in a room": place(TOY * np.where(np.arange(60) % 2, 1, -1)[:, None, None] ** [[1, 0, 1, 0]], 1, JITTER)}


@pytest.mark.parametrize("poses", WRONG.values(), ids=WRONG)
def test_cameras_that_look_nowhere_are_refused(folder, poses):
    edit(folder, lambda content: content.update(frames=[
        {"file_path": f"train/{i}", "transform_matrix": [*pose.tolist(), [0, 0, 0, 1]]}
        for i, pose in enumerate(poses[::6])]))
    for i in range(len(poses[::6])):
        shutil.copy(folder / "test" / "r_0.png", folder / "train" / f"{i}.png")
    with pytest.raises(UserError, match="cameras of .*box do not look at one place.*has to be camera-to-world"):
        load_scene(str(folder), folder)
    assert near_far(poses.astype(np.float32)) == (NEAR, FAR)


def test_hand_held_and_parallel_cameras_are_good():
    near_far(place(TOY, 1, 0.3 * JITTER))
    facing = np.stack([np.asarray(camera_at((x, y, 0.0), (0.3 * y, 0.2 * x, -5))) for x, y in JITTER[:, :2, 0] * 0.4])
    assert 3 < near_far(facing)[0] + near_far(facing)[1] < 30
    parallel = place(np.tile(TOY[:1], (60, 1, 1)), 1, JITTER)
    assert near_far(parallel) == (NEAR, FAR) and np.array_equal(scene_center(parallel), np.zeros(3))


def test_cameras_are_checked_before_anything_is_trained(folder):
    def turn(content):
        for frame in content["frames"]:
            frame["transform_matrix"] = (np.array(frame["transform_matrix"]) * [1, -1, -1, 1]).tolist()

    edit(folder, turn, "test")
    with pytest.raises(UserError, match="most test cameras"):
        load_scene(str(folder), folder)
    for split in ("train", "test"):
        edit(folder, lambda c: [f.update(transform_matrix=matrix(1).tolist()) for f in c["frames"]], split)
    assert load_scene(str(folder), folder)  # parallel axes
    edit(folder, turn, "test")
    with pytest.raises(UserError, match="do not look at one place"):
        load_scene(str(folder), folder)


def test_a_scene_is_described_in_a_line(folder):
    assert describe(load_scene(str(folder), folder)) == (
        "box: 3 training views of 14 × 10 pixels, RGBA, focal length 19.2 pixels; "
        "2 test views of 14 × 10 pixels, RGBA, focal length 19.2 pixels")
    black = np.zeros((10, 14, 3), np.uint8)
    write_views(folder, "test", {"test/a.jpg": black}, camera_angle_x=1.0, cx=9.0, camera_angle_y=0.5)
    edit(folder, lambda c: c["frames"][1].update(fl_x=30))
    assert describe(load_scene(str(folder), folder)) == (
        "box: 3 training views of 14 × 10 pixels, RGBA, focal length 19.2 to 30.0 pixels; 1 test views of 14 × 10 "
        "pixels, opaque RGB with a rim of 0.00 (black 0, white 1), "
        "focal length 12.8 × 19.6 pixels, center up to 2.0 pixels off the middle")


def test_companions_that_would_hide_pixels_are_refused(folder):
    for name in ("dynamic_mask_r_1.png", "r_1.alpha.jpg", "r_1_mask.PNG", "mask_r_1.exr", "r_1.mask.png"):
        (folder / "train" / name).write_bytes(b"")
        with pytest.raises(UserError, match=f"{name} is a mask, which is not used"):
            load_scene(str(folder), folder)
        (folder / "train" / name).rename(folder / "train" / name.replace("1", "7"))  # of no view
    (folder / "train" / "r_1_depth_0001.png").write_bytes(b"")
    load_scene(str(folder), folder)


@pytest.mark.parametrize("listed, file, said", [
    *((listed, "r_0.jp2", "r_0.jp2: JPEG 2000 is not read") for listed in ("r_0", "r_0.jp2")),
    *((f"r_0.{kind}", "r_0.jp2", f"r_0.{kind} is not there, but r_0.jp2 is, which") for kind in ("png", "jpg")),
    ("r_0", "r_0.exr", "r_0.exr: EXR is not read; save it as PNG"), ("r_0.unknown", "r_0.unknown", "EXR is not read"),
    ("r_0", "r_0.Png", ""), ("r_0.PNG", "r_0.png", ""), ("R_0.png", "r_0.PNG", ""), ("r_0", "r_0", ""),
    ("r_0.x", "r_0.x", ""), ("r_0", "r_0.ppm", ""), ("r_0.ppm", "r_0.ppm", "")])
@pytest.mark.parametrize("split", ["train", "test"])
def test_no_view_is_dropped_for_its_suffix(folder, split, listed, file, said):
    expected = getattr(load_scene(str(folder), folder), split)
    (folder / split / "r_0.png").rename(folder / split / file)
    edit(folder, lambda c: c["frames"][0].update(file_path=f"{split}/{listed}"), split)
    if said:
        (folder / split / file).write_bytes(b"\0\0\0\x0cjP  " if "jp2" in file else b"v/1\1\2\0\0\0")
        with pytest.raises(UserError, match=said):
            load_scene(str(folder), folder)
    else:
        views = getattr(load_scene(str(folder), folder), split)
        assert np.array_equal(views.images, expected.images)
        assert views.names == ["r_0.x" if listed == "r_0.x" else "r_0", *expected.names[1:]]


def test_names_composed_otherwise_are_found(folder):
    (folder / "train").rename(folder / unicodedata.normalize("NFD", "für"))
    path = folder / unicodedata.normalize("NFD", "für")
    (path / "r_0.png").rename(path / unicodedata.normalize("NFD", "é.png"))
    edit(folder, lambda c: [f.update(file_path=f["file_path"].replace("train", "für").replace("r_0", "é"))
                            for f in c["frames"]])
    assert len(load_scene(str(folder), folder).train.names) == 3


@pytest.mark.parametrize("block, top, left", [(2, 0, 0), (3, 0, 1), (4, 1, 1), (10, 0, 2)])
def test_downscale_averages_premultiplied_blocks(folder, block, top, left):
    image = read_rgba(folder / "train" / "r_0.png")
    image[:4, :4, 3] = 0
    iio.imwrite(folder / "train" / "r_0.png", image)
    found = load_scene(str(folder), folder, downscale=block).train.images
    rows, columns = 10 // block, 14 // block
    cut = image[top:top + block * rows, left:left + block * columns].astype(float) / 255
    blocks = cut.reshape(rows, block, columns, block, 4).swapaxes(1, 2).reshape(rows, columns, block**2, 4)
    weight = blocks[..., 3:].sum(2)
    color = (blocks[..., :3] * blocks[..., 3:]).sum(2) / np.where(weight, weight, 1)
    expected = np.concatenate([color, weight / block**2], axis=-1)
    assert found.dtype == np.uint8 and found.shape[1:] == expected.shape
    assert np.abs(found[0] - 255 * expected).max() <= 0.5 + 1e-9
    assert (average(np.full((600, 600, 4), 255, np.uint8), 600) == 255).all()  # no overflow


def test_composite():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), dtype=np.uint8)
    views, values = Views(images, np.empty(0), np.empty(0), []), images / 255.0
    for background in (1, 0, 0.5):
        result = views.colors(slice(None), background)
        assert result.dtype == np.float32 and result.shape == (2, 3, 5, 3)
        expected = values[..., :3] * values[..., 3:] + (1 - values[..., 3:]) * background
        assert np.abs(result - expected).max() < 1e-6


TURNED = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"  # an EXIF block with an orientation
IMAGES = {  # what is done to train/r_2.png, and what the error has to say beside its name
    "absent": (lambda path: path.unlink(), "not there"),
    "16 bits": (lambda path: iio.imwrite(path, np.zeros((10, 14), np.uint16)), "16 bits"),
    "turned": (lambda path: iio.imwrite(path, np.zeros((10, 14), np.uint8), exif=TURNED), "EXIF turn"),
    "of another size": (lambda path: iio.imwrite(path, np.zeros((10, 13, 4), np.uint8)), "13 × 10 pixels.*14 × 10"),
}


@pytest.mark.parametrize("change, said", IMAGES.values(), ids=IMAGES)
def test_a_damaged_image_is_named(folder, change, said):
    path = folder / "train" / "r_2.png"
    change(path)
    with pytest.raises(UserError, match=said) as error:
        load_scene(str(folder), folder)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_other_mistakes_are_named(folder):
    for downscale in (11, 1000):
        with pytest.raises(UserError, match=f"r_0.png is 14 × 10 pixels .*{downscale}"):
            load_scene(str(folder), folder, downscale)
    with pytest.raises(UserError, match="128 .*129"):
        load_scene("toy", folder, 129)
    with pytest.raises(UserError, match="nothing is not there; --scene takes toy, lego"):
        load_scene(str(folder / "nothing"), folder)
    with pytest.raises(UserError, match="not a folder"):
        load_scene(str(folder / "transforms_test.json"), folder)
    shutil.rmtree(folder / "test")
    with pytest.raises(UserError, match="transforms_test.json lists no image"):
        load_scene(str(folder), folder)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "nerf_synthetic" / "lego").exists(), reason="the lego scene is not here")
def test_lego():
    scene = load_scene("lego", DATA, downscale=8)
    assert scene.name == "lego" and scene.train.images.shape == (100, 100, 100, 4)
    assert scene.test.images.shape[1:] == (100, 100, 4) and len(scene.test.images) == len(scene.test.names) > 0
    assert scene.train.intrinsics[0, 0] == pytest.approx(1111.111 / 8, abs=1e-3)
    assert np.allclose(np.linalg.norm(scene.train.poses[:, :, 3], axis=1), 4.0311, atol=1e-4)
    assert 0.25 < (scene.train.images[..., 3] > 0).mean() < 0.4  # 31.0 % of the full-size pixels


def test_poses_are_normalized_about_the_middle_of_the_scene():
    scene = load_scene("toy", Path("nowhere"), 8)

    def moved(views):
        return replace(views, poses=place(views.poses, 3, [[10], [-20], [5]]))

    found = normalize_poses(replace(scene, train=moved(scene.train), test=moved(scene.test)))
    distances = np.linalg.norm(found.train.poses[:, :, 3], axis=1)
    assert distances.mean() == pytest.approx(1.5, abs=1e-3) and np.ptp(distances) < 0.2
    for views, old in ((found.train, scene.train), (found.test, scene.test)):  # by one scale, so that rays still meet
        assert np.array_equal(views.poses[..., :3], old.poses[..., :3]) and views.names == old.names
        assert np.allclose(views.poses[..., 3], old.poses[..., 3] * 1.5 / 4, atol=0.1)
    with pytest.raises(UserError, match="cameras of toy are all at one point"):
        normalize_poses(replace(scene, train=replace(scene.train, poses=scene.train.poses[:1] * [1, 1, 1, 0])))
