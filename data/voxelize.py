"""A mesh file as a volume: its surface is read, checked to be closed, and cut row by row of voxels.

trimesh reads .ply and .glb, and would leave out lines of the other texts. Its `voxelized().fill()` would fill cavities
and leave open meshes hollow; its `contains` needs packages that this project does not.
"""

import codecs
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from data.errors import UserError

# Of the longest side: vertices closer than this are one, and what is thinner than this encloses nothing.
MERGE_DISTANCE = 1e-6
# The voxels' centers lie this much, in voxels, below where they should. A slanted plane in which two bodies touch would
# else run through centers, and leave them to one body, both or none by rounding.
RAY_SHIFT = np.array([1.7e-4, 1.1e-4, 0.7e-4])
# How a line of an .obj may begin that is no part of its surface.
IGNORED_LINES = b"vt vn vp g o s l p mg lod usemtl mtllib usemap maplib bevel c_interp d_interp".split()
# What changes the surface of a .glb and is not read: deformations, compressed or repeated meshes, strips of triangles.
UNREAD_GLTF = re.compile(rb'"((skins|sparse|targets|(KHR|EXT)_(?!materials|texture|lights)\w+)"|mode"\s*:\s*[^4\s])')


def voxelize(path: Path, resolution: int) -> np.ndarray:
    """What the surface in a mesh file encloses, on a grid with `resolution` voxels along the longest side.

    A voxel is full where its center is inside, that is where the winding number of the surface is not 0. So bodies that
    overlap are united, whether of one object or of several. A closed surface within a body is a cavity where its faces
    point into the cavity, as the file formats have it; where they point the other way it is refused, for it may be a
    cavity or not. A part thinner than a voxel is lost where it lies between the centers.

    Returns bool (X, Y, Z), in the axes of the file. UserError: the file cannot be read in full, or its surface does not
    tell what is inside.
    """
    vertices, faces = read_mesh(path)
    faces, body, sizes = check_closed(vertices, faces, path, resolution)
    shape = np.rint(np.ptp(vertices, axis=0) * resolution).astype(int).clip(1)
    triangles = vertices[faces] * resolution + (shape - 1) / 2 + RAY_SHIFT
    volume = np.zeros(shape, bool)
    # The winding number of all other bodies where the surface of each is met: how many bodies it lies in there.
    least, most = np.full(len(sizes), np.inf), np.full(len(sizes), -np.inf)
    for layer, (face, place, winding) in zip(volume, cross_rows(triangles, shape)):
        layer[:] = np.repeat(winding != 0, np.diff(place, prepend=0, append=layer.size)).reshape(layer.shape)
        met, sides = body[face], np.sort([winding[:-1], winding[1:]], axis=0)
        outside = np.where(sizes[met] < 0, sides[1], sides[0])
        np.minimum.at(least, met, outside)
        np.maximum.at(most, met, outside)
    if (np.isfinite(least) & (sizes > 0) & (least > 0)).any():
        raise UserError(f"{path} has a closed surface within a body that faces the same way, outward; turn its faces "
                        "inward if it is a cavity, or delete it")
    if ((sizes < 0) & (least <= 0) & (most > 0)).any():
        raise UserError(f"{path} has a body whose faces point inward, and which overlaps another; turn them outward")
    if not volume.any():
        raise UserError(f"{path} encloses no voxel's center at a resolution of {resolution}")
    return volume


