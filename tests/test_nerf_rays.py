"""Rays and the boxes they cross; the samples along them are tested with the fields that take them."""

import numpy as np
import pytest
import torch

from models.nerf.rays import RayDataset, box_intersection, uniform_samples


def test_box_intersection():
    lower, upper = torch.tensor([-1.0, -2, -3]), torch.tensor([1.0, 2, 3])
    origins = torch.tensor([[-5.0, 0, 0], [0, 0, 0], [0, 0, 9], [-1, -5, 1], [5, 5, 5], [0, 9, 0], [-5, 0, 0]])
    directions = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 0, -1], [0, 1, 0], [0, 0, -1], [0, 1, 0], [0, 1, 0]])
    for near, starts, ends in ((0.5, [2, 0.5, 6, 3], [3, 2, 12, 7]), (2.5, [2.5, 2.5, 6, 3], [3, 2.5, 12, 7])):
        t_min, t_max = box_intersection(origins, directions, lower, upper, near)
        assert t_min[:4].tolist() == pytest.approx(starts) and t_max[:4].tolist() == pytest.approx(ends)
        assert (t_max[4:] <= t_min[4:]).all()  # beside it, behind, beside it and parallel; the fourth is within a face


def test_samples_are_a_step_apart_and_before_the_end():
    t_min, t_max = torch.tensor([0.5, 2, 1, 3, 0]), torch.tensor([1.5, 2, 0, 3.1, 0.75])
    t, ray_index = uniform_samples(t_min, t_max, torch.tensor([0.3, 0.1, 0.1, 0.2, 0.25]))
    assert ray_index.tolist() == [0, 0, 0, 0, 3, 4, 4, 4]
    assert t.tolist() == pytest.approx([0.5, 0.8, 1.1, 1.4, 3, 0, 0.25, 0.5])


@pytest.mark.parametrize("bg_color", [1.0, 0.0])
def test_a_data_set_composites_its_pixels_and_knows_their_rays(bg_color):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 5, 7, 4), dtype=np.uint8)
    images[0, 0, :2, 3] = 0, 255
    turns = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(3)]
    poses = np.stack([np.column_stack([q * np.sign(np.linalg.det(q)), rng.normal(size=3)]) for q in turns])
    intrinsics = np.array([(6, 6, 3.5, 2.5), (5, 7, 4, 2), (8, 4, 3, 3)])
    dataset = RayDataset(torch.from_numpy(images), torch.from_numpy(poses), torch.from_numpy(intrinsics), bg_color)
    assert dataset.pixels == 3 * 5 * 7
    pixels = torch.randperm(dataset.pixels)
    for pixel, origin, direction, color in zip(pixels, *dataset.rays(pixels)):
        view, row, column = np.unravel_index(pixel.item(), (3, 5, 7))
        r, g, b, a = (images[view, row, column] / 255).tolist()
        assert color.tolist() == pytest.approx([c * a + (1 - a) * bg_color for c in (r, g, b)])
        x, y, z = poses[view, :, :3].T @ ((origin + 3 * direction).numpy() - poses[view, :, 3])  # in camera axes
        fx, fy, cx, cy = intrinsics[view]
        assert (fx * x / -z + cx, fy * -y / -z + cy, z) == pytest.approx((column + 0.5, row + 0.5, -3))
    assert dataset.rays(pixels[:0])[2].shape == (0, 3)
