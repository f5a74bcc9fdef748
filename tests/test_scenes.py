"""Scene folders written here and read back, what is wrong with a damaged one, and the geometry of the toy scene."""

import json
import math
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import DATA

from data import toy_scene
from data.download import DataError
from data.scenes import FAR, NEAR, average, load_scene, on_background, read_rgba
from data.toy_scene import SOLIDS, Ball, Slab

ANGLE = 0.7


def rotation(seed):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def matrix(seed):
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation(seed), [seed, 2, 3]
    return pose


def write_scene(folder, height=10, width=14):
    """Three train and two test views; returns their images by file path."""
    rng = np.random.default_rng(0)
    images = {}
    for split, count in (("train", 3), ("test", 2)):
        (folder / split).mkdir(parents=True)
        frames = []
        for i in range(count):
            images[f"{split}/r_{i}"] = image = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
            iio.imwrite(folder / split / f"r_{i}.png", image)
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": matrix(i).tolist()})
        content = {"camera_angle_x": ANGLE, "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(content))
    return images


def edit(folder, change, split="train"):
    path = folder / f"transforms_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    write_scene(tmp_path / "box")
    return tmp_path / "box"


def test_a_folder_is_read_as_it_was_written(tmp_path):
    images = write_scene(tmp_path / "box")
    scene = load_scene(str(tmp_path / "box"), Path("nowhere"))
    assert scene.name == "box"
    for split, views, count in (("train", scene.train, 3), ("test", scene.test, 2)):
        assert views.images.dtype == np.uint8 and views.poses.dtype == np.float32
        assert np.array_equal(views.images, np.stack([images[f"{split}/r_{i}"] for i in range(count)]))
        assert np.allclose(views.poses, [matrix(i)[:3] for i in range(count)], atol=1e-6)
        assert views.focal == pytest.approx(7 / math.tan(ANGLE / 2)) and type(views.focal) is float
        assert views.names == [f"r_{i}" for i in range(count)]


def test_a_public_scene_lies_in_the_data_folder(tmp_path):
    write_scene(tmp_path / "nerf_synthetic" / "mic")
    assert load_scene("mic", tmp_path).name == "mic"
    with pytest.raises(DataError) as error:
        load_scene("chair", tmp_path)
    for said in (str(tmp_path / "nerf_synthetic" / "chair"), "nerf_synthetic.zip", "--scene toy"):
        assert said in str(error.value)


def test_file_paths_with_and_without_suffix_and_images_without_alpha(folder):
    opaque = np.random.default_rng(1).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    iio.imwrite(folder / "train" / "r_1.png", opaque)
    edit(folder, lambda c: [f.update(file_path=f["file_path"][2:] + ".png") for f in c["frames"]])
    views = load_scene(str(folder), folder).train
    assert views.names == ["r_0", "r_1", "r_2"]
    assert np.array_equal(views.images[1, ..., :3], opaque) and (views.images[1, ..., 3] == 255).all()


def test_test_views_are_those_whose_image_is_there(folder):
    (folder / "test" / "r_0.png").unlink()
    views = load_scene(str(folder), folder).test
    assert views.names == ["r_1"] and np.allclose(views.poses[0], matrix(1)[:3], atol=1e-6)


def test_a_scaled_camera_is_the_same_camera(folder):
    scaled = matrix(1)
    scaled[:3, :3] *= 2.5
    edit(folder, lambda c: c["frames"][1].update(transform_matrix=scaled.tolist()))
    assert np.allclose(load_scene(str(folder), folder).train.poses[1], matrix(1)[:3], atol=1e-6)


@pytest.mark.parametrize("block, top, left", [(2, 0, 0), (3, 0, 1), (4, 1, 1), (10, 0, 2)])
def test_downscale_averages_premultiplied_blocks(folder, block, top, left):
    image = read_rgba(folder / "train" / "r_0.png")
    image[:4, :4, 3] = 0
    iio.imwrite(folder / "train" / "r_0.png", image)
    scene = load_scene(str(folder), folder, downscale=block)
    expected = np.zeros((10 // block, 14 // block, 4))
    for i in range(10 // block):
        for j in range(14 // block):
            pixels = [image[top + block * i + k, left + block * j + m].astype(float) / 255
                      for k in range(block) for m in range(block)]
            alpha = sum(pixel[3] for pixel in pixels)
            if alpha > 0:
                expected[i, j, :3] = sum(pixel[:3] * pixel[3] for pixel in pixels) / alpha
            expected[i, j, 3] = alpha / block**2
    assert scene.train.images.dtype == np.uint8 and scene.train.images.shape[1:] == expected.shape
    assert np.abs(scene.train.images[0] - 255 * expected).max() <= 0.5 + 1e-9
    assert scene.train.focal == pytest.approx(7 / math.tan(ANGLE / 2) / block)


def test_downscale_of_a_large_block_does_not_overflow():
    assert (average(np.full((600, 600, 4), 255, np.uint8), 600) == 255).all()


def test_composite():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), dtype=np.uint8)
    values = images / 255.0
    for background in (1, 0, 0.5):
        result = on_background(images, background)
        assert result.dtype == np.float32 and result.shape == (2, 3, 5, 3)
        expected = values[..., :3] * values[..., 3:] + (1 - values[..., 3:]) * background
        assert np.abs(result - expected).max() < 1e-6


def bad_matrix(change):
    def apply(content):
        pose = matrix(1)
        content["frames"][1]["transform_matrix"] = np.asarray(change(pose), float).tolist()
    return apply


def sheared(pose):
    pose[:3, 0] += 0.1 * pose[:3, 1]
    return pose


DAMAGE = {  # what is done to transforms_train.json, and what the error has to say beside its name
    "no angle": (lambda c: c.pop("camera_angle_x"), "camera_angle_x"),
    "angle zero": (lambda c: c.update(camera_angle_x=0), "camera_angle_x.* 0$"),
    "angle pi": (lambda c: c.update(camera_angle_x=3.15), "camera_angle_x"),
    "angle nan": (lambda c: c.update(camera_angle_x=math.nan), "camera_angle_x"),
    "angle text": (lambda c: c.update(camera_angle_x="wide" * 100), "camera_angle_x"),
    "frames absent": (lambda c: c.pop("frames"), "no frames"),
    "frames empty": (lambda c: c.update(frames=[]), "no frames"),
    "frame no object": (lambda c: c["frames"].append(7), "frame 3 .*file_path"),
    "no file path": (lambda c: c["frames"][1].pop("file_path"), "frame 1 .*file_path"),
    "file path a number": (lambda c: c["frames"][1].update(file_path=7), "frame 1: file_path"),
    "file path outside": (lambda c: c["frames"][1].update(file_path="train/../../r_0"), "frame 1: .*leaves"),
    "file path absolute": (lambda c: c["frames"][1].update(file_path="/r_0"), "frame 1: .*leaves"),
    "no matrix": (lambda c: c["frames"][1].pop("transform_matrix"), "frame 1 .*transform_matrix"),
    "matrix ragged": (lambda c: c["frames"][1].update(transform_matrix=[[1, 2], [3]]), "frame 1: .*4 × 4"),
    "matrix text": (lambda c: c["frames"][1].update(transform_matrix="eye"), "frame 1: .*4 × 4"),
    "matrix 3 x 3": (bad_matrix(lambda pose: pose[:3, :3]), "frame 1: .*4 × 4"),
    "matrix not finite": (bad_matrix(lambda pose: pose * [1, 1, 1, math.inf]), "frame 1: .*finite"),
    "matrix sheared": (bad_matrix(sheared), "frame 1: .*rotation"),
    "matrix mirrored": (bad_matrix(lambda pose: pose * [-1, 1, 1, 1]), "frame 1: .*rotation"),
    "matrix flat": (bad_matrix(lambda pose: pose * [1, 1, 0, 1]), "frame 1: .*rotation"),
    "matrix transposed": (bad_matrix(lambda pose: pose.T), "frame 1: .*rotation"),
}


@pytest.mark.parametrize("change, said", DAMAGE.values(), ids=DAMAGE)
def test_damaged_transforms_are_named(folder, change, said):
    edit(folder, change)
    with pytest.raises(DataError, match=said) as error:
        load_scene(str(folder), folder)
    assert str(folder / "transforms_train.json") in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(folder)) + 200


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xfd", b"[1, 2]", b"[" * 100_000, None])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_transforms_file_that_is_none_is_named(folder, split, content):
    path = folder / f"transforms_{split}.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load_scene(str(folder), folder)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


IMAGES = {  # what is done to train/r_2.png, and what the error has to say beside its name
    "absent": (lambda path: path.unlink(), "not there"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "not a file"),
    "junk": (lambda path: path.write_bytes(b"not an image"), "cannot be read"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-200]), "cannot be read"),
    "grey": (lambda path: iio.imwrite(path, np.zeros((10, 14), np.uint8)), "RGB"),
    "of another size": (lambda path: iio.imwrite(path, np.zeros((10, 13, 4), np.uint8)), "13 × 10 pixels.*14 × 10"),
}


@pytest.mark.parametrize("change, said", IMAGES.values(), ids=IMAGES)
def test_a_damaged_image_is_named(folder, change, said):
    path = folder / "train" / "r_2.png"
    change(path)
    with pytest.raises(DataError, match=said) as error:
        load_scene(str(folder), folder)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_other_mistakes_are_named(folder):
    for downscale in (11, 1000):
        with pytest.raises(DataError, match=f"r_0.png is 14 × 10 pixels .*{downscale}"):
            load_scene(str(folder), folder, downscale)
    with pytest.raises(DataError, match="128 .*129"):
        load_scene("toy", folder, 129)
    with pytest.raises(ValueError, match="-1"):
        load_scene("toy", folder, -1)
    with pytest.raises(DataError, match="nothing is not there; --scene takes toy, lego"):
        load_scene(str(folder / "nothing"), folder)
    with pytest.raises(DataError, match="not a folder"):
        load_scene(str(folder / "transforms_test.json"), folder)
    shutil.rmtree(folder / "test")
    with pytest.raises(DataError, match="transforms_test.json lists no image"):
        load_scene(str(folder), folder)


@pytest.fixture(scope="module")
def toy():
    return load_scene("toy", Path("nowhere"), downscale=2)


def test_toy_is_the_same_each_time_and_scales():
    scenes = [load_scene("toy", Path("nowhere"), downscale=8) for _ in range(2)]
    for views, count, first in ((scenes[0].train, 60, "train_00"), (scenes[0].test, 8, "test_00")):
        assert views.images.shape == (count, 16, 16, 4) and views.images.dtype == np.uint8
        assert views.poses.shape == (count, 3, 4) and views.poses.dtype == np.float32
        assert views.focal == pytest.approx(64 / math.tan(0.6911112 / 2) / 8)
        assert len(set(views.names)) == count and views.names[0] == first
    for split in ("train", "test"):
        assert np.array_equal(*(getattr(scene, split).images for scene in scenes))
    assert not np.array_equal(scenes[0].train.images[0], scenes[0].train.images[1])


def test_toy_at_half_size_is_the_average_of_the_full_size(toy):
    pose, focal = toy.train.poses[20], 2 * toy.train.focal
    full = average(toy_scene.render(pose, 3 * focal, 3 * 128), 3)
    difference = on_background(average(full, 2), 1) - on_background(toy.train.images[20], 1)
    assert np.abs(difference).mean() < 0.01  # two samplings of one picture


def test_toy_cameras_look_at_the_origin_from_the_upper_hemisphere(toy):
    poses = np.concatenate([toy.train.poses, toy.test.poses]).astype(float)
    turn, center = poses[:, :, :3], poses[:, :, 3]
    assert np.allclose(turn @ turn.transpose(0, 2, 1), np.eye(3), atol=1e-6) and (np.linalg.det(turn) > 0).all()
    assert np.allclose(center, 4.031 * turn[:, :, 2], atol=1e-5)  # looking along −z
    assert np.allclose(turn[:, 2, 0], 0, atol=1e-7) and (turn[:, 2, 1] > 0).all()  # level, and not upside down
    assert (center[:, 2] > 0).all()
    quadrants = (center[:60, 0] > 0) * 2 + (center[:60, 1] > 0)
    assert np.bincount(quadrants).min() >= 12
    angles = np.degrees(np.arccos((center[60:] @ center[:60].T / 4.031**2).clip(-1, 1)))
    assert 5 < angles.min() and angles.min(axis=1).max() < 20  # each test view has train views around it, none upon it


def project(point, pose, focal, size):
    """Column, row and depth of a point: Views' rays, the other way round."""
    x, y, z = pose[:, :3].T @ (np.asarray(point) - pose[:, 3])
    return size / 2 + focal * x / -z, size / 2 - focal * y / -z, -z


def test_toy_balls_lie_where_they_project(toy):
    for views in (toy.train, toy.test):
        for image, pose in zip(views.images, views.poses.astype(float)):
            for ball in (solid for solid in SOLIDS if isinstance(solid, Ball)):
                column, row, depth = project(ball.center, pose, views.focal, 64)
                assert image[int(row), int(column), 3] == 255 and NEAR < depth < FAR


def inside(solid, points):
    """Whether points (n, 3) lie in a solid, by its definition."""
    if isinstance(solid, Slab):
        return (np.abs(points[:, 2] - solid.height) < solid.half) & (np.hypot(*points.T[:2]) < solid.radius)
    offset = points - solid.center
    if isinstance(solid, Ball):
        return (offset**2).sum(1) < solid.radius**2
    cos, sin = math.cos(solid.angle), math.sin(solid.angle)
    x, y, z = offset.T
    local = np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=1)
    return (np.abs(local) < solid.half).all(1)


