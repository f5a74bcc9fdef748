"""The cameras of scene folders written here: intrinsics, paths, poses, and what is wrong with a damaged file."""

import math

import numpy as np
import pytest
from conftest import matrix
from test_scenes import edit, give

from data.errors import UserError
from data.scenes import load_scene

FOCAL = 7 / math.tan(0.35)  # in pixels of a picture of 14 × 10
BLENDER = {"camera_angle_x": 0.7}
INTRINSICS = {  # what the file gives, what each frame gives, and fx, fy, cx, cy
    "focal lengths": ({"fl_x": 20, "fl_y": 15.5}, {}, (20, 15.5, 7, 5)),
    "one focal length": ({"fl_y": 20}, {}, (20, 20, 7, 5)),
    "two angles": ({**BLENDER, "camera_angle_y": 0.7}, {}, (FOCAL, 5 / math.tan(0.35), 7, 5)),
    "beside the angle": ({**BLENDER, "fl_x": round(FOCAL, 2), "fl_y": 15}, {}, (round(FOCAL, 2), 15, 7, 5)),
    "center": ({**BLENDER, "cx": 8.25, "cy": 3}, {}, (FOCAL, FOCAL, 8.25, 3)),
    "another size": ({**BLENDER, "w": 28, "h": 20, "fl_x": 2 * FOCAL, "fl_y": 30, "cx": 13, "cy": 11}, {},
                     (FOCAL, 15, 6.5, 5.5)),
    "another size and the angle": ({**BLENDER, "w": 1400, "h": 1000}, {}, (FOCAL, FOCAL, 7, 5)),
    "an angle that contradicts fl_y": ({**BLENDER, "fl_x": FOCAL, "fl_y": 15, "camera_angle_y": 1.2}, {},
                                       (FOCAL, 15, 7, 5)),
    "as text": ({"fl_x": "30", "fl_y": "40.5", "w": "14", "h": "10", "k1": "0", "k2": "0.0", "p1": "", "cx": " 6"}, {},
                (30, 40.5, 6, 5)),
    "of the frame": (BLENDER, {"fl_x": 30, "cx": 6, "camera_angle_x": 2 * math.atan(7 / 30)}, (30, 30, 6, 5)),
    "angle of the frame": (BLENDER, {"camera_angle_x": 1.0}, (7 / math.tan(0.5), 7 / math.tan(0.5), 7, 5)),
    "no distortion": ({**BLENDER, "camera_model": "OPENCV", "k1": 0, "k2": 0.0, "p1": 0, "is_fisheye": False,
                       "rolling_shutter": [0, 0, 0]}, {"k1": None}, (FOCAL, FOCAL, 7, 5)),
    "what does not matter": ({**BLENDER, "aabb_scale": 4, "scale": 0.3, "offset": [1, 1, 1], "ply_file_path": "a.ply"},
                             {"rotation": 0.01, "sharpness": 30}, (FOCAL, FOCAL, 7, 5)),
}


@pytest.mark.parametrize("shared, own, expected", INTRINSICS.values(), ids=INTRINSICS)
def test_intrinsics_are_used(folder, shared, own, expected):
    edit(folder, give(shared, own))
    assert np.allclose(load_scene(str(folder), folder).train.intrinsics, expected)


def test_each_frame_may_have_its_own_intrinsics_and_a_test_view_may_be_absent(folder):
    edit(folder, lambda c: c["frames"][1].update(fl_x=30, fl_y=40, cx=6))
    edit(folder, lambda c: c["frames"][1].update(fl_x=30), "test")
    (folder / "test" / "r_0.png").unlink()
    scene = load_scene(str(folder), folder)
    assert np.allclose(scene.train.intrinsics, [(FOCAL, FOCAL, 7, 5), (30, 40, 6, 5), (FOCAL, FOCAL, 7, 5)])
    assert np.allclose(scene.test.intrinsics, [(30, 30, 7, 5)]) and scene.test.names == ["r_1"]
    assert np.allclose(scene.test.poses[0], matrix(1)[:3], atol=1e-6)


CONTRADICTIONS = {  # as INTRINSICS, and what the error says
    "distortion": ({**BLENDER, "k1": -0.3}, {}, "k1 -0.3"),
    "a list of distortions": ({**BLENDER, "k": [0, -0.3]}, {}, r"k \[0, -0.3\]"),
    "a matrix": ({**BLENDER, "intrinsics": [[9, 0, 5], [0, 9, 5], [0, 0, 1]]}, {}, "intrinsics"),
    "another focal length": (BLENDER, {"focal_length": 30}, "focal_length 30"),
    "other axes": ({**BLENDER, "camera_convention": "OPENCV"}, {}, "camera_convention"),
    "fisheye": ({**BLENDER, "camera_model": "OPENCV_FISHEYE"}, {}, "camera_model 'OPENCV_FISHEYE'"),
    "is fisheye": ({**BLENDER, "is_fisheye": True}, {}, "is_fisheye True"),
    "rolling shutter": ({**BLENDER, "rolling_shutter": [0, 0, 0.1]}, {}, "rolling_shutter"),
    "masks": (BLENDER, {"mask_path": "masks/0.png"}, "mask_path"),
    "focal length and angle": ({**BLENDER, "fl_x": 2 * FOCAL}, {}, "fl_x .*camera_angle_x .*contradict"),
    "shape": ({**BLENDER, "w": 20, "h": 20}, {}, "20 × 20, the picture 14 × 10"),
    "one axis of two": ({"fl_x": FOCAL, "fl_y": 15}, {"fl_x": 30}, "one axis"),
    "center outside": ({**BLENDER, "cx": 14}, {}, "cx .*between 0 and 14, not 14"),
    "center outside w": ({**BLENDER, "w": 28, "h": 20, "cy": 20}, {}, "cy .*between 0 and 20, not 20"),
    "no focal length": ({"cx": 7}, {}, "no focal length: camera_angle_x"),
    "zero": ({"fl_x": 0}, {}, "fl_x .*not 0$"),
    "text": ({"fl_x": "wide"}, {}, "fl_x .*not 'wide'$"),
    "distortion as text": ({**BLENDER, "k1": "-0.3"}, {}, "k1 '-0.3' .*undistort the views first"),
    "transparent white": ({**BLENDER, "white_transparent": True}, {}, "white_transparent True"),
    "yes": ({"fl_x": True}, {}, "fl_x .*not True$"),
    "nothing": ({**BLENDER, "fl_x": None}, {}, "fl_x .*not None$"),
    "infinite": ({**BLENDER, "w": math.inf}, {}, "w has to be .*not inf"),
    "huge": ({"fl_x": 10**400}, {}, "fl_x .*not 1000"),
}


