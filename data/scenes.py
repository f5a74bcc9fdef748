"""Scenes for DVGO and Instant-NGP: NeRF's Blender scenes, a folder laid out like them, or a toy scene computed here.

The layout is that of NeRF's synthetic data (Mildenhall et al., ECCV 2020): transforms_train.json and
transforms_test.json, each with the field of view and a list of frames, and an image a frame.
"""

import hashlib
import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from skimage.measure import block_reduce

from data import toy_scene
from data.errors import UserError
from data.paths import SUFFIXES, find_file
from data.rgba import read_rgba
from data.transforms import camera_intrinsics, camera_pose, image_file, number, read_transforms

BLENDER_SCENES = ("lego", "chair", "drums", "ficus", "hotdog", "materials", "mic", "ship")
BLENDER_DISTANCE = 4.0311  # of a Blender scene's cameras from the point that they look at
CAMERA_DISTANCE = 1.5  # of Instant-NGP's cameras from the middle of the cube of side 1 that the scene is in
NEAR, FAR = 2.0, 6.0  # between which a Blender scene lies, in units of camera depth: t in origin + t · R (x, y, −1)
THREADS = 8  # each holds one image being read, so that more cost memory
SUPERSAMPLING = 3  # rays across a pixel of the toy scene
AXES = "each transform_matrix has to be camera-to-world, in OpenGL's axes: x right, y up, looking along −z"


