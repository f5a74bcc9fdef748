"""Occupancy volumes for the 3D experiment: the paper's two, a file by path, a solid computed here by name."""

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
import scipy.io
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from data.download import download, sha256
from data.errors import UserError
from data.paths import find_file
from data.voxelize import READERS, voxelize

URL = "https://raw.githubusercontent.com/LabShuHangGU/FR-INR/main/images/occupance/{}.mat.zip"
SHA256 = {"thai_statue": "2b4f23005e73bd017e370d85ee0faa427c9d0c50cc5f577a7dff45d8e35957f1",
          "dragon": "946ca83a7e4aad3cfcdaed7004b0603a3267b81f4bdb3e9bd583ea2991309736"}
SOLIDS = ("gyroid", "torus_knot", "holed_sphere")  # with nothing to download
NUMBERS = "buif"  # the kinds of types that a volume can have
LARGEST = 2**30  # voxels; also the bytes that an archive may unpack to


def load_volume(source: str, folder: Path, resolution: int = 256) -> tuple[str, np.ndarray]:
    """The name of a volume's case, and the volume, bool (X, Y, Z), cropped to the box of its full voxels.

    `source` is thai_statue or dragon, which is fetched where it is missing in `folder`/occupancy; one of `SOLIDS`; or
    the path of a .mat or .npy volume (`occupied` says which of its voxels are full), or of a mesh (`voxelize` says so).
    `resolution` is that of a solid or a mesh: voxels along the longest side.

    UserError: no such volume, or one that is empty, full, no volume at all, or not clear.
    """
    if source in SHA256:
        case, volume = source, read_mat(published(source, folder))
    elif source in SOLIDS:
        case, volume = source, solid(source, resolution)
    else:
        path = find_file(Path(source))
        if not path.is_file():
            raise UserError(f"{source} is {'a folder' if path.is_dir() else 'not there'}; --shape takes "
                            f"{', '.join((*SHA256, *SOLIDS))}, or the path of a .mat, .npy or mesh file")
        kind = path.suffix.lower()
        if kind not in (".mat", ".npy", *READERS):
            raise UserError(f"{source}: {kind or 'no suffix'} is not read; save a volume as .npy or .mat, a mesh as "
                            f"{', '.join(READERS)}")
        case = path.stem
        volume = voxelize(path, resolution) if kind in READERS else read_mat(path) if kind == ".mat" else read_npy(path)
    return case, crop(occupied(volume, source), source)


def published(name: str, folder: Path) -> Path:
    """The path of one of the paper's volumes, which is fetched first where it is missing."""
    path = folder / "occupancy" / f"{name}.mat.zip"

    def check(file: Path) -> None:
        if sha256(file) != SHA256[name]:
            raise UserError(f"{file} has the wrong checksum; delete it to have it fetched again")

    if not path.exists():
        download(URL.format(name), path, check, f"try a solid that needs no download: --shape {SOLIDS[0]}")
    check(path)
    return path


def summary(case: str, volume: np.ndarray) -> str:
    """What was read, in one line: `dragon: 360 × 510 × 228 voxels, 17.7 % full`."""
    return f"{case}: {' × '.join(map(str, volume.shape))} voxels, {100 * volume.mean():.3g} % full"


