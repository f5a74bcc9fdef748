"""Occupancy volumes for the 3D experiment: the paper's two, a file by path, a solid computed here by name."""

import hashlib
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.download import download
from data.errors import UserError
from data.paths import find_file
from data.voxelize import READERS, voxelize

URL = "https://raw.githubusercontent.com/LabShuHangGU/FR-INR/main/images/occupance/{}.mat.zip"
SHA256 = {"thai_statue": "2b4f23005e73bd017e370d85ee0faa427c9d0c50cc5f577a7dff45d8e35957f1",
          "dragon": "946ca83a7e4aad3cfcdaed7004b0603a3267b81f4bdb3e9bd583ea2991309736"}
SOLIDS = ("gyroid", "holed_sphere")  # with nothing to download
MAX_VOXELS = 2**30  # voxels; also the bytes that a part of a .mat file may unpack to
NUMERIC = range(6, 16)  # of MATLAB's classes; a complex one has another bit
TYPES = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}  # MATLAB's


def load_volume(source: str, folder: Path, resolution: int = 256) -> tuple[str, np.ndarray]:
    """The name of a volume's case, and the volume, bool (X, Y, Z), cropped to the box of its full voxels.

    `source` is thai_statue or dragon, which is fetched where it is missing in `folder`/occupancy; one of `SOLIDS`; or
    the path of a .mat or .npy volume (see `occupied`) or of a mesh (see `voxelize`). A solid or a mesh has `resolution`
    voxels along the longest side. UserError: no such volume, or one that is empty, full, or not clear.
    """
    if source in SHA256:
        case, volume = source, read_array(paper_volume(source, folder))
    elif source in SOLIDS:
        case, volume = source, solid(source, resolution)
    else:
        path = find_file(Path(source))
        if not path.is_file():
            raise UserError(f"{source} is {'a folder' if path.is_dir() else 'not there'}; --shape takes "
                            f"{', '.join((*SHA256, *SOLIDS))}, or the path of a .mat, .npy or mesh file")
        kind = path.suffix.lower()
        if kind not in (".mat", ".npy", *READERS):
            raise UserError(f"{source}: {kind or 'no suffix'} is not read; save it as .npy, .mat, {', '.join(READERS)}")
        case = path.stem
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy and trimesh: they read on, or what stops them is an error
            volume = voxelize(path, resolution) if kind in READERS else read_array(path)
    return case, crop(occupied(volume, source), source)


def paper_volume(name: str, folder: Path) -> Path:
    """The path of one of the paper's volumes, which is fetched first where it is missing."""
    path = folder / "occupancy" / f"{name}.mat.zip"

    def check(file: Path) -> None:
        if hashlib.sha256(file.read_bytes()).hexdigest() != SHA256[name]:
            raise UserError(f"{file} has the wrong checksum; delete it to have it fetched again")

    if not path.exists():
        download(URL.format(name), path, check, f"try a solid that needs no download: --shape {SOLIDS[0]}")
    check(path)
    return path


def summary(case: str, volume: np.ndarray) -> str:
    """What was read, in one line: `dragon: 360 × 510 × 228 voxels, 17.7 % full`."""
    return f"{case}: {' × '.join(map(str, volume.shape))} voxels, {100 * volume.mean():.3g} % full"