@dataclass(frozen=True, eq=False)
class Views:
    """N pictures of one size from known cameras.

    Attributes:
        images: uint8 (N, H, W, 4), RGBA with straight (not premultiplied) alpha.
        poses: float32 (N, 3, 4), camera-to-world [R | origin], R a rotation. OpenGL axes: x right, y up, looking
            along −z. The ray through pixel (i, j), column i and row j, has the direction
            R ((i + 0.5 − cx) / fx, −(j + 0.5 − cy) / fy, −1).
        intrinsics: float64 (N, 4), fx, fy, cx, cy of each view, in pixels of `images`.
        names: of the N image files: their paths below the folder that they have in common, with / between folders,
            without suffix unless two differ in nothing else. All are different.
    """
    images: np.ndarray
    poses: np.ndarray
    intrinsics: np.ndarray
    names: list[str]

    def colors(self, views: int | list[int] | slice, bg_color: float) -> np.ndarray:
        """The pictures of one view (a number) or several on a gray level, 1 white and 0 black: c α + (1 − α) bg_color,
        float32 (…, H, W, 3) in [0, 1]."""
        values = self.images[views].astype(np.float32) / np.float32(255)
        return values[..., :3] * values[..., 3:] + (1 - values[..., 3:]) * np.float32(bg_color)

    def digest(self) -> str:
        """What tells these views from others: a hash of images, poses, intrinsics and names, 16 hexadecimal digits."""
        arrays = b"".join(np.ascontiguousarray(part).tobytes() for part in (self.images, self.poses, self.intrinsics))
        return hashlib.sha256(arrays + repr((self.images.shape, self.names)).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Scene:
    name: str
    train: Views
    test: Views


def load_scene(source: str, folder: Path, downscale: int = 1) -> Scene:
    """A scene with its train views and its test views, of which those whose image is not there are left out.

    `source` is "toy"; one of `BLENDER_SCENES`, which is looked for in `folder`/nerf_synthetic; or the path of a folder
    with transforms_train.json, transforms_test.json and the images they list. A `downscale` d makes one pixel of d × d;
    rows and columns that are left over go, half from either side. UserError: no such scene, a file missing or damaged,
    images smaller than `downscale`, or cameras that do not look at one place.
    """
    if source == "toy":
        train, test = toy_scene.cameras()
        return Scene("toy", render_toy(train, "train", downscale), render_toy(test, "test", downscale))
    if source in BLENDER_SCENES:
        path = folder / "nerf_synthetic" / source
        if not path.is_dir():
            raise UserError(f"{path} is not there; put it there from the NeRF authors' nerf_synthetic.zip (linked from "
                            "matthewtancik.com/nerf), or try --quick, which needs no download (--scene toy)")
    else:
        path = find_file(Path(source))
        if not path.is_dir():
            raise UserError(f"{path} is {'not a folder' if path.exists() else 'not there'}; --scene takes toy, "
                            f"{', '.join(BLENDER_SCENES)}, or the path of a folder with transforms_train.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's: it reads on, or what stops it is an error
        files = [path / f"transforms_{split}.json" for split in ("train", "test")]
        contents = [read_transforms(file) for file in files]
        times = {str(number(frame["time"])) for content in contents for frame in content["frames"] if "time" in frame}
        if len(times) > 1:
            raise UserError(f"{files[0]}, {files[1].name}: {len(times)} times; a scene that moves cannot be used")
        scene = Scene(path.resolve().name, *(read_views(*file, downscale) for file in zip(files, contents)))
    found = looked_at(scene.train.poses)
    if not found and not are_parallel(np.concatenate([scene.train.poses, scene.test.poses])):
        raise UserError(f"the cameras of {path} do not look at one place from around it; {AXES}")
    if found and in_view(found[0], scene.test.poses).mean() < 0.5:
        raise UserError(f"most test cameras of {path} do not look where the training cameras do; {AXES}")
    return scene


def describe(scene: Scene) -> str:
    """One line on what was read."""
    parts = []
    for split, views in (("training", scene.train), ("test", scene.test)):
        count, height, width, _ = views.images.shape
        focal, vertical = (" to ".join(sorted({f"{each.min():.1f}", f"{each.max():.1f}"}, key=float))
                           for each in views.intrinsics.T[:2])
        focal += f" × {vertical}" if vertical != focal else ""
        rim = np.median(views.images[:, (0, -1), :, :3]) / 255  # opaque views fit a --background that is the same
        kind = "RGBA" if views.images[..., 3].min() < 255 else f"opaque RGB with a rim of {rim:.2f} (black 0, white 1)"
        away = np.abs(views.intrinsics[:, 2:] - (width / 2, height / 2)).max()
        center = f", center up to {away:.1f} pixels off the middle" if away > 0.5 else ""
        parts.append(f"{count} {split} views of {width} × {height} pixels, {kind}, focal length {focal} pixels{center}")
    return f"{scene.name}: {'; '.join(parts)}"


def looked_at(poses: np.ndarray) -> tuple[np.ndarray, float] | None:
    """The point (3,) nearest to the optical axes of all cameras (N, 3, 4), and their mean distance in front of it; None
    where the axes are parallel, or the point is not in view of three quarters of the cameras."""
    back, centers = poses[:, :, 2].astype(np.float64), poses[:, :, 3].astype(np.float64)
    across = np.eye(3) - back[:, :, None] * back[:, None, :]  # projects along the axis of each camera
    point = np.linalg.lstsq(across.sum(axis=0), (across @ centers[:, :, None]).sum(axis=0)[:, 0], rcond=1e-6)[0]
    if are_parallel(poses) or in_view(point, poses).mean() < 0.75:
        return None
    return point, float(((centers - point) * back).sum(axis=-1).mean())


def are_parallel(poses: np.ndarray) -> bool:
    return bool(np.linalg.norm(poses[:, :, 2].mean(axis=0)) > 0.9995)


def in_view(point: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Which cameras have a point within 45 degrees of their axis, bool (N,)."""
    offset = poses[:, :, 3].astype(np.float64) - point
    depth = (offset * poses[:, :, 2]).sum(axis=-1)
    return depth > np.maximum(np.sqrt(0.5) * np.linalg.norm(offset, axis=-1), 1e-5 * np.linalg.norm(point))


def near_far(poses: np.ndarray) -> tuple[float, float]:
    """The depths between which a scene lies: NEAR and FAR in proportion to the training cameras' (N, 3, 4) distance,
    which is taken to be a Blender scene's up to 0.1 % off. Where these look at no point they are the scene's units."""
    found = looked_at(poses)
    scale = found[1] / BLENDER_DISTANCE if found else 1.0
    return (NEAR, FAR) if abs(scale - 1) < 1e-3 else (NEAR * scale, FAR * scale)


def scene_center(poses: np.ndarray) -> np.ndarray:
    """The point (3,) in the middle of a scene: the origin, unless the training cameras (N, 3, 4) look at one that is
    further from it than a tenth of their distance. A Blender scene's cameras look past the origin by less."""
    found = looked_at(poses)
    return found[0] if found and np.linalg.norm(found[0]) > 0.1 * found[1] else np.zeros(3)


def normalize_poses(scene: Scene) -> Scene:
    """The scene about the origin, in units in which its training cameras are at the mean distance CAMERA_DISTANCE."""
    center = scene_center(scene.train.poses).astype(np.float32)
    radius = float(np.linalg.norm(scene.train.poses[:, :, 3] - center, axis=1).mean())
    if radius == 0:
        raise UserError(f"the cameras of {scene.name} are all at one point, from where nothing is seen around")

    def moved(views: Views) -> Views:
        poses = views.poses.copy()
        poses[:, :, 3] = (poses[:, :, 3] - center) * (CAMERA_DISTANCE / radius)
        return replace(views, poses=poses)

    return Scene(scene.name, moved(scene.train), moved(scene.test))


def render_toy(poses: np.ndarray, split: str, downscale: int) -> Views:
    size = toy_scene.SIZE // downscale
    if size == 0:
        raise UserError(f"the toy scene has {toy_scene.SIZE} pixels a side and cannot be downscaled by {downscale}")
    focal = 0.5 * toy_scene.SIZE / math.tan(0.5 * toy_scene.ANGLE_X) / downscale
    images = np.stack([average(toy_scene.render(pose, SUPERSAMPLING * focal, SUPERSAMPLING * size), SUPERSAMPLING)
                       for pose in poses])
    return Views(images, poses, np.tile([focal, focal, size / 2, size / 2], (len(poses), 1)),
                 [f"{split}_{i:02d}" for i in range(len(poses))])


def read_views(transforms: Path, content: dict, downscale: int) -> Views:
    """The views that a transforms file lists; those of the test file that are there."""
    frames = [(frame, f"{transforms}, frame {index}") for index, frame in enumerate(content["frames"])]
    paths = [find_file(transforms.parent / image_file(frame, where), any_suffix=True) for frame, where in frames]
    if len(set(paths)) < len(paths):
        raise UserError(f"{transforms} lists {next(path for path in paths if paths.count(path) > 1)} more than once")
    listed = [(path, name, *frame) for path, name, frame in zip(paths, unique_names(paths), frames)]
    for path in (path for path in paths if not os.path.isfile(path)):
        if os.path.isfile(other := find_file(path.with_suffix(""), any_suffix=True)) and other not in paths:
            raise UserError(f"{path} is not there, but {other.name} is, which {transforms} does not list")
    if transforms.name == "transforms_test.json":
        listed = [view for view in listed if os.path.isfile(view[0])]
        if not listed:
            raise UserError(f"{transforms} lists no image that is there")
    for path, *_ in listed:
        for name in "dynamic_mask_{0} {0}.alpha mask_{0} {0}.mask {0}_mask {0}_alpha".split():  # Instant-NGP has two
            mask = find_file(path.with_name(name.format(path.stem)), any_suffix=True)
            if os.path.isfile(mask) and mask not in paths:
                raise UserError(f"{mask} is a mask, which is not used; make it the picture's alpha, or delete it")
    poses = np.stack([camera_pose(frame["transform_matrix"], where) for _, _, frame, where in listed])
    first = listed[0][0]
    height, width = read_view(first).shape[:2]
    if min(height, width) < downscale:
        raise UserError(f"{first} is {width} × {height} pixels and cannot be downscaled by {downscale}")
    intrinsics = np.array([camera_intrinsics(content, frame, width, height, where) for _, _, frame, where in listed])
    intrinsics[:, 2:] -= (width % downscale // 2, height % downscale // 2)  # what `average` leaves out
    images = np.empty((len(listed), height // downscale, width // downscale, 4), np.uint8)

    def fill(index: int) -> None:
        path = listed[index][0]
        image = read_view(path)
        if image.shape[:2] != (height, width):
            raise UserError(f"{path} is {image.shape[1]} × {image.shape[0]} pixels, {first} {width} × {height}; "
                            "all views have to be of one size")
        images[index] = average(image, downscale)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, range(len(listed))))  # raises what a thread raised
    intrinsics /= downscale
    return Views(images, poses, intrinsics, [name for _, name, _, _ in listed])


def unique_names(files: list[Path]) -> list[str]:
    """The `names` of Views."""
    common = os.path.commonpath([file.parent for file in files])
    paths = [file.relative_to(common) for file in files]
    names = [(path.with_suffix("") if path.suffix.lower() in SUFFIXES else path).as_posix() for path in paths]
    return names if len(set(names)) == len(names) else [path.as_posix() for path in paths]


def read_view(path: Path) -> np.ndarray:
    """The picture of a view, uint8 (H, W, 4)."""
    image = read_rgba(path, turn=False)
    if image.dtype != np.uint8:
        raise UserError(f"{path} has 16 bits a channel; views have to have 8")
    return image


def average(image: np.ndarray, block: int) -> np.ndarray:
    """The mean over blocks of `block` × `block` pixels, uint8 RGBA (H, W, 4), its colors weighted with their alpha."""
    if block == 1:
        return image
    rows, columns = image.shape[0] // block, image.shape[1] // block
    top, left = (image.shape[0] - rows * block) // 2, (image.shape[1] - columns * block) // 2
    image = image[top:top + rows * block, left:left + columns * block]
    # Sums of whole numbers, so exact; with the means of downscale_local_mean halves would be rounded by chance.
    alpha = block_reduce(image[..., 3:], (block, block, 1), np.sum)
    color = block_reduce(image[..., :3].astype(np.uint16) * image[..., 3:], (block, block, 1), np.sum)
    return np.rint(np.concatenate([color / np.maximum(alpha, 1), alpha / block**2], axis=-1)).astype(np.uint8)
