"""What the transforms_train.json of a scene says: its images, their poses and their intrinsics.

In NeRF's Blender scenes camera_angle_x is the only intrinsic. The tools of Instant-NGP and nerfstudio write others, of
the file or of each frame, which are used here or refused. `where` is the file and the frame, for a UserError.
"""

import json
import math
import posixpath
import re
from pathlib import Path, PureWindowsPath

import numpy as np

from data.errors import UserError

# What camera_model may be: with all k and p zero each is a pinhole camera.
PINHOLE = ("PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
# What changes the picture and is not modeled here: distortion, other lenses, units and axes, pixels to leave out.
UNSUPPORTED_KEYS = re.compile(
    "[kpsb][0-9]*|K|skew|.*intrinsic.*|.*distort.*|focal.*|shift_[xy]|camera_type|coordinate_system|camera_convention"
    "|is_fisheye|latlong|equirectangular|orthographic|ftheta_p[0-9]|rolling_shutter|[xy]_fov|fisheye_crop_radius"
    "|from_mitsuba|mask.*|(white|black)_transparent")
LAYOUTS = {"transforms.json": "all frames in one transforms.json: divide them", "poses_bounds.npy": "LLFF's layout",
           "pose": "NSVF's layout, with poses in OpenCV's axes", **dict.fromkeys(
               ("sparse", "colmap", "distorted", "cameras.bin", "cameras.txt", "database.db"), "COLMAP's layout")}


def read_transforms(path: Path) -> dict:
    """The content of a transforms file, of which it is certain that it has frames and that they are objects."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        has = "".join({f" ({text})": 0 for name, text in LAYOUTS.items() if (path.parent / name).exists()})
        raise UserError(f"{path} is not there{has}; a scene has transforms_train.json, transforms_test.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON; it is damaged, or none") from error
    frames = content.get("frames") if isinstance(content, dict) else None
    if not (isinstance(frames, list) and frames):
        raise UserError(f"{path} has no frames; it has to hold a JSON object with camera_angle_x and frames")
    for index, frame in enumerate(frames):
        if not (isinstance(frame, dict) and "file_path" in frame and "transform_matrix" in frame):
            raise UserError(f"{path}, frame {index} has to have a file_path and a transform_matrix")
    return content


def image_file(frame: dict, where: str) -> str:
    """The image of a frame, as a path from the folder of the scene, with or without a suffix."""
    listed = frame["file_path"]
    path = PureWindowsPath(listed if isinstance(listed, str) else "")  # for which / and \\ are the same
    if not path.parts:
        raise UserError(f"{where}: file_path has to be the path of an image, not {brief(listed)}")
    relative = posixpath.normpath("/".join(path.parts))
    if path.anchor or relative.split("/")[0] == "..":
        raise UserError(f"{where}: file_path {brief(listed)} leaves the folder of the scene")
    return relative


def camera_intrinsics(content: dict, frame: dict, width: int, height: int, where: str) -> list[float]:
    """fx, fy, cx, cy of a frame, in pixels of its file of `width` × `height`.

    What the frame gives goes before what the file gives, and fl_x and fl_y before angles: some programs write a wrong
    camera_angle_y. A focal length that is given for one axis holds for both, and the optical axis goes through the
    middle where nothing else is said."""
    both = {**content, **frame}
    for key, value in both.items():
        values = value if isinstance(value, list) else [value]
        if UNSUPPORTED_KEYS.fullmatch(key) and any(each and number(each) != 0 for each in values):
            raise UserError(f"{where}: {key} {brief(value)} cannot be used: undistort the views first (colmap "
                            "image_undistorter), and make masks their alpha")
    model = both.get("camera_model", PINHOLE[0])
    if str(model).upper() not in PINHOLE:
        raise UserError(f"{where}: camera_model {brief(model)} cannot be used, only {', '.join(PINHOLE)}")

    def positive(values: dict, key: str, below: float) -> float:
        if not 0 < number(values[key]) < below:
            raise UserError(f"{where}: {key} has to be a number between 0 and {below:.6g}, not {brief(values[key])}")
        return number(values[key])

    # They may be given for another size of the picture, w × h.
    scales = {side: size / positive(both, side, 1e9) for side, size in (("w", width), ("h", height)) if side in both}
    across, down = scales.get("w", scales.get("h", 1.0)), scales.get("h", scales.get("w", 1.0))
    if min(abs(height * across / down - height), abs(width * down / across - width)) > 1:
        raise UserError(f"{where}: w × h is {both['w']} × {both['h']}, the picture {width} × {height} pixels")

    def focal_lengths(values: dict) -> dict[str, float]:
        """Those that `values` gives, by axis."""
        found = {}
        for axis, size, scale in (("x", width, across), ("y", height, down)):
            length, angle = f"fl_{axis}", f"camera_angle_{axis}"
            if angle in values:
                found[axis] = 0.5 * size / math.tan(0.5 * positive(values, angle, math.pi))
            if length in values:
                pixels = positive(values, length, 1e9) * scale
                if axis == "x" and not agree(pixels, found.get(axis, pixels)):
                    raise UserError(f"{where}: {length} {values[length]} and {angle} {values[angle]} contradict each "
                                    f"other in a picture of {width} × {height} pixels; remove one, or add w and h")
                found[axis] = pixels
        return found

    shared, own = focal_lengths(content), focal_lengths(frame)
    given = {**shared, **own}
    if not given:
        raise UserError(f"{where} has no focal length: camera_angle_x in radians, or fl_x in pixels")
    fx, fy = given.get("x", given.get("y", 0.0)), given.get("y", given.get("x", 0.0))
    changed = {axis for axis in own if not agree(own[axis], shared.get(axis, 0))}
    if changed and shared.keys() - own.keys() and not agree(fx, fy):
        raise UserError(f"{where} gives a focal length for one axis, the file another for the other; give it both")
    cx = positive(both, "cx", width / across) * across if "cx" in both else width / 2
    cy = positive(both, "cy", height / down) * down if "cy" in both else height / 2
    return [fx, fy, cx, cy]


def number(value: object) -> float:
    """A number, which may be written as text; nan of anything else."""
    try:
        return float(value) if type(value) in (int, float, str) else math.nan  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        return math.nan


def agree(one: float, other: float) -> bool:
    """Whether two focal lengths are the same, but for what rounding in a file does to them."""
    return abs(one - other) <= 5e-3 * one


def camera_pose(matrix: object, where: str) -> np.ndarray:
    """[R | origin], float32 (3, 4), of a camera-to-world matrix; a scale, as of a scaled camera, is taken from R."""
    with np.errstate(all="ignore"):  # what is not finite is found below
        try:
            numbers = np.array(matrix, np.float32).astype(np.float64)
        except (TypeError, ValueError, OverflowError):
            numbers = np.empty(0)
        if numbers.shape != (4, 4) or not np.isfinite(numbers).all():
            raise UserError(f"{where}: transform_matrix has to be 4 × 4 finite numbers")
        scale = np.cbrt(np.linalg.det(numbers[:3, :3]))
        rotation = numbers[:3, :3] / scale
        error = max(np.abs(rotation @ rotation.T - np.eye(3)).max(), np.abs(numbers[3] - (0, 0, 0, 1)).max())
        if not (scale > 0 and error < 1e-2):
            raise UserError(f"{where}: transform_matrix has to be a rotation, a uniform scale and a shift")
    return np.concatenate([rotation, numbers[:3, 3:]], axis=1).astype(np.float32)


def brief(value: object) -> str:
    """What a file has in place of what it should have, short enough for one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
