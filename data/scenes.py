"""Scenes for DVGO and Instant-NGP: NeRF's Blender scenes, a folder laid out like them, or a toy scene computed here.

The layout is that of NeRF's synthetic data (Mildenhall et al., "NeRF: Representing Scenes as Neural Radiance Fields for
View Synthesis", ECCV 2020): transforms_train.json and transforms_test.json, each with the field of view and a list of
frames, and a PNG a frame.
"""

import functools
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from skimage.measure import block_reduce

from data import toy_scene
from data.download import DataError

BLENDER_SCENES = ("lego", "chair", "drums", "ficus", "hotdog", "materials", "mic", "ship")
NEAR, FAR = 2.0, 6.0  # between which a Blender scene lies, in units of camera depth: t in origin + t · R (x, y, −1)
THREADS = 8  # each holds one image being read, so that more cost memory
SUPERSAMPLING = 3  # rays across a pixel of the toy scene


@dataclass(frozen=True, eq=False)
class Views:
    """N pictures of one size from known cameras, the optical axis through the middle of the picture.

    Attributes:
        images: uint8 (N, H, W, 4), RGBA with straight (not premultiplied) alpha.
        poses: float32 (N, 3, 4), camera-to-world [R | origin], R a rotation. OpenGL axes: x right, y up, looking
            along −z. The ray through pixel (i, j), column i and row j, has the direction
            R ((i + 0.5 − W/2) / focal, −(j + 0.5 − H/2) / focal, −1).
        focal: in pixels.
        names: of the N image files, without folder and suffix.
    """
    images: np.ndarray
    poses: np.ndarray
    focal: float
    names: list[str]

    def colors(self, views: int | list[int], bg_color: float) -> np.ndarray:
        """The pictures of one view (a number) or several (a list) on a grey level, float32 (…, H, W, 3) in [0, 1]."""
        return on_background(self.images[views], bg_color)


@dataclass(frozen=True, eq=False)
class Scene:
    name: str
    train: Views
    test: Views


def load_scene(source: str, folder: Path, downscale: int = 1) -> Scene:
    """A scene with its train and its test views.

    Args:
        source: "toy"; one of `BLENDER_SCENES`; or the path of a folder with transforms_train.json, transforms_test.json
            and the images they list.
        folder: where data sets lie; a Blender scene is looked for in `folder`/nerf_synthetic.
        downscale: d, which makes one pixel of d × d. Rows and columns that are left over go, half from either side; an
            odd one moves the optical axis by half a pixel of the file.

    Returns:
        The scene. Its test views are those listed whose image is there; of the train views every one has to be.

    Raises:
        DataError: no such scene, a file missing or damaged, or images smaller than `downscale`.
        ValueError: `downscale` is below 1.
    """
    if downscale < 1:
        raise ValueError(f"downscale must be at least 1, not {downscale}")
    if source == "toy":
        train, test = toy_scene.cameras()
        return Scene("toy", render_toy(train, "train", downscale), render_toy(test, "test", downscale))
    if source in BLENDER_SCENES:
        name, path = source, folder / "nerf_synthetic" / source
        if not path.is_dir():
            raise DataError(f"{path} is not there; take nerf_synthetic.zip from the NeRF authors' public data (linked "
                            f"from matthewtancik.com/nerf) and put its folder {source} at that place, or try a scene "
                            "that needs no download: --scene toy")
    else:
        path = Path(source)
        name = path.resolve().name
        if not path.is_dir():
            raise DataError(f"{path} is {'not a folder' if path.exists() else 'not there'}; --scene takes toy, "
                            f"{', '.join(BLENDER_SCENES)}, or the path of a folder with transforms_train.json")
    return Scene(name, read_views(path, "train", downscale), read_views(path, "test", downscale))


loaded_once = functools.cache(load_scene)  # in a process, however many runs it has


def on_background(images: np.ndarray, bg_color: float) -> np.ndarray:
    """uint8 RGBA (..., 4) on a grey level, 1 white and 0 black: c α + (1 − α) bg_color, float32 RGB (..., 3)."""
    values = images.astype(np.float32) / np.float32(255)
    color, alpha = values[..., :3], values[..., 3:]
    return color * alpha + (1 - alpha) * np.float32(bg_color)


def render_toy(poses: np.ndarray, split: str, downscale: int) -> Views:
    size = toy_scene.SIZE // downscale
    if size == 0:
        raise DataError(f"the toy scene has {toy_scene.SIZE} pixels a side and cannot be downscaled by {downscale}")
    focal = 0.5 * toy_scene.SIZE / math.tan(0.5 * toy_scene.ANGLE_X) / downscale
    images = np.stack([average(toy_scene.render(pose, SUPERSAMPLING * focal, SUPERSAMPLING * size), SUPERSAMPLING)
                       for pose in poses])
    return Views(images, poses, focal, [f"{split}_{i:02d}" for i in range(len(poses))])


