"""Surfaces of occupancy volumes: meshes, the distance between two, and shaded pictures without a display."""

import math
from pathlib import Path
from typing import cast

import numpy as np
import trimesh
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from harness.figures import busiest_window, look_at
from harness.files import write_atomically

VIEWS = {"thai_statue": (120, 15, 1), "dragon": (120, 15, 0)}  # azimuth and elevation in degrees, the axis upward
VIEW = (-60, 25, 2)  # of any other volume
LIGHTS = (((-0.5, 0.7, 0.6), 0.75), ((0.8, 0.1, 0.5), 0.3))  # toward each, in the camera's axes, and how bright
AMBIENT = 0.18
SMOOTHING = 0.8  # σ in voxels of the Gaussian by which the surfaces of figures are smoothed
LEVELS = 256  # of a network's output, from 0 to 1, that a record keeps
CLAY = np.array([0.93, 0.86, 0.76])


def from_levels(levels: np.ndarray) -> np.ndarray:
    """A network's output in [0, 1], float32, from the uint8 levels that a record keeps."""
    return (levels + np.float32(0.5)) / LEVELS


def extract_mesh(volume: np.ndarray, smooth: float = 0.0) -> trimesh.Trimesh:
    """The surface at which a volume is 1/2, by marching cubes; closed, also where it touches the volume's faces.

    Args:
        volume: shape (X, Y, Z), bool or numbers in [0, 1].
        smooth: σ in voxels of a Gaussian applied first; it rounds the voxels' steps, and loses what is thinner than it.

    Returns:
        A mesh whose vertices are in voxels, voxel (i, j, k) being centered at (i, j, k), normals outward. Without
        vertices or faces where nothing is above 1/2.
    """
    margin = 1 + math.ceil(4 * smooth)
    padded = np.pad(volume, margin).astype(np.float32)
    if smooth:
        padded = gaussian_filter(padded, smooth)
    if padded.max() <= 0.5:
        return trimesh.Trimesh()
    vertices, faces, _, _ = marching_cubes(padded, 0.5, gradient_direction="ascent")  # normals to the empty side
    return trimesh.Trimesh(vertices - margin, faces, process=False)


def surface_distance(mesh: trimesh.Trimesh, truth: trimesh.Trimesh, near: float = 1.0) -> tuple[float, float] | None:
    """Chamfer distance and F-score of two surfaces of the same voxel grid.

    Marching cubes puts about a vertex on every voxel edge that a surface crosses. So the distance from a vertex to the
    other surface is taken as that to its nearest vertex. That needs no random points, and is 0 for equal surfaces.

    Returns:
        The mean of the two mean distances, in voxels; and the F-score of Knapitsch et al. (2017), the harmonic mean of
        the two fractions of vertices with the other surface within `near` voxels. None where a mesh is empty.
    """
    if not (len(mesh.vertices) and len(truth.vertices)):
        return None
    there = cKDTree(truth.vertices).query(mesh.vertices, workers=-1)[0]
    back = cKDTree(mesh.vertices).query(truth.vertices, workers=-1)[0]
    precision, recall = (there <= near).mean(), (back <= near).mean()
    f_score = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return float((there.mean() + back.mean()) / 2), float(f_score)


