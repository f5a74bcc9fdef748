"""Volumes from meshes: what is inside, wherever and however it was written, and what is refused."""

import math
import re

import numpy as np
import pytest
import trimesh
from trimesh.transformations import random_rotation_matrix

from data.errors import UserError
from data.volumes import load_volume
from data.voxelize import RAY_SHIFT, read_mesh, voxelize

TETRAHEDRON = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


def ball(radius=1.0, at=(0.0, 0.0, 0.0), inward=False, subdivisions=3):
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    mesh.apply_translation(at)
    if inward:
        mesh.invert()
    return mesh


def together(*meshes):
    return trimesh.util.concatenate(meshes)


def voxels_of(path, *meshes, kind=".ply", resolution=40):
    """The volume of a file of meshes as one object."""
    together(*meshes).export(path / f"mesh{kind}")
    return voxelize(path / f"mesh{kind}", resolution)


def centers(shape, sides):
    """The positions of voxels of a box of such sides around 0, (X, Y, Z, 3)."""
    axes = [(np.arange(count) + 0.5) * side / count - side / 2 for count, side in zip(shape, sides)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def in_balls(shape, sides, *balls):
    places = centers(shape, sides)
    return np.any([((places - at) ** 2).sum(-1) < radius**2 for radius, at in balls], axis=0)


def agree(found, expected, within=0.004):
    """Whether volumes differ in no more than voxels at the surface, that a mesh's flat faces cut off."""
    return found.shape == expected.shape and (found != expected).mean() < within


@pytest.mark.parametrize("kind", [".ply", ".obj", ".stl", ".off", ".glb"])
def test_a_ball_of_any_format(kind, tmp_path):
    ball(2.0, (1.0, 2.0, 3.0), subdivisions=4).export(tmp_path / f"ball{kind}")
    case, volume = load_volume(str(tmp_path / f"ball{kind}"), tmp_path, 40)
    assert case == "ball" and volume.dtype == bool
    assert agree(volume, in_balls((40, 40, 40), (2, 2, 2), (1, 0)))


def test_the_nodes_of_a_scene_are_placed_and_those_of_scale_0_are_nothing(tmp_path):
    scene = trimesh.Scene(ball(subdivisions=2))
    hidden = np.diag([0.0, 0, 0, 1])
    hidden[0, 3] = 10
    scene.add_geometry(next(iter(scene.geometry.values())), transform=hidden)
    scene.export(tmp_path / "hidden.glb")
    ball(subdivisions=2).export(tmp_path / "ball.stl")
    assert np.array_equal(voxelize(tmp_path / "hidden.glb", 40), voxelize(tmp_path / "ball.stl", 40))
    mirrored = np.diag([-0.5, 1, 1, 1])
    mirrored[0, 3] = 3
    scene.add_geometry(ball(subdivisions=2), transform=mirrored)
    scene.export(tmp_path / "two.glb")
    found = voxelize(tmp_path / "two.glb", 45)
    assert found.shape == (45, 20, 20) and not found[21:34].any()
    assert found[35:].sum() == pytest.approx(found[:20].sum() / 2, rel=0.05)


def test_a_box_and_a_tetrahedron_are_their_voxels(tmp_path):
    assert np.array_equal(voxels_of(tmp_path, trimesh.creation.box((3, 5, 7)), resolution=14), np.ones((6, 10, 14)))
    (tmp_path / "tetra.obj").write_text(TETRAHEDRON)
    for resolution in (20, 21):
        i, j, k = np.ogrid[:resolution, :resolution, :resolution]
        assert np.array_equal(voxelize(tmp_path / "tetra.obj", resolution), i + j + k + 1.5 < resolution)
    assert voxelize(tmp_path / "tetra.obj", 512).sum() == math.comb(513, 3)


def test_a_cavity_stays_empty(tmp_path):
    shape, sides = (40, 40, 40), (2, 2, 2)
    expected = in_balls(shape, sides, (1, 0)) & ~in_balls(shape, sides, (0.7, 0.1))
    inner = ball(0.7, (0.1, 0.1, 0.1), inward=True)
    assert agree(voxels_of(tmp_path, ball(), inner), expected, 0.02)
    inside_out = ball(inward=True), ball(0.7, (0.1, 0.1, 0.1))
    assert agree(voxels_of(tmp_path, *inside_out, kind=".stl"), expected, 0.02)
    island = ball(0.3, (0.1, 0.1, 0.1))
    assert agree(voxels_of(tmp_path, ball(), inner, island), expected | in_balls(shape, sides, (0.3, 0.1)), 0.02)


def test_bodies_are_united(tmp_path):
    balls = (1, (-0.5, 0, 0)), (1, (0.5, 0, 0))
    expected = in_balls((60, 40, 40), (3, 2, 2), *balls)
    for inward in (False, True):
        assert agree(voxels_of(tmp_path, *(ball(*each, inward) for each in balls), resolution=60), expected, 0.02)
    assert agree(voxels_of(tmp_path, ball(), ball()), in_balls((40, 40, 40), (2, 2, 2), (1, 0)), 0.02)  # there twice
    volume = voxels_of(tmp_path, ball(1, (-1.5, 0, 0)), ball(1, (1.5, 0, 0), inward=True), resolution=100)
    assert agree(volume, in_balls((100, 40, 40), (5, 2, 2), (1, (-1.5, 0, 0)), (1, (1.5, 0, 0))), 0.02)


def test_bodies_that_touch_have_no_gap(tmp_path):
    """The halves of a cube, cut along a diagonal plane through the voxels' centers, with finer triangles in one."""
    cube = trimesh.creation.box((1, 1, 1))
    halves = [trimesh.convex.convex_hull(cube.vertices[sign * (cube.vertices @ (1, 1, 0)) >= 0]) for sign in (1, -1)]
    halves[1] = halves[1].subdivide()
    assert all(half.is_watertight and half.volume == pytest.approx(0.5) for half in halves)
    for half in halves:
        half.apply_translation((0.3, 0.7, 0.9))  # rounding moves some centers to either side of the plane
    for resolution in (20, 21):
        assert voxels_of(tmp_path, *halves, resolution=resolution).all()


def test_it_is_the_winding_number(tmp_path):
    """Of surfaces at random, against the sum of the triangles' solid angles (Van Oosterom and Strackee, 1983)."""
    random = np.random.default_rng(0)
    for kind in (".ply", ".stl", ".obj"):
        meshes = []
        for mesh in (ball(0.8, subdivisions=1), trimesh.creation.box((1, 2, 3)), trimesh.creation.torus(1, 0.4, 7, 5),
                     trimesh.creation.annulus(0.5, 1, 2, sections=8), trimesh.creation.cone(0.8, 2, sections=6)):
            mesh.apply_transform(random_rotation_matrix(random.random(3)))
            meshes.append(mesh.apply_translation(0.5 * random.normal(size=3)))
        volume = voxels_of(tmp_path, *meshes, kind=kind, resolution=15)
        vertices, faces = read_mesh(tmp_path / f"mesh{kind}")
        places = np.argwhere(np.ones(volume.shape)) - (np.array(volume.shape) - 1) / 2 - RAY_SHIFT
        a, b, c = np.moveaxis(15 * vertices[faces] - places[:, None, None], 2, 0)  # (voxels, triangles, 3)
        of_a, of_b, of_c = (np.linalg.norm(corner, axis=2) for corner in (a, b, c))
        angles = np.arctan2((a * np.cross(b, c)).sum(2), of_a * of_b * of_c + (a * b).sum(2) * of_c
                            + (b * c).sum(2) * of_a + (c * a).sum(2) * of_b)
        winding = np.rint(angles.sum(1) / (2 * np.pi)).astype(int)
        assert winding.max() > 1 and np.array_equal(volume.ravel(), winding != 0)


@pytest.mark.parametrize("kind", [".ply", ".obj", ".stl"])
@pytest.mark.parametrize("size, at", [(1e-9, 0.0), (1e-25, 0.0), (1e25, 0.0), (1.0, 1024.0), (1.0, -1e4)])
def test_any_size_and_any_place(kind, size, at, tmp_path):
    mesh = ball()
    expected = voxels_of(tmp_path, mesh, kind=kind)
    mesh.vertices = size * mesh.vertices + at
    mesh.export(tmp_path / f"mesh{kind}", **({"digits": 40} if kind == ".obj" else {}))
    assert agree(voxelize(tmp_path / f"mesh{kind}", 40), expected, 1e-3)


def test_vertices_that_differ_by_rounding_are_one(tmp_path):
    mesh = ball()
    corners = mesh.triangles + 1e-7 * np.random.default_rng(0).normal(size=mesh.triangles.shape)
    trimesh.Trimesh(corners.reshape(-1, 3), np.arange(len(corners) * 3).reshape(-1, 3), process=False).export(
        tmp_path / "mesh.stl")
    assert agree(voxelize(tmp_path / "mesh.stl", 40), voxels_of(tmp_path, mesh), 1e-3)


def test_a_body_far_from_all_else(tmp_path):
    """Its thousands of vertices are one at this scale, and it is nothing."""
    with pytest.raises(UserError, match="no voxel's center"):
        voxels_of(tmp_path, ball(subdivisions=5), ball(1, (1e7, 1e7, 1e7)), kind=".obj")


TEXT = ball(subdivisions=2).export(file_type="obj", include_normals=False, header="", digits=8)
STL = trimesh.exchange.stl.export_stl_ascii(ball(subdivisions=2))
PLY = ball(subdivisions=2).export(file_type="ply", encoding="ascii", vertex_normal=False).decode()
BINARY_PLY = ball(subdivisions=2).export(file_type="ply", vertex_normal=False)
GLB = ball().export(file_type="glb")
OFF = trimesh.exchange.off.export_off(ball(subdivisions=2), digits=8)
FORMS = {  # the same ball as programs and people write it
    "tabs in half of it": (".obj", TEXT[:-3000] + TEXT[-3000:].replace("f ", "f\t")),
    "indented": (".obj", TEXT.replace("\n", "\n  ")),
    "byte order mark": (".obj", TEXT.encode("utf-8-sig")),
    "UTF-16": (".obj", TEXT.encode("utf-16")),
    "Mac": (".obj", TEXT.replace("\n", "\r")),
    "Windows": (".obj", TEXT.replace("\n", "\r\n")),
    "comments": (".obj", ("# C:\\a\\\n" + TEXT.replace("\n", " # f 1 2 3\n"))),
    "Latin-1": (".obj", ("# Würfelgröße…\n" + "o KÅ\x85f 1 2 3\n" + TEXT).encode("latin-1", "replace")),
    "goes on": (".obj", TEXT.replace("f ", "f \\\n")),
    "names that end in a backslash": (".obj", TEXT.replace("\nf", "\nusemtl C:\\a\\\nf")),
    "what is beside": (".obj", ("mtllib a b\ns off\nvn 0 0 1\nvt 0 0\n" + TEXT + "l 1 2\np 1\ng f 1 2\n")),
    "references": (".obj", re.sub(r"f (\d+) (\d+) (\d+)", r"f \1/7/1 \2//1 \3", TEXT, count=100)),
    "numbers from the last backward": (".obj", re.sub(
        r"(?m)^f.*", lambda f: re.sub(r"\d+", lambda number: str(int(number[0]) - 163), f[0]), TEXT) + "\nv 0 0 0"),
    "colors": (".obj", re.sub("(v .*)", r"\1 0.5 0.5 0.5", TEXT)),
    "names": (".stl", STL.replace("solid", "solid vertex_facet outer", 1)),
    "tabs in STL": (".stl", STL.replace(" ", "\t").upper()),
    "two solids": (".stl", STL.replace("endfacet", "endfacet\nendsolid a\nsolid b", 1)),
    "GBK": (".stl", STL.replace("solid", "solid 零件", 1).encode("gbk")),
    "Mac STL": (".stl", STL.replace("\n", "\r").encode("utf-8-sig")),
    "a name that ends in a backslash in STL": (".stl", STL.replace("solid", "solid C:\\a\\", 1)),
    "a header's end in a comment": (".ply", PLY.replace("element v", "comment end_header\nelement v", 1)),
    "indented PLY": (".ply", PLY.replace("\n", "\n\t ")),
    "Mac PLY": (".ply", BINARY_PLY.replace(b"\n", b"\r", BINARY_PLY.partition(b"end_header")[0].count(b"\n") + 1)),
    "Latin-1 PLY": (".ply", PLY.replace("element vertex", "comment Größe\nelement vertex").encode("latin-1")),
    "ModelNet": (".off", OFF.replace("OFF\n", "OFF")),
    "comments in OFF": (".off", ("# Größe\n" + OFF.replace("\n", " # 1 2 3\n")).encode("latin-1")),
    "colors in OFF": (".off", re.sub(r"(\n3 .*)", r"\1 255 0 0", OFF)),
    "colors of corners in OFF": (".off", "\n".join(f"C{line}" if i == 0 else f"{line} 1 0 0 1" if 1 < i < 164 else line
                                                   for i, line in enumerate(OFF.splitlines()))),
    "a face twice": (".obj", (TEXT + "\n" + TEXT.splitlines()[-1] + "\n")),
    "a stray point": (".obj", (TEXT + "\nv 50 0 0\nf 163 163 163\n")),
    "a body as small as a point": (".obj", (TEXT + "\nv 9 0 0\nv 9 1e-9 0\nv 9 0 1e-9\nv 9.000000001 0 0\n" + "\n".join(
        f"f {a + 162} {b + 162} {c + 162}" for a, b, c in ((1, 3, 2), (1, 2, 4), (1, 4, 3), (2, 3, 4))))),
    "a line within": (".obj", (TEXT + "\nv 0 0 0\nv .1 0 0\nv .2 0 0\nf 163 164 165\n")),
}


@pytest.mark.parametrize("kind, content", FORMS.values(), ids=FORMS)
def test_the_same_body_however_it_is_written(kind, content, tmp_path):
    (tmp_path / f"mesh{kind}").write_bytes(content.encode() if isinstance(content, str) else content)
    (tmp_path / "plain.obj").write_text(TEXT)
    assert agree(voxelize(tmp_path / f"mesh{kind}", 40), voxelize(tmp_path / "plain.obj", 40), 1e-3)


def test_faces_of_any_number_of_corners(tmp_path):
    """An L-shaped prism, whose ends are not convex."""
    ends = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]
    text = "".join(f"v {x} {y} {z}\n" for z in (0, 1) for x, y in ends) + "f 6 5 4 3 2 1\nf 7 8 9 10 11 12\n"
    text += "".join(f"f {i + 1} {j + 1} {j + 7} {i + 7}\n" for i, j in ((i, (i + 1) % 6) for i in range(6)))
    (tmp_path / "l.obj").write_text(text)
    expected = np.ones((20, 20, 10), bool)
    expected[10:, 10:] = False
    assert np.array_equal(voxelize(tmp_path / "l.obj", 20), expected)