def read_views(folder: Path, split: str, downscale: int) -> Views:
    """The views that transforms_<split>.json lists."""
    transforms = folder / f"transforms_{split}.json"
    angle, frames = read_transforms(transforms)
    if split == "test":
        frames = [(path, pose) for path, pose in frames if path.is_file()]
        if not frames:
            raise DataError(f"{transforms} lists no image that is there")
    first = frames[0][0]
    height, width = read_rgba(first).shape[:2]
    if min(height, width) < downscale:
        raise DataError(f"{first} is {width} × {height} pixels and cannot be downscaled by {downscale}")
    images = np.empty((len(frames), height // downscale, width // downscale, 4), np.uint8)

    def fill(index: int) -> None:
        path = frames[index][0]
        image = read_rgba(path)
        if image.shape[:2] != (height, width):
            raise DataError(f"{path} is {image.shape[1]} × {image.shape[0]} pixels, {first} {width} × {height}; "
                            "all views have to be of one size")
        images[index] = average(image, downscale)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, range(len(frames))))  # raises what a thread raised
    focal = 0.5 * width / math.tan(0.5 * angle) / downscale
    return Views(images, np.stack([pose for _, pose in frames]), focal, [path.stem for path, _ in frames])


def read_transforms(path: Path) -> tuple[float, list[tuple[Path, np.ndarray]]]:
    """The horizontal field of view in radians, and the image and the pose of each frame, from a transforms file."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is not there; a scene has transforms_train.json and transforms_test.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON; it is damaged, or none") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} has to hold a JSON object with camera_angle_x and frames")
    angle, frames = content.get("camera_angle_x"), content.get("frames")
    if not (isinstance(angle, (int, float)) and 0 < angle < math.pi):
        raise DataError(f"{path}: camera_angle_x has to be an angle between 0 and π, not {brief(angle)}")
    if not (isinstance(frames, list) and frames):
        raise DataError(f"{path} has no frames")
    return float(angle), [read_frame(frame, f"{path}, frame {index}", path.parent)
                          for index, frame in enumerate(frames)]


def read_frame(frame: object, name: str, folder: Path) -> tuple[Path, np.ndarray]:
    """The image and the pose, (3, 4) float32, of one frame; `name` is for errors."""
    if not (isinstance(frame, dict) and "file_path" in frame and "transform_matrix" in frame):
        raise DataError(f"{name} has to have a file_path and a transform_matrix")
    listed = frame["file_path"]
    if not (isinstance(listed, str) and listed):
        raise DataError(f"{name}: file_path has to be the path of an image, not {brief(listed)}")
    relative = os.path.normpath(listed if listed.lower().endswith(".png") else f"{listed}.png")
    if os.path.isabs(relative) or relative.split(os.sep)[0] == os.pardir:
        raise DataError(f"{name}: file_path {brief(listed)} leaves the folder of the scene")
    return folder / relative, camera_pose(frame["transform_matrix"], name)


def camera_pose(matrix: object, name: str) -> np.ndarray:
    """[R | origin], float32 (3, 4), of a camera-to-world matrix; a scale, as of a scaled camera, is taken from R."""
    with np.errstate(all="ignore"):  # what is not finite is found below
        try:
            numbers = np.array(matrix, np.float32).astype(np.float64)
        except (TypeError, ValueError, OverflowError):
            numbers = np.empty(0)
        if numbers.shape != (4, 4) or not np.isfinite(numbers).all():
            raise DataError(f"{name}: transform_matrix has to be 4 × 4 finite numbers")
        scale = np.cbrt(np.linalg.det(numbers[:3, :3]))
        rotation = numbers[:3, :3] / scale
        error = max(np.abs(rotation @ rotation.T - np.eye(3)).max(), np.abs(numbers[3] - (0, 0, 0, 1)).max())
        if not (scale > 0 and error < 1e-2):
            raise DataError(f"{name}: transform_matrix has to be a rotation, a uniform scale and a shift")
    return np.concatenate([rotation, numbers[:3, 3:]], axis=1).astype(np.float32)


def read_rgba(path: Path) -> np.ndarray:
    """A PNG of 8 bits a channel as uint8 (H, W, 4), opaque where it says nothing of alpha."""
    if not path.is_file():
        raise DataError(f"{path} is {'not a file' if path.exists() else 'not there'}")
    try:
        image = iio.imread(path, plugin="pillow")
    except Exception as error:  # a decoder of a damaged file raises nearly anything
        raise DataError(f"{path} cannot be read as an image; it is damaged, or none") from error
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise DataError(f"{path} has to be an RGB or RGBA image of 8 bits")
    if image.shape[2] == 3:
        image = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    return image


def average(image: np.ndarray, block: int) -> np.ndarray:
    """The mean over blocks of `block` × `block` pixels, uint8 RGBA (H, W, 4) with straight alpha to the same.

    Colors are weighted with their alpha, that is premultiplied, lest the color of what cannot be seen mix in.
    """
    if block == 1:
        return image
    rows, columns = image.shape[0] // block, image.shape[1] // block
    top, left = (image.shape[0] - rows * block) // 2, (image.shape[1] - columns * block) // 2
    image = image[top:top + rows * block, left:left + columns * block]

    # Sums of whole numbers, so exact; with the means of downscale_local_mean halves would be rounded by chance.
    alpha = block_reduce(image[..., 3:], (block, block, 1), np.sum)
    color = block_reduce(image[..., :3].astype(np.uint16) * image[..., 3:], (block, block, 1), np.sum)
    return np.rint(np.concatenate([color / np.maximum(alpha, 1), alpha / block**2], axis=-1)).astype(np.uint8)


def brief(value: object) -> str:
    """What a file has in place of what it should have, short enough for one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
