"""Surfaces of volumes, their distance and their pictures."""

import numpy as np
import pytest
import trimesh
from conftest import ball

from harness.figures import busiest_window
from harness.meshes import extract_mesh, look_at, render, render_with_close_up, surface_distance, write_mesh


def test_a_surface_is_closed_and_where_the_voxels_are():
    volume = ball(12)
    mesh = extract_mesh(volume)
    assert mesh.is_watertight and mesh.volume == pytest.approx(volume.sum(), rel=0.02)
    assert mesh.centroid == pytest.approx([20, 20, 20], abs=0.01)
    assert ((mesh.face_normals * (mesh.triangles_center - 20)).sum(1) > 0).all()  # outward
    box = extract_mesh(np.ones((4, 5, 6), bool))  # touches every face of its volume
    assert box.is_watertight and box.bounds == pytest.approx(np.array([[-0.5] * 3, [3.5, 4.5, 5.5]]))
    assert len(extract_mesh(np.zeros((4, 4, 4), bool)).faces) == 0

    def roughness(mesh):
        return np.linalg.norm(mesh.vertices - 20, axis=1).std()
    smooth = extract_mesh(volume, smooth=1.0)
    assert smooth.is_watertight and roughness(smooth) < roughness(mesh) / 2


def test_the_distance_of_surfaces():
    truth = extract_mesh(ball(12))
    assert surface_distance(truth, truth) == (0, 1)
    chamfer, f_score = surface_distance(extract_mesh(ball(15)), truth)
    assert chamfer == pytest.approx(3, abs=0.2) and f_score == 0
    chamfer, f_score = surface_distance(extract_mesh(ball(12, center=(21, 20, 20))), truth)
    assert 0.2 < chamfer < 0.8 and f_score == 1
    assert surface_distance(trimesh.Trimesh(), truth) is None


def test_a_rendering_shows_the_nearest_face_without_holes():
    mesh = extract_mesh(ball(10))
    camera = look_at(30, 20)
    assert np.allclose(camera @ camera.T, np.eye(3)) and np.linalg.det(camera) == pytest.approx(1)
    picture = render(mesh, camera, np.array([20.0, 20, 20]), 30, 24, 3)
    assert picture.shape == (72, 90, 3)
    rows, columns = np.meshgrid(np.arange(72) - 35.5, np.arange(90) - 44.5, indexing="ij")
    radius = np.hypot(rows, columns) / 3
    assert (picture[radius < 9.5] < 0.99).all() and (picture[radius > 11.5] == 1).all()
    # A small ball in front of a large one is seen, one behind it is not.
    front, behind = (extract_mesh(ball(14, 60) | ball(4, 60, tuple(np.rint(30 + side * 22 * camera[2]).astype(int))))
                     for side in (1, -1))
    alone, with_front, with_behind = (render(mesh, camera, np.array([30.0, 30, 30]), 30, 30, 3)
                                      for mesh in (extract_mesh(ball(14, 60)), front, behind))
    assert np.abs(with_front - alone).max() > 0.2 and np.abs(with_behind - alone).max() < 1e-6
    for up in range(3):  # the axis upward is upward in the picture
        assert look_at(120, 15, up)[1, up] > 0.9


def test_a_close_up_is_the_window_at_four_times_the_size():
    meshes = [extract_mesh(ball(14)), extract_mesh(ball(12))]
    for first in (meshes, meshes[::-1]):
        picture, window, close = render_with_close_up(first, (-60, 25, 2), pixels=96)
        assert len(close) == 2 and picture.shape[1] == 96
        near, crop = close[0], picture[window]
        assert np.abs(np.subtract(near.shape[:2], 4 * np.array(crop.shape[:2]))).max() <= 4
        rows, columns = (min(a, b // 4) for a, b in zip(crop.shape[:2], near.shape[:2]))
        blocks = near[:4 * rows, :4 * columns].reshape(rows, 4, columns, 4, 3).mean((1, 3))
        assert np.abs(blocks - crop[:rows, :columns]).mean() < 0.02 and blocks.std() > 0.2
        assert window == busiest_window(picture)
        again = render_with_close_up([first[0], first[0]], (-60, 25, 2), pixels=96)[2]
        assert np.array_equal(again[1], near)  # of the others the same part is shown


def test_a_surface_is_written_and_an_empty_one_has_no_file(tmp_path):
    mesh = extract_mesh(ball(3, 9))
    write_mesh(mesh, tmp_path / "a.ply")
    found = trimesh.load(tmp_path / "a.ply")
    assert len(found.faces) == len(mesh.faces) and found.bounds == pytest.approx(mesh.bounds)
    write_mesh(trimesh.Trimesh(), tmp_path / "a.ply")
    assert not list(tmp_path.iterdir())