def read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The triangles of all objects in a mesh file: vertices, float64 (V, 3), and of each triangle three, int (F, 3).

    The vertices are moved and scaled such that the box around them is centered at 0 and its longest side is 1, and only
    then merged where they are the same, so that any size will do and any place.
    """
    try:
        corners, polygons = READERS[path.suffix.lower()](path.read_bytes())
        vertices = np.array(corners, float)
        if not isinstance(polygons, np.ndarray):
            if min(map(len, polygons), default=3) < 3:
                raise ValueError("a face has fewer than three vertices")
            polygons = [(face[0], *face[i:i + 2]) for face in polygons for i in range(1, len(face) - 1)]
        faces = np.array(polygons, int).reshape(-1, 3)
        if not len(faces) or vertices.shape[1:] != (3,):
            raise ValueError("it has no faces" if not len(faces) else "a vertex has not three coordinates")
        if not 0 <= faces.min() <= faces.max() < len(vertices):
            raise ValueError("a face has a vertex that is not there")
        if not np.isfinite(vertices[faces]).all():
            raise ValueError("a vertex is not finite")
    except Exception as error:  # a damaged file raises nearly anything
        reason = " ".join(str(error).split())[:100] if isinstance(error, ValueError) else "it is damaged"
        raise UserError(f"{path} cannot be read as a mesh ({reason}); export it again, as triangles") from error

    # The box is that of the faces that have an area. What sticks out of it, a point or a line, encloses nothing.
    vertices = vertices / max(np.abs(vertices[faces]).max(), np.finfo(float).tiny)  # no difference of two overflows
    sides = vertices[faces] - vertices[np.roll(faces, 1, axis=1)]
    areas, squares = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1), np.square(sides).sum(axis=(1, 2))
    wide = areas > MERGE_DISTANCE * squares
    extent = np.ptp(vertices[faces[wide]].reshape(-1, 3), axis=0).max() if wide.any() else 0
    large = wide & (squares > (MERGE_DISTANCE * extent)**2)
    wide = large if large.any() else wide  # a body as small as a point sets no box either
    box = vertices[faces[wide]].reshape(-1, 3) if wide.any() else np.zeros((1, 3))
    low, high = box.min(axis=0), box.max(axis=0)
    if min(high - low) <= MERGE_DISTANCE * max(high - low):
        raise UserError(f"{path} is flat and encloses nothing")
    vertices = (vertices - (low + high) / 2) / max(high - low)
    inside = (np.abs(vertices[faces]) <= 0.5 + MERGE_DISTANCE).all(axis=(1, 2))
    used, faces = np.unique(faces[inside], return_inverse=True)
    # First by rounding, after which none has many others near, and then those that rounding parts.
    _, first, same = np.unique(np.rint(vertices[used] / MERGE_DISTANCE), axis=0, return_index=True, return_inverse=True)
    vertices = vertices[used][first]
    merged = connected(cKDTree(vertices).query_pairs(MERGE_DISTANCE, output_type="ndarray"), len(vertices))
    faces = merged[same.ravel()[faces.reshape(-1, 3)]]
    body = connected(faces[:, [[0, 1], [1, 2]]].reshape(-1, 2), len(vertices))[faces[:, 0]]
    kept = (faces != np.roll(faces, 1, axis=1)).all(axis=1) & (np.bincount(body, wide[inside])[body] > 0)
    return vertices[np.unique(merged, return_index=True)[1]], faces[kept]


# Each reader returns the vertices (x, y, z) and of each face the numbers of its vertices, and raises any error.

def words_of(raw: bytes) -> list[list[bytes]]:
    """The words of each line of a text in any encoding, without comments."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raw = raw.decode("utf-16").encode()
    text = re.sub(rb"#[^\r\n]*", b"", raw.removeprefix(codecs.BOM_UTF8))
    return [words for line in text.splitlines() if (words := line.split())]


def read_obj(raw: bytes) -> tuple:
    vertices, faces = [], []
    lines = iter(words_of(raw))
    for kind, *words in lines:
        while kind in (b"v", b"f") and words and words[-1].endswith(b"\\"):  # goes on in the next; a name may end so
            words[-1:] = [*words[-1][:-1].split(), *next(lines, [])]
        if kind == b"v":
            vertices.append([float(word) for word in words[:3]])
        elif kind == b"f":
            numbers = [int(word.split(b"/")[0]) for word in words]  # from 1, or backward from the last so far
            if 0 in numbers:
                raise ValueError("a face has a vertex of number 0")
            faces.append([number - 1 if number > 0 else len(vertices) + number for number in numbers])
        elif kind not in IGNORED_LINES:
            raise ValueError(f"a line begins with {kind.decode('latin-1')[:20]!r}, which is not read")
    return vertices, faces


def read_off(raw: bytes) -> tuple:
    (start, *words), *lines = words_of(raw)
    kind, off, count = start.partition(b"OFF")  # ModelNet's counts stand right behind it
    if not off or kind not in (b"", b"C", b"N", b"CN", b"ST"):
        raise ValueError("it does not begin with OFF")
    lines = [line for line in ([count, *words] if count else words, *lines) if line]
    vertices, faces = int(lines[0][0]), int(lines[0][1])
    if len(lines) != 1 + vertices + faces:
        raise ValueError(f"it has not one line for each of {vertices} vertices and {faces} faces")
    return ([[float(word) for word in line[:3]] for line in lines[1:1 + vertices]],
            [[int(line[1 + corner]) for corner in range(int(line[0]))] for line in lines[1 + vertices:]])


def read_stl(raw: bytes) -> tuple:
    if len(raw) == 84 + 50 * int.from_bytes(raw[80:84], "little"):
        facets = np.frombuffer(raw, [("normal", "<3f4"), ("corners", "<9f4"), ("color", "<u2")], offset=84)
        return facets["corners"].reshape(-1, 3), np.arange(3 * len(facets)).reshape(-1, 3)
    lines = words_of(raw.lower())
    kinds = b" ".join(line[0] for line in lines).replace(b"facet outer vertex vertex vertex endloop endfacet ", b"")
    if not re.fullmatch(rb"(solid endsolid ?)+", kinds):
        raise ValueError("it ends within a solid, or is neither text of facets nor a binary file of its length")
    corners = [[float(word) for word in line[1:4]] for line in lines if line[0] == b"vertex"]
    return corners, np.arange(len(corners)).reshape(-1, 3)