def voxel_coordinates(index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The positions (N, 3) in [−1, 1]³, both ends in, of voxels with places `index` (N,) in the flattened volume: along
    axis 1, then 0, then 2, the release's order."""
    places = (index // shape[2] % shape[1], index // (shape[1] * shape[2]), index % shape[2])
    # Filled on the device: for the copy of a tensor of numbers the host would wait.
    last = [index.new_full((), side - 1) for side in (shape[1], shape[0], shape[2])]
    return torch.stack([2 * place / end - 1 for place, end in zip(places, last)], dim=-1)


def read_array(path: Path) -> np.ndarray:
    """The array in a .npy file, not loaded before it is used and never unpickled, or the volume in a .mat file."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False) if path.suffix.lower() == ".npy" else read_mat(path)
    except Exception as error:  # a damaged file raises nearly anything
        raise UserError(f"{path} cannot be read as a volume ({' '.join(str(error).split())[:100]})") from error


def read_mat(path: Path) -> np.ndarray:
    """The one array of three dimensions in a .mat file of MATLAB's versions 5 to 7, or in the one in a .zip, which is
    not extracted. ValueError if there is none. scipy's reader would end the process where a file is damaged."""
    content = path.read_bytes()
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            member, = (info for info in archive.infolist() if info.filename.lower().endswith(".mat"))
            content = archive.read(member)
    if b"\x89HDF\r\n\x1a\n" in content[:1024]:
        raise ValueError("it is of version 7.3; save it by MATLAB's save(…, '-v7')")
    if content[126:128] != b"IM":
        raise ValueError("it is damaged, or not of MATLAB's versions 5 to 7")
    volumes = []
    for kind, data in elements(memoryview(content)[128:]):
        if kind == 15:  # compressed
            (kind, data), = elements(memoryview(zlib.decompressobj().decompress(data, MAX_VOXELS)))
        (_, flags), (_, shape), _, *parts = elements(data) if kind == 14 else [(0, b"")] * 3
        if len(shape) == 12 and int.from_bytes(flags[:2], "little") & 0x8ff in NUMERIC:
            values = np.frombuffer(parts[0][1], TYPES[parts[0][0]])
            volumes.append(values.reshape(np.frombuffer(shape, "<i4"), order="F"))
    if len(volumes) != 1:
        raise ValueError(f"it has {len(volumes)} arrays of three dimensions of numbers, and must have one")
    return volumes[0]


def elements(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The type and the bytes of each data element of a level 5 MAT-file (MathWorks, "MAT-File Format")."""
    place = 0
    while place < len(content):
        kind, size = struct.unpack_from("<II", content, place)
        small = kind >> 16  # bytes, in the place of the size
        start, end = (place + 4, place + 4 + small) if small else (place + 8, place + 8 + size)
        if end > len(content):
            raise ValueError("it is cut off")
        yield kind & 0xffff, content[start:end]
        place = place + 8 if small else end if kind == 15 else end + -size % 8


def occupied(volume: np.ndarray, name: str) -> np.ndarray:
    """Which voxels are full, bool: those with the one value beside 0, whatever it is; of fractions from 0 to 1, that is
    probabilities or shares of a voxel, those of one half and more. Labels, densities, distances are refused, as are
    fractions most of which lie between 0.1 and 0.9."""
    if volume.ndim != 3 or volume.dtype.kind not in "buif":
        raise UserError(f"{name} holds {volume.shape} values of type {volume.dtype}, not three dimensions of numbers")
    if not 0 < volume.size <= MAX_VOXELS:
        raise UserError(f"{name} has {volume.size:,} voxels; between 1 and {MAX_VOXELS:,} can be used")
    smallest, largest = volume.min(), volume.max()
    if not 0 <= smallest <= largest < np.inf:
        raise UserError(f"{name} has values that are negative or not finite; give 0 and 1, or fractions between")
    slices = volume.T if volume.flags.f_contiguous else volume  # a copy of all may not fit into memory
    others = (part[(part != 0) & (part != largest)] for part in slices)
    other = next((found[0] for found in others if found.size), None)
    if other is None:
        return volume if volume.dtype == bool else (volume == largest) & (volume != 0)
    if largest > 1 or sum(np.count_nonzero((part > 0.1) & (part < 0.9)) for part in slices) > volume.size / 2:
        raise UserError(f"{name} has more than one value beside 0, {other:.6g} and {largest:.6g} among them: labels, a "
                        "density or a distance; save which voxels are full, or fractions, most of them near 0 or 1")
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


def downscaled(volume: np.ndarray, downscale: int, name: str) -> np.ndarray:
    """The volume with its sides divided by `downscale`, by taking the nearest voxel, and cropped again. UserError if
    nothing, or everything, is left full; `name` says of what."""
    if downscale == 1:
        return volume
    places = [np.rint(np.linspace(0, side - 1, max(1, round(side / downscale)))).astype(int) for side in volume.shape]
    return crop(volume[np.ix_(*places)], f"{name}, downscaled by {downscale},")


def solid(name: str, resolution: int) -> np.ndarray:
    """One of `SOLIDS`, computed on a grid over [−1, 1]³ in float32, slice by slice.

    gyroid: a sheet around the surface cos x sin y + cos y sin z + cos z sin x = 0 in a ball. holed_sphere: a ball with
    six holes bored through it and a smaller ball inside."""
    axis = np.linspace(-1, 1, resolution, dtype=np.float32)
    x, y = axis[:, None], axis[None, :]
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
