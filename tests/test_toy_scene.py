"""The geometry of the toy scene, and how it is lit."""

import math
from pathlib import Path

import numpy as np
import pytest

from data import toy_scene
from data.scenes import FAR, NEAR, load_scene
from data.toy_scene import SOLIDS, Ball, Slab


@pytest.fixture(scope="module")
def toy():
    return load_scene("toy", Path("nowhere"), downscale=2)


def test_toy_is_the_same_each_time_and_scales():
    scenes = [load_scene("toy", Path("nowhere"), downscale=8) for _ in range(2)]
    for views, count, first in ((scenes[0].train, 60, "train_00"), (scenes[0].test, 8, "test_00")):
        assert views.images.shape == (count, 16, 16, 4) and views.images.dtype == np.uint8
        assert views.poses.shape == (count, 3, 4) and views.poses.dtype == np.float32
        assert views.intrinsics[0, 0] == pytest.approx(64 / math.tan(0.6911112 / 2) / 8)
        assert np.array_equal(views.intrinsics, [(views.intrinsics[0, 0], views.intrinsics[0, 0], 8, 8)] * count)
        assert len(set(views.names)) == count and views.names[0] == first
    for split in ("train", "test"):
        assert np.array_equal(*(getattr(scene, split).images for scene in scenes))
    assert not np.array_equal(scenes[0].train.images[0], scenes[0].train.images[1])


def test_toy_cameras_look_at_the_origin_from_the_upper_hemisphere(toy):
    poses = np.concatenate([toy.train.poses, toy.test.poses]).astype(float)
    turn, center = poses[:, :, :3], poses[:, :, 3]
    assert np.allclose(turn @ turn.transpose(0, 2, 1), np.eye(3), atol=1e-6) and (np.linalg.det(turn) > 0).all()
    assert np.allclose(center, 4.031 * turn[:, :, 2], atol=1e-5)  # looking along −z
    assert np.allclose(turn[:, 2, 0], 0, atol=1e-7) and (turn[:, 2, 1] > 0).all()  # level, and not upside down
    assert (center[:, 2] > 0).all()
    quadrants = (center[:60, 0] > 0) * 2 + (center[:60, 1] > 0)
    assert np.bincount(quadrants).min() >= 12
    angles = np.degrees(np.arccos((center[60:] @ center[:60].T / 4.031**2).clip(-1, 1)))
    assert 5 < angles.min() and angles.min(axis=1).max() < 20  # each test view has train views around it, none upon it


def inside(solid, points):
    """Whether points (n, 3) lie in a solid, by its definition."""
    if isinstance(solid, Slab):
        return (np.abs(points[:, 2] - solid.height) < solid.half) & (np.hypot(*points.T[:2]) < solid.radius)
    offset = points - solid.center
    if isinstance(solid, Ball):
        return (offset**2).sum(1) < solid.radius**2
    cos, sin = math.cos(solid.angle), math.sin(solid.angle)
    x, y, z = offset.T
    local = np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=1)
    return (np.abs(local) < solid.half).all(1)


@pytest.mark.parametrize("view", [0, 30, 59])
def test_toy_hits_are_those_of_a_march_along_the_ray(toy, view):
    pose, focal = toy.train.poses[view].astype(float), toy.train.intrinsics[0, 0]
    rows, columns = np.random.default_rng(view).integers(8, 56, (2, 100))
    camera = np.stack([(columns + 0.5 - 32) / focal, -(rows + 0.5 - 32) / focal, -np.ones(100)], 1)
    points = pose[:, 3] + np.arange(NEAR, FAR, 0.004)[:, None, None] * (camera @ pose[:, :3].T)
    hit = np.any([inside(solid, points.reshape(-1, 3)).reshape(-1, 100).any(0) for solid in SOLIDS], axis=0)
    agree = hit == (toy_scene.render(pose, focal, 64)[rows, columns, 3] == 255)
    assert agree.mean() >= 0.98 and 20 < hit.sum() < 100  # a step may miss an edge


def test_toy_surfaces_face_outwards():
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(3, 2000)).astype(np.float32)
    direction /= np.linalg.norm(direction, axis=0)
    for solid in SOLIDS:
        middle = np.array([[0], [0], [solid.height]] if isinstance(solid, Slab) else np.array(solid.center)[:, None])
        origin = (middle - 3 * direction).astype(np.float32)  # every ray goes through the middle
        point = origin + toy_scene.enter(solid, origin, direction) * direction
        normal, color = solid.surface(point)
        assert np.allclose(np.linalg.norm(normal, axis=0), 1, atol=1e-4) and set(color) == {0, 1}
        assert not inside(solid, (point + 1e-3 * normal).T).any() and inside(solid, (point - 1e-3 * normal).T).all()


def test_toy_is_lit_with_a_white_highlight_and_the_ball_s_shadow():
    (slab, ball), up, albedo = SOLIDS[:2], np.array([[0], [0], [1.0]]), np.array([[0.1], [0.2], [0.3]])
    light, top = toy_scene.LIGHT[:, 0], slab.height + slab.half
    point = np.array([[4.5 * slab.cell], [-4.5 * slab.cell], [top]])  # out of every shadow
    matt = albedo * (toy_scene.AMBIENT + toy_scene.DIFFUSE * light[2])
    mirrored = toy_scene.LIGHT * [[-1], [-1], [1]]
    seen, elsewhere = (toy_scene.shade(point, up, albedo, towards) - matt for towards in (mirrored, -mirrored + 2 * up))
    assert seen == pytest.approx(toy_scene.SPECULAR) and elsewhere == pytest.approx(0, abs=0.01)
    below = np.array(ball.center) - light * (ball.center[2] - top) / light[2]
    assert np.allclose(toy_scene.shade(below[:, None], up, albedo, toy_scene.LIGHT), toy_scene.AMBIENT * albedo)


def test_toy_alpha_is_transparent_around_opaque_within_and_smooth_between(toy):
    images = np.concatenate([toy.train.images, toy.test.images])
    alpha = images[..., 3]
    assert (images[alpha == 0] == 0).all()
    for edge in (alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]):
        assert (edge == 0).all()  # the whole scene is in every picture
    assert ((alpha == 255).mean(axis=(1, 2)) > 0.2).all()
    assert set(np.unique(alpha)) == {round(255 * k / 9) for k in range(10)}
    assert images[alpha == 255][:, :3].std(axis=0).min() > 30