def unclear():
    """Meshes that do not tell what is inside, by what the message must say."""
    holed = ball()
    holed.update_faces(np.arange(len(holed.faces)) != 5)
    yield "not watertight.* 3 of its edges an odd", holed
    yield "not watertight", together(ball(), trimesh.Trimesh([[0, 0, 2], [1, 0, 2], [0, 1, 2]], [[0, 1, 2]]))
    yield "within a body that faces the same way", together(ball(), ball(0.6))
    yield "inward, and .* overlaps another", together(ball(), ball(0.9, (1, 0, 0), inward=True))
    yield "encloses nothing: a sheet", together(ball(), ball(1, (3, 0, 0)), ball(1, (3, 0, 0), True))
    turned = ball()
    turned.faces[::7] = turned.faces[::7, ::-1]
    yield "faces turned over", turned
    yield "flat", trimesh.Trimesh([[0, 0, 1], [1, 0, 1], [0, 1, 1]], [[0, 1, 2], [0, 2, 1]])
    yield "no voxel's center", together(ball(0.001), ball(0.001, (1, 0.9, 0.8)))


@pytest.mark.parametrize("said, mesh", [*unclear()])
def test_what_does_not_tell_its_inside_is_refused(said, mesh, tmp_path):
    with pytest.raises(UserError, match=f"mesh.stl .*{said}"):
        voxels_of(tmp_path, mesh, kind=".stl")