def read_ply(raw: bytes) -> tuple:
    head, *body = re.split(rb"[\r\n][ \t]*end_header[ \t]*(?:\r\n|\r|\n)", raw, maxsplit=1)
    lines = [line for line in words_of(head) if line[0] not in (b"comment", b"obj_info")]
    elements = {name: int(count) for _, name, count in (line for line in lines if line[0] == b"element")}
    if elements.keys() - {b"vertex", b"face", b"edge", b"material", b"camera"}:  # as tristrips
        raise ValueError(f"it has elements that are not read, among {b', '.join(elements).decode('latin-1')}")
    if lines[1][:2] == [b"format", b"ascii"]:
        texts = [text for text in body[0].splitlines() if text.strip()]
        if len(texts) != sum(elements.values()):
            raise ValueError(f"it has {len(texts)} lines for {sum(elements.values())} elements")
        body = [*texts, b""]
    return by_trimesh(b"\n".join([*map(b" ".join, lines), b"end_header", *body]), "ply")


def read_glb(raw: bytes) -> tuple:
    if found := UNREAD_GLTF.search(raw, 20, 20 + int.from_bytes(raw[12:16], "little")):
        raise ValueError(f"it has {found[0].decode('latin-1')}, which is not read")
    return by_trimesh(raw, "glb")


def by_trimesh(raw: bytes, kind: str) -> tuple:
    import trimesh  # here, as it takes a second that a volume does not need

    logging.getLogger("trimesh").setLevel(logging.CRITICAL)  # it warns of textures and normals, which no volume has
    mesh = trimesh.load_mesh(io.BytesIO(raw), file_type=kind, process=False, skip_materials=True)
    return mesh.vertices, mesh.faces


READERS = {".obj": read_obj, ".off": read_off, ".stl": read_stl, ".ply": read_ply, ".glb": read_glb}


def check_closed(vertices: np.ndarray, faces: np.ndarray, path: Path,
                 resolution: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The faces, all turned over if they enclose a negative volume; for each its body's number; and each body's volume,
    negative where its faces point inward. UserError: the surface is open, or has a body that encloses nothing.
    """
    edges, count, odd = edges_of(faces)
    if odd:  # as where a triangle is there twice
        turned = (faces.argmin(axis=1)[:, None] + np.arange(3)) % 3
        faces = np.unique(np.take_along_axis(faces, turned, axis=1), axis=0)
        edges, count, odd = edges_of(faces)
    if odd:
        raise UserError(f"{path} is not watertight, and so has no inside: at {odd:,} of its edges an odd number of "
                        "faces meet; close its holes first (in MeshLab: Close Holes)")
    body = connected(edges, len(vertices))[faces[:, 0]]
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    sizes = np.bincount(body, (corners[:, 0] * cross).sum(axis=1)) / 6
    areas = np.bincount(body, np.linalg.norm(cross, axis=1)) / 2
    if (count != count.T).nnz:
        raise UserError(f"{path} has faces turned over; turn all outward first (in Blender: Recalculate Outside)")
    if ((np.abs(sizes) < MERGE_DISTANCE * areas) & (areas > 1 / resolution**2)).any():
        raise UserError(f"{path} has a part that encloses nothing: a sheet, or faces there once each way; delete it")
    return (faces[:, ::-1], body, -sizes) if sizes.sum() < 0 else (faces, body, sizes)


def edges_of(faces: np.ndarray) -> tuple:
    """Edges (3 F, 2); how many go from one vertex to another, sparse; how many have an odd number of faces."""
    edges = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    count = coo_array((np.ones(len(edges), int), edges.T), shape=(faces.max(initial=0) + 1,) * 2).tocsr()
    return edges, count, ((count + count.T).data % 2).sum() // 2  # each is in the matrix as (a, b) and as (b, a)


def connected(pairs: np.ndarray, count: int) -> np.ndarray:
    """For each of `count` points the number of its group, if the pairs, shape (N, 2), are connected."""
    graph = coo_array((np.ones(len(pairs), bool), pairs.T), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def cross_rows(triangles: np.ndarray, shape: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Where the rows of the voxels' centers, in the direction of z, cross a closed surface.

    A plane of constant x cuts the surface in closed polygons, which have a side for each triangle that it meets. Two
    triangles compute the end that their sides share from the same numbers in the same order, and of the two ends of a
    side the lower in y belongs to it: no row slips through between two sides, and none meets both.

    `triangles` (F, 3, 3) are in voxels, (i, j, k) being the center of voxel (i, j, k). Yields for each x, of its N
    crossings by y and z: the triangle; the place, among the (Y, Z) voxels flattened, of the first voxel beyond; and the
    winding number before and after each, shape (N + 1,)."""
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
