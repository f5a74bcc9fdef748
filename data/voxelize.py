"""A mesh file as a volume: its surface is read, checked to be closed, and cut row by row of voxels.

trimesh reads the files. Its `voxelized().fill()` would fill cavities, leave open meshes hollow, and fail on a large
triangle; its `contains` needs packages that this project does not.
"""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from data.errors import UserError

SAME = 1e-6  # of the longest side: vertices closer than this are one, and what is thinner than this encloses nothing
# The voxels' centers lie this much, in voxels, below where they should. A slanted plane in which two bodies touch would
# else run through centers, and leave them to one body, both or none by rounding.
SHIFT = np.array([1.7e-4, 1.1e-4, 0.7e-4])
UNREAD = {"KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression", "EXT_mesh_gpu_instancing"}


def voxelize(path: Path, resolution: int) -> np.ndarray:
    """What the surface in a mesh file encloses, on a grid with `resolution` voxels along the longest side.

    A voxel is full where its center is inside, that is where the winding number of the surface is not 0. So bodies that
    overlap are united, whether of one object or of several. A closed surface within a body is a cavity where its faces
    point into the cavity, as the file formats have it; where they point the other way it is refused, for it may be a
    cavity or not. In a single body with some faces turned over, inside is where a ray meets an odd number of faces.

    A part thinner than a voxel is lost where it lies between the centers; a higher resolution keeps more of it.

    Returns:
        bool, shape (X, Y, Z), in the axes of the file.

    Raises:
        UserError: the file cannot be read in full, or its surface does not tell what is inside.
    """
    vertices, faces = read_mesh(path)
    faces, body, sizes, consistent = check_closed(vertices, faces, path, resolution)
    shape = np.rint(np.ptp(vertices, axis=0) * resolution).astype(int).clip(1)
    triangles = vertices[faces] * resolution + (shape - 1) / 2 + SHIFT
    volume = np.zeros(shape, bool)
    # The winding number of all other bodies where the surface of each is met: how many bodies it lies in there.
    least, most = np.full(len(sizes), np.inf), np.full(len(sizes), -np.inf)
    for layer, (face, place, winding) in zip(volume, cross_rows(triangles, shape)):
        full = winding != 0 if consistent else winding % 2 == 1
        layer[:] = np.repeat(full, np.diff(place, prepend=0, append=layer.size)).reshape(layer.shape)
        met, sides = body[face], np.sort([winding[:-1], winding[1:]], axis=0)
        outside = np.where(sizes[met] < 0, sides[1], sides[0])
        np.minimum.at(least, met, outside)
        np.maximum.at(most, met, outside)
    if consistent and (np.isfinite(least) & (sizes > 0) & (least > 0)).any():
        raise UserError(f"{path} has a closed surface within a body that faces the same way, outward; turn its faces "
                        "inward if it is a cavity, or delete it")
    if consistent and ((sizes < 0) & (least <= 0) & (most > 0)).any():
        raise UserError(f"{path} has a body whose faces point inward, and which overlaps another; turn them outward")
    if not volume.any():
        raise UserError(f"{path} encloses no voxel's center at a resolution of {resolution}")
    return volume