UNREADABLE = [  # files that are not read, or not in full, and what the message must say
    (".ply", BINARY_PLY[:-5], "unexpected length"), (".ply", b"ply\nformat ascii 1.0\n", "it is damaged"),
    (".ply", PLY.rstrip().rpartition("\n")[0], "481 lines for 482 elements"),
    (".ply", PLY.replace("element face", "element tristrips"), "vertex, tristrips"),
    (".stl", STL[:-20], "ends within a solid"), (".stl", STL.replace("vertex", "verteks", 1), "neither text of facets"),
    (".stl", ball().export(file_type="stl")[:-7], "nor a binary file of its length"),
    (".glb", b"glTF", "it is damaged"),
    *((".glb", GLB[:20] + change + GLB[20 + len(change):], f"has {change.decode()}, which is not read") for change in (
        b'"skins"', b'"sparse"', b'"targets"', b'"mode": 5', b'"KHR_draco_mesh_compression"')),
    (".off", OFF[:-20].rpartition("\n")[0], "not one line for each of 162 vertices and 320 faces"),
    (".off", OFF.replace("OFF", "4OFF"), "does not begin with OFF"),
    (".obj", "v 1,5 0 0\n", "could not convert"), (".obj", "v 0 0 0\n", "it has no faces"),
    *((".obj", TETRAHEDRON.replace("f 1 3 2", face), said) for face, said in (
        ("fo 1 3 2", "begins with 'fo'"), ("f 1 3", "fewer than three"), ("f 0 3 2", "number 0"),
        ("f 1 3 9", "that is not there"), ("v nan 0 0\nf 1 3 5", "not finite"))),
]


@pytest.mark.parametrize("kind, content, said", UNREADABLE)
def test_what_cannot_be_read_in_full_is_refused(kind, content, said, tmp_path):
    (tmp_path / f"mesh{kind}").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=f"mesh{kind} .*{re.escape(said)}") as caught:
        load_volume(str(tmp_path / f"mesh{kind}"), tmp_path)
    assert "\n" not in str(caught.value)