@pytest.mark.parametrize("view", [0, 30, 59])
def test_toy_hits_are_those_of_a_march_along_the_ray(toy, view):
    pose, focal = toy.train.poses[view].astype(float), toy.train.focal
    image = toy_scene.render(pose, focal, 64)
    steps = np.arange(NEAR, FAR, 0.004)[:, None]
    agree = []
    for row, column in np.random.default_rng(view).integers(8, 56, (100, 2)):
        direction = pose[:, :3] @ [(column + 0.5 - 32) / focal, -(row + 0.5 - 32) / focal, -1]
        points = pose[:, 3] + steps * direction
        agree.append(any(inside(solid, points).any() for solid in SOLIDS) == (image[row, column, 3] == 255))
    assert np.mean(agree) >= 0.98  # a step may miss an edge


def test_toy_surfaces_face_outwards():
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(3, 2000)).astype(np.float32)
    direction /= np.linalg.norm(direction, axis=0)
    for solid in SOLIDS:
        middle = np.array([[0], [0], [solid.height]] if isinstance(solid, Slab) else np.array(solid.center)[:, None])
        origin = (middle - 3 * direction).astype(np.float32)  # every ray goes through the middle
        point = origin + toy_scene.enter(solid, origin, direction) * direction
        normal, color = solid.surface(point)
        assert np.allclose(np.linalg.norm(normal, axis=0), 1, atol=1e-4) and set(color) == {0, 1}
        assert not inside(solid, (point + 1e-3 * normal).T).any() and inside(solid, (point - 1e-3 * normal).T).all()