@pytest.mark.parametrize("shared, own, said", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_intrinsics_that_cannot_be_used_are_named(folder, shared, own, said):
    edit(folder, give(shared, own))
    with pytest.raises(UserError, match=f"transforms_train.json, frame 0.*{said}") as error:
        load_scene(str(folder), folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < len(str(folder)) + 200


def test_paths_as_windows_writes_them(folder):
    expected = load_scene(str(folder), folder).train
    edit(folder, lambda c: [f.update(file_path=f["file_path"].replace("/", "\\")) for f in c["frames"]])
    views = load_scene(str(folder), folder).train
    assert np.array_equal(views.images, expected.images) and views.names == expected.names


def test_a_scaled_camera_is_the_same_camera(folder):
    scaled = matrix(1)
    scaled[:3, :3] *= 2.5
    edit(folder, lambda c: c["frames"][1].update(transform_matrix=scaled.tolist()))
    assert np.allclose(load_scene(str(folder), folder).train.poses[1], matrix(1)[:3], atol=1e-6)


def bad_matrix(change):
    return lambda c: c["frames"][1].update(transform_matrix=np.asarray(change(matrix(1)), float).tolist())


SHEAR = [[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
DAMAGE = {  # what is done to transforms_train.json, and what the error has to say beside its name
    "times": (lambda c: [f.update(time=i / 2) for i, f in enumerate(c["frames"])], "3 times; a scene that moves"),
    "twice": (lambda c: c["frames"][1].update(file_path="train\\r_0"), "train/r_0.png more than once"),
    "drive": (lambda c: c["frames"][1].update(file_path="C:\\train\\r_1"), "frame 1: .*leaves"),
    "outside as windows writes it": (lambda c: c["frames"][1].update(file_path="..\\r_1"), "frame 1: .*leaves"),
    "file path empty": (lambda c: c["frames"][1].update(file_path="."), "frame 1: file_path"),
    "angle zero": (lambda c: c.update(camera_angle_x=0), "camera_angle_x.* 0$"),
    "angle text": (lambda c: c.update(camera_angle_x="wide" * 100), "camera_angle_x"),
    "frames absent": (lambda c: c.pop("frames"), "no frames"),
    "frames empty": (lambda c: c.update(frames=[]), "no frames"),
    "no file path": (lambda c: c["frames"][1].pop("file_path"), "frame 1 .*file_path"),
    "file path outside": (lambda c: c["frames"][1].update(file_path="train/../../r_0"), "frame 1: .*leaves"),
    "no matrix": (lambda c: c["frames"][1].pop("transform_matrix"), "frame 1 .*transform_matrix"),
    "matrix ragged": (lambda c: c["frames"][1].update(transform_matrix=[[1, 2], [3]]), "frame 1: .*4 × 4"),
    "matrix 3 x 3": (bad_matrix(lambda pose: pose[:3, :3]), "frame 1: .*4 × 4"),
    "matrix not finite": (bad_matrix(lambda pose: pose * [1, 1, 1, math.inf]), "frame 1: .*finite"),
    "matrix sheared": (bad_matrix(lambda pose: pose @ SHEAR), "frame 1: .*rotation"),
    "matrix mirrored": (bad_matrix(lambda pose: pose * [-1, 1, 1, 1]), "frame 1: .*rotation"),
}


@pytest.mark.parametrize("change, said", DAMAGE.values(), ids=DAMAGE)
def test_damaged_transforms_are_named(folder, change, said):
    edit(folder, change)
    with pytest.raises(UserError, match=said) as error:
        load_scene(str(folder), folder)
    assert str(folder / "transforms_train.json") in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < len(str(folder)) + 350


def test_one_time_is_a_still_scene(folder):
    edit(folder, lambda c: [f.update(time=time) for f, time in zip(c["frames"], (0, 0.0, "0"))])
    assert len(load_scene(str(folder), folder).train.names) == 3
    edit(folder, lambda c: c["frames"][1].update(time=0.5), "test")
    with pytest.raises(UserError, match="transforms_train.json, transforms_test.json: 2 times; a scene that moves"):
        load_scene(str(folder), folder)


@pytest.mark.parametrize("name, said", [
    ("transforms.json", "one transforms.json: divide them"), ("sparse", "COLMAP"), ("cameras.bin", "COLMAP"),
    ("poses_bounds.npy", "LLFF"), ("pose", "NSVF")])
def test_the_layouts_of_others_are_named(tmp_path, name, said):
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=f"transforms_train.json is not there .*{said}"):
        load_scene(str(tmp_path), tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xfd", b"[1, 2]", b"[" * 100_000, None])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_transforms_file_that_is_none_is_named(folder, split, content):
    path = folder / f"transforms_{split}.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_scene(str(folder), folder)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