def voxel_coordinates(index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The positions (N, 3) of voxels in [−1, 1]³, both ends in: along axis 1, then 0, then 2, the release's order.

    `index` (N,) has the voxels' places in the flattened volume, `shape` is the volume's.
    """
    places = (index // shape[2] % shape[1], index // (shape[1] * shape[2]), index % shape[2])
    # Filled on the device: for the copy of a tensor of numbers the host would wait.
    last = [index.new_full((), side - 1) for side in (shape[1], shape[0], shape[2])]
    return torch.stack([2 * place / end - 1 for place, end in zip(places, last)], dim=-1)


def read_mat(path: Path) -> np.ndarray:
    """The volume in a .mat file, or in the only .mat member of a .zip: `hypercube`, or the only one there is.

    A member of a .zip is read, not extracted: its name, whatever it is, is no path on this disk.
    """
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                member, = (info for info in archive.infolist() if info.filename.lower().endswith(".mat"))
                if member.file_size > LARGEST:
                    raise ValueError("its member is too large")
                file = io.BytesIO(archive.read(member))
        else:
            file = io.BytesIO(path.read_bytes())
        is_hdf5 = b"\x89HDF\r\n\x1a\n" in file.getbuffer()[:1024].tobytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy's, of strings and tables beside the volume
            content = {} if is_hdf5 else scipy.io.loadmat(file)
    except Exception as error:  # a damaged file raises nearly anything
        raise UserError(f"{path} cannot be read; it is damaged, or not a .mat file") from error
    if is_hdf5:
        raise UserError(f"{path} is of MATLAB's version 7.3, which is not read; save it by MATLAB's save(…, '-v7')")
    arrays = {name: value for name, value in content.items() if isinstance(value, np.ndarray)}
    if "hypercube" in arrays:
        return arrays["hypercube"]
    volumes = [name for name, value in arrays.items() if value.ndim == 3 and value.dtype.kind in NUMBERS]
    if len(volumes) != 1:
        found = ", ".join(f"{name} ({' × '.join(map(str, arrays[name].shape))})" for name in volumes or arrays)
        raise UserError(f"{path} must have one array of three dimensions of numbers, or one of the name hypercube; it "
                        f"has {found or 'no array'}")
    return arrays[volumes[0]]


def read_npy(path: Path) -> np.ndarray:
    """The array in a .npy file, not loaded before it is used; an array of objects is never unpickled."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise UserError(f"{path} cannot be read; it is damaged, holds objects, or is not a .npy file") from error


def occupied(volume: np.ndarray, name: str) -> np.ndarray:
    """Which voxels are full, bool, in the memory order of `volume`.

    Where there is one value beside 0 it marks them, whatever it is. Fractions from 0 to 1 are probabilities, or shares
    of a voxel, and full from one half. All else is refused: labels, densities, distances.
    """
    if volume.ndim != 3 or volume.dtype.kind not in NUMBERS:
        raise UserError(f"{name} holds an array of shape {volume.shape} and type {volume.dtype}; "
                        "three dimensions of numbers are expected")
    if not 0 < volume.size <= LARGEST:
        raise UserError(f"{name} has {volume.size:,} voxels; between 1 and {LARGEST:,} can be used")
    smallest, largest = volume.min(), volume.max()
    if not 0 <= smallest <= largest < np.inf:
        raise UserError(f"{name} has values that are negative or not finite; give 0 and 1, or fractions between")
    slices = volume.T if volume.flags.f_contiguous else volume  # as a copy of all may not fit into memory
    others = (part[(part != 0) & (part != largest)] for part in slices)
    other = next((found[0] for found in others if found.size), None)
    if other is None:
        return volume if volume.dtype == bool else (volume == largest) & (volume != 0)
    if largest > 1:
        raise UserError(f"{name} has more than one value beside 0, {other:.6g} and {largest:.6g} among them: labels, a "
                        "density or a distance; save which voxels are full, or fractions from 0 to 1")
    return volume >= 0.5


def crop(volume: np.ndarray, name: str) -> np.ndarray:
    """The box of the full voxels. UserError if there is none, or nothing to learn from it."""
    if not volume.any():
        raise UserError(f"{name} is empty: no voxel is full")
    box = []
    for axis in range(3):
        full = np.flatnonzero(volume.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(full[0], full[-1] + 1))
    cropped = np.ascontiguousarray(volume[tuple(box)])
    if min(cropped.shape) < 2:
        raise UserError(f"{name} has a box of {' × '.join(map(str, cropped.shape))} voxels; 2 a side are needed")
    if cropped.all():
        raise UserError(f"{name} is full in all its box; there is nothing to learn")
    return cropped


def shorten(volume: np.ndarray, scale: float, name: str) -> np.ndarray:
    """The volume with its sides shortened by a factor of up to 1, by taking the nearest voxel, and cropped again.

    UserError if nothing, or everything, is left full; `name` says of what.
    """
    if scale == 1:
        return volume
    places = [np.rint(np.linspace(0, side - 1, max(1, round(side * scale)))).astype(int) for side in volume.shape]
    return crop(volume[np.ix_(*places)], f"{name} at a scale of {scale:.3g}")


def solid(name: str, resolution: int) -> np.ndarray:
    """One of `SOLIDS`, computed on a grid over [−1, 1]³ in float32, slice by slice.

    gyroid: a sheet around the surface cos x sin y + cos y sin z + cos z sin x = 0 in a ball. torus_knot: a tube around
    the (2, 3) torus knot. holed_sphere: a ball with six holes bored through it and a smaller ball inside."""
    axis = np.linspace(-1, 1, resolution, dtype=np.float32)
    x, y = axis[:, None], axis[None, :]
    if name == "torus_knot":
        angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
        radius = 0.6 + 0.25 * np.cos(3 * angle)
        knot = np.stack([radius * np.cos(2 * angle), radius * np.sin(2 * angle), 0.25 * np.sin(3 * angle)])
        tree = cKDTree(knot.T)  # of points that lie closer together than the voxels
        plane = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
        layers = (np.dstack([plane, np.full(plane.shape[:2], z)]) for z in axis)
        return np.stack([tree.query(layer, distance_upper_bound=0.13)[0] < 0.13 for layer in layers], axis=2)
    slices = []
    for z in axis:
        radius = np.sqrt(x**2 + y**2 + z**2)
        if name == "gyroid":
            u, v, w = (np.float32(2 * np.pi) * value for value in (x, y, z))
            sheet = np.abs(np.cos(u) * np.sin(v) + np.cos(v) * np.sin(w) + np.cos(w) * np.sin(u)) < 0.55
            slices.append(sheet & (radius < 0.95))
        else:
            bored = np.minimum(np.minimum(np.hypot(x, y), np.hypot(y, z)), np.hypot(x, z)) < 0.4
            slices.append(((radius < 0.95) & (radius > 0.7) & ~bored) | (radius < 0.35))
    return np.stack(slices, axis=2)