def test_toy_highlight_moves_with_the_camera(toy):
    # A point on the slab's top, in the middle of a cell, out of every shadow.
    slab = SOLIDS[0]
    point = np.array([4.5 * slab.cell, -4.5 * slab.cell, slab.height + slab.half])
    cosine = float(toy_scene.LIGHT[2, 0])
    matt = np.array(slab.colors[1]) * (toy_scene.AMBIENT + toy_scene.DIFFUSE * cosine)
    seen = []
    for pose in toy.train.poses[20:]:
        ray = (point - pose[:, 3].astype(float))[:, None]
        distance = np.linalg.norm(ray)
        first = min(toy_scene.enter(solid, pose[:, 3:], (ray / distance).astype(np.float32))[0] for solid in SOLIDS)
        if first > distance - 1e-3:  # nothing stands before it
            column, row, _ = project(point, pose.astype(float), toy.train.focal * 2, 128)
            seen.append(toy_scene.render(pose, toy.train.focal * 2, 128)[int(row), int(column), :3] / 255)
    excess = np.array(seen) - matt
    assert len(seen) > 20 and excess.min() > -1 / 255
    assert np.abs(np.median(excess, axis=0)).max() < 1 / 255  # most views see no highlight
    assert excess.max(axis=0).min() > 0.2 and np.ptp(excess, axis=1).max() < 1.5 / 255  # it is white