def render(mesh: trimesh.Trimesh, camera: np.ndarray, center: np.ndarray, width: float, height: float,
           pixels_per_voxel: float) -> np.ndarray:
    """A shaded picture of a mesh under parallel projection.

    Every triangle that faces the viewer is covered with points less than a pixel apart. A pixel shows the nearest of
    its points. The picture is made at twice its size and averaged down.

    Args:
        camera: shape (3, 3), the rows the directions right, up and toward the viewer.
        center: the point in the middle of the picture.
        width, height: what it shows, in voxels.
        pixels_per_voxel: its resolution.

    Returns:
        float32 RGB in [0, 1] on white, shape (rows, columns, 3).
    """
    scale = 2 * pixels_per_voxel
    columns, rows = 2 * round(width * pixels_per_voxel), 2 * round(height * pixels_per_voxel)
    color = np.ones((rows * columns, 3), np.float32)
    depth = np.full(rows * columns, -np.inf, np.float32)
    seen = ((mesh.vertices - center) @ camera.T * scale).astype(np.float32)  # (vertices, 3): right, up, near, in pixels
    normals = (mesh.vertex_normals @ camera.T).astype(np.float32)
    faces = mesh.faces[mesh.face_normals @ camera[2] > 0]
    corners, corner_normals = seen[faces], normals[faces]  # (faces, 3 corners, 3)
    shown = ((corners[..., 0].min(1) < columns / 2) & (corners[..., 0].max(1) > -columns / 2)
             & (corners[..., 1].min(1) < rows / 2) & (corners[..., 1].max(1) > -rows / 2))
    corners, corner_normals = corners[shown], corner_normals[shown]
    edges = np.linalg.norm(corners[:, [1, 2, 0], :2] - corners[:, :, :2], axis=2).max(1, initial=0)
    parts = np.ceil(1.25 * edges).astype(int).clip(1)  # intervals an edge is divided into
    for count in np.unique(parts):
        first, second = np.array([(i, j) for i in range(count + 1) for j in range(count + 1 - i)]).T / count
        barycentric = np.stack([first, second, 1 - first - second], axis=1).astype(np.float32)  # (points, 3)
        of_count = np.flatnonzero(parts == count)
        for some in np.array_split(of_count, math.ceil(len(of_count) * len(first) / 2e6)):
            points = np.einsum("pc,fcd->fpd", barycentric, corners[some]).reshape(-1, 3)
            column = np.floor(points[:, 0] + columns / 2).astype(int)
            row = np.floor(rows / 2 - points[:, 1]).astype(int)
            kept = np.flatnonzero((column >= 0) & (column < columns) & (row >= 0) & (row < rows))
            pixel, near = row[kept] * columns + column[kept], points[kept, 2]
            np.maximum.at(depth, pixel, near)
            nearest = near == depth[pixel]
            kept, pixel = kept[nearest], pixel[nearest]
            of_face, of_point = np.divmod(kept, len(first))
            color[pixel] = _shade(np.einsum("nc,ncd->nd", barycentric[of_point], corner_normals[some[of_face]]))
    return color.reshape(rows // 2, 2, columns // 2, 2, 3).mean((1, 3))


def _shade(normals: np.ndarray) -> np.ndarray:
    """The colors of clay under `LIGHTS` where the surface has such normals, shape (N, 3), of any length."""
    normals = normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-9)
    light = AMBIENT + sum(power * (normals @ (np.array(toward) / np.linalg.norm(toward))).clip(0)
                          for toward, power in LIGHTS)
    return (light[:, None] * CLAY).clip(0, 1)


def render_with_close_up(meshes: list[trimesh.Trimesh], view: tuple[float, float, int],
                         pixels: int) -> tuple[np.ndarray, tuple[slice, slice], list[np.ndarray]]:
    """A picture of the first of some meshes, and close-ups of all where that has the most detail, from one camera.

    Args:
        meshes: the first one is not empty.
        view: azimuth, elevation and the axis upward, as for `look_at`.
        pixels: the width of a picture and of a close-up.

    Returns:
        The picture, the window of it that the close-ups show, and the close-ups.
    """
    camera = look_at(*view)
    seen = meshes[0].vertices @ camera.T
    center = camera.T @ ((seen.max(axis=0) + seen.min(axis=0)) / 2)
    width, height = 1.06 * np.ptp(seen[:, :2], axis=0)
    scale = pixels / width
    picture = render(meshes[0], camera, center, width, height, scale)
    rows, columns = busiest_window(picture)
    # From the middle of the picture to that of the window, in voxels along the camera's axes.
    right, down = ((window.start + window.stop - side) / 2 / scale
                   for window, side in zip((columns, rows), (picture.shape[1], picture.shape[0])))
    near = center + right * camera[0] - down * camera[1]
    close = [render(mesh, camera, near, width / 4, height / 4, 4 * scale) for mesh in meshes]
    return picture, (rows, columns), close


def write_mesh(mesh: trimesh.Trimesh, path: Path) -> None:
    """Write a surface as binary .ply, atomically; an empty one has no file."""
    if len(mesh.faces):
        write_atomically(path, cast(bytes, mesh.export(file_type="ply")))
    else:
        path.unlink(missing_ok=True)