def read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The triangles of all objects in a mesh file.

    Returns:
        Vertices, float64, shape (V, 3): moved and scaled such that the box around them is centered at 0 and its longest
        side is 1, and only then merged where they are the same, so that any size will do and any place. And the three
        vertices of each triangle, int, shape (F, 3), counterclockwise from outside.
    """
    import trimesh  # here, as it takes a second that a volume does not need

    logging.getLogger("trimesh").setLevel(logging.CRITICAL)  # it warns of textures and normals, which no volume has
    try:
        refuse_unread(path)
        scene = trimesh.load_scene(path, process=False, skip_materials=True)
        objects, faces_of, count = [], [], 0
        for node in scene.graph.nodes_geometry:
            matrix, name = scene.graph[node]
            mesh = scene.geometry[name]
            if isinstance(mesh, trimesh.Trimesh):  # no points, no lines
                objects.append(mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3])
                mirrored = np.linalg.det(matrix[:3, :3]) < 0
                faces_of.append(count + mesh.faces[:, ::-1 if mirrored else 1])
                count += len(mesh.vertices)
        if not sum(map(len, faces_of)):
            raise ValueError("it has no faces")
        used, faces = np.unique(np.concatenate(faces_of), return_inverse=True)
        if used[0] < 0:
            raise ValueError("a face has a vertex of negative number")
        vertices = np.concatenate(objects)[used]
        if not np.isfinite(vertices).all():
            raise ValueError("a vertex is not finite")
    except Exception as error:  # a damaged file raises nearly anything
        # Where a text file is damaged, trimesh looks for a package that would guess its encoding.
        reason = "it is damaged" if isinstance(error, ImportError) else " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as a mesh ({reason}); export it again, as triangles") from error

    vertices = vertices / max(np.abs(vertices).max(), np.finfo(float).tiny)  # as the difference of two could overflow
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    if min(high - low) <= SAME * max(high - low):
        raise UserError(f"{path} is flat and encloses nothing")
    vertices = (vertices - (low + high) / 2) / max(high - low)
    # First by rounding, after which none has many others near, and then those that rounding parts.
    first, same = trimesh.grouping.unique_rows(vertices, digits=6)
    vertices = vertices[first]
    merged = connected(cKDTree(vertices).query_pairs(SAME, output_type="ndarray"), len(vertices))
    faces = merged[same[faces.reshape(-1, 3)]]
    return vertices[np.unique(merged, return_index=True)[1]], faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]


def refuse_unread(path: Path) -> None:
    """ValueError if a file has what trimesh leaves out, or takes for something else, without an error."""
    kind = path.suffix.lower()
    if kind == ".obj":
        text = path.read_bytes()
        if re.search(rb"^f\b.*[ \t]0\b", text, re.MULTILINE):
            raise ValueError("a face has a vertex of number 0")
        backward = re.search(rb"^f\b.*[ \t]-\d", text, re.MULTILINE)
        if backward and re.search(rb"^v\b", text[backward.end():], re.MULTILINE):
            raise ValueError("its faces number vertices backward, and more vertices follow")
    elif kind == ".stl":
        text = path.read_bytes().lower()
        if text.rfind(b"endfacet") > text.rfind(b"endsolid"):
            raise ValueError("it ends within a solid")
    elif kind == ".glb":
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(20)[12:16], "little")))
        if unread := UNREAD & {*header.get("extensionsUsed", ())}:
            raise ValueError(f"it uses {', '.join(sorted(unread))}")
        primitives = [primitive for mesh in header.get("meshes", ()) for primitive in mesh["primitives"]]
        if any(primitive.get("mode") == 6 for primitive in primitives):
            raise ValueError("it has triangle fans")
        positions = [header["accessors"][primitive["attributes"]["POSITION"]] for primitive in primitives]
        if any(position.get("normalized") or "sparse" in position for position in positions):
            raise ValueError("its vertices are sparse or normalized integers")


def check_closed(vertices: np.ndarray, faces: np.ndarray, path: Path,
                 resolution: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """The bodies that a surface is of.

    Returns:
        The faces, all turned over if they enclose a negative volume; for each its body's number; each body's volume,
        which is negative where its faces point inward; and whether the faces of every body are turned alike.

    Raises:
        UserError: the surface is open, or has a body of which no rule tells what it encloses.
    """
    edges = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    count = coo_array((np.ones(len(edges), int), edges.T), shape=(len(vertices), len(vertices))).tocsr()
    open_edges = ((count + count.T).data % 2).sum() // 2  # each is in the matrix as (a, b) and as (b, a)
    if open_edges:
        raise UserError(f"{path} is not watertight, and so has no inside: {open_edges:,} of its edges lack a face on "
                        "one side; close its holes first (in MeshLab: Close Holes)")
    body = connected(edges, len(vertices))[faces[:, 0]]
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    sizes = np.bincount(body, (corners[:, 0] * cross).sum(axis=1)) / 6
    areas = np.bincount(body, np.linalg.norm(cross, axis=1)) / 2
    consistent = (count != count.T).nnz == 0
    if consistent and ((np.abs(sizes) < SAME * areas) & (areas > 1 / resolution**2)).any():
        raise UserError(f"{path} has a part that encloses nothing: a sheet, or faces that are all there twice, once "
                        "facing each way; delete it, or one of the two")
    if not consistent and np.count_nonzero(areas) > 1:
        raise UserError(f"{path} has several bodies, and faces that are turned over; turn those of each body outward "
                        "first (in Blender: Recalculate Outside)")
    return (faces[:, ::-1], body, -sizes, consistent) if sizes.sum() < 0 else (faces, body, sizes, consistent)


def connected(pairs: np.ndarray, count: int) -> np.ndarray:
    """For each of `count` points the number of its group, if the pairs, shape (N, 2), are connected."""
    graph = coo_array((np.ones(len(pairs), bool), pairs.T), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def cross_rows(triangles: np.ndarray, shape: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Where the rows of the voxels' centers, in the direction of z, cross a closed surface.

    A plane of constant x cuts the surface in closed polygons, which have a side for each triangle that it meets. Two
    triangles compute the end that their sides share from the same numbers in the same order, and of the two ends of a
    side the lower in y belongs to it: no row slips through between two sides, and none meets both.

    Args:
        triangles: in voxels, (i, j, k) being the center of voxel (i, j, k), shape (F, 3, 3).
        shape: of a volume that has room for the surface.

    Yields:
        For each x in turn, of the N crossings in the order of y and z: the triangle; the place, among the (Y, Z) voxels
        flattened, of the first voxel beyond; and the winding number before and after each, shape (N + 1,).
    """
    triangle, plane = whole_between(triangles[..., 0].min(axis=1), triangles[..., 0].max(axis=1))
    order = np.argsort(plane, kind="stable")
    for x, some in enumerate(np.split(order, np.searchsorted(plane[order], np.arange(1, shape[0])))):
        start = triangles[triangle[some]]  # of its three edges, (triangles, 3 edges, 3 axes)
        end = np.roll(start, -1, axis=1)
        up, down = ((low[..., 0] <= x) & (x < high[..., 0]) for low, high in ((start, end), (end, start)))
        first, last = cut(start[up], end[up], x), cut(end[down], start[down], x)  # one edge each of every triangle
        side, y = whole_between(*np.sort([first[:, 0], last[:, 0]], axis=0))
        first, last = first[side], last[side]
        z = first[:, 1] + (y - first[:, 0]) / (last - first)[:, 0] * (last - first)[:, 1]
        crossed = np.lexsort((z, y))
        change = np.sign(first - last)[crossed, 0].astype(int)
        place = y * shape[2] + np.ceil(z).astype(int).clip(0, shape[2])
        yield triangle[some][side][crossed], place[crossed], np.append(0, np.cumsum(change))


def cut(low: np.ndarray, high: np.ndarray, x: int) -> np.ndarray:
    """Where the plane at x cuts edges that have one end up to it and one beyond: (y, z), shape (N, 2)."""
    return low[:, 1:] + (x - low[:, :1]) / (high - low)[:, :1] * (high - low)[:, 1:]


def whole_between(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All whole numbers n with low ≤ n < high, for arrays of such pairs: the place of each n's pair, and n."""
    low, high = np.ceil(low).astype(int), np.ceil(high).astype(int)
    pair = np.repeat(np.arange(len(low)), high - low)
    before = np.cumsum(high - low) - (high - low)
    return pair, low[pair] + np.arange(len(pair)) - before[pair]