def test_toy_ball_casts_a_shadow():
    slab, ball = SOLIDS[:2]
    light = toy_scene.LIGHT[:, 0]
    point = np.array(ball.center) - light * (ball.center[2] - slab.height - slab.half) / light[2]  # below its middle
    albedo = np.array([[0.2], [0.5], [0.9]])
    shade = toy_scene.shade(point[:, None], np.array([[0], [0], [1]]), albedo, toy_scene.LIGHT)
    assert np.allclose(shade, toy_scene.AMBIENT * albedo)


def test_toy_alpha_is_transparent_around_opaque_within_and_smooth_between(toy):
    images = np.concatenate([toy.train.images, toy.test.images])
    alpha = images[..., 3]
    assert (images[alpha == 0] == 0).all()
    for edge in (alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]):
        assert (edge == 0).all()  # the whole scene is in every picture
    assert ((alpha == 255).mean(axis=(1, 2)) > 0.2).all()
    assert set(np.unique(alpha)) == {round(255 * k / 9) for k in range(10)}
    assert images[alpha == 255][:, :3].std(axis=0).min() > 30


@pytest.mark.skipif(not (DATA / "nerf_synthetic" / "lego").exists(), reason="the lego scene is not here")
def test_lego():
    scene = load_scene("lego", DATA, downscale=8)
    assert scene.name == "lego" and scene.train.images.shape == (100, 100, 100, 4)
    assert scene.test.images.shape[1:] == (100, 100, 4) and len(scene.test.images) == len(scene.test.names) > 0
    assert scene.train.focal == pytest.approx(1111.111 / 8, abs=1e-3)
    assert np.allclose(np.linalg.norm(scene.train.poses[:, :, 3], axis=1), 4.0311, atol=1e-4)
    assert 0.25 < (scene.train.images[..., 3] > 0).mean() < 0.4  # 31.0 % of the full-size pixels
