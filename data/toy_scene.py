"""A small scene computed here, so that a radiance field can be trained with nothing downloaded.

A round slab carries a box and three balls, all opaque, finely textured and glossy: the highlights move with the camera,
so that no field without view dependence can fit them. One directional light casts hard shadows. Everything lies within
1.33 of the origin. The cameras stand as those of NeRF's Blender scenes do. Points and directions have shape (3, rays)
here, directions have length 1."""

import math
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

RADIUS = 4.031  # of the cameras, about the origin
ANGLE_X = 0.6911112  # radians, the horizontal field of view
SIZE = 128  # pixels a side
TRAIN_VIEWS, TEST_VIEWS = 60, 8

LIGHT = np.array([[0.43], [-0.53], [0.73]], np.float32)  # direction towards it
LIGHT /= np.linalg.norm(LIGHT)
AMBIENT, DIFFUSE, SPECULAR, SHININESS = 0.4, 0.6, 0.6, 40


# Each solid is convex, so that a ray is in it from one distance to another, its `span`; it misses where the second is
# not above the first. `surface` gives the outward normals at points on it, and which of its two colors they have.

@dataclass(frozen=True)
class Ball:
    center: tuple
    radius: float
    stripes: int
    twist: float  # how many stripes the pattern turns from the equator to a pole
    colors: tuple

    def span(self, origin: ndarray, direction: ndarray) -> tuple[ndarray, ndarray]:
        offset = origin - column(self.center)
        return roots(1, dot(offset, direction), dot(offset, offset) - self.radius**2)

    def surface(self, point: ndarray) -> tuple[ndarray, ndarray]:
        normal = (point - column(self.center)) / self.radius
        stripe = np.arctan2(normal[1], normal[0]) * (self.stripes / (2 * math.pi)) + self.twist * normal[2]
        return normal, np.floor(stripe).astype(int) % 2


@dataclass(frozen=True)
class Box:
    center: tuple
    half: tuple  # of its edges
    angle: float  # radians, about the vertical
    cell: float  # of its checkers
    colors: tuple

    def span(self, origin: ndarray, direction: ndarray) -> tuple[ndarray, ndarray]:
        spans = [between(start, along, half) for start, along, half in zip(
            self.axes() @ (origin - column(self.center)), self.axes() @ direction, self.half)]
        return np.maximum.reduce([span[0] for span in spans]), np.minimum.reduce([span[1] for span in spans])

    def surface(self, point: ndarray) -> tuple[ndarray, ndarray]:
        local = self.axes() @ (point - column(self.center))
        face = (np.abs(local) / column(self.half)).argmax(0) == np.arange(3)[:, None]
        cells = np.floor(local / self.cell + 0.5).astype(int)  # the faces lie in the middle of cells
        return self.axes().T @ (face * np.sign(local)), cells.sum(0) % 2

    def axes(self) -> ndarray:
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float32)


@dataclass(frozen=True)
class Slab:
    """A low cylinder that stands upright, its axis through the origin."""
    height: float  # of its middle
    half: float
    radius: float
    cell: float
    colors: tuple

    def span(self, origin: ndarray, direction: ndarray) -> tuple[ndarray, ndarray]:
        low = between(origin[2] - self.height, direction[2], self.half)
        round_ = roots(dot(direction[:2], direction[:2]) + np.float32(1e-9), dot(origin[:2], direction[:2]),
                       dot(origin[:2], origin[:2]) - self.radius**2)
        return np.maximum(low[0], round_[0]), np.minimum(low[1], round_[1])

    def surface(self, point: ndarray) -> tuple[ndarray, ndarray]:
        side = np.hypot(point[0], point[1]) / self.radius > np.abs(point[2] - self.height) / self.half
        upright = np.concatenate([np.zeros_like(point[:2]), np.sign(point[2:] - self.height)])
        outward = point * column((1 / self.radius, 1 / self.radius, 0))
        return np.where(side, outward, upright), np.floor(point[:2] / self.cell).astype(int).sum(0) % 2


SOLIDS: tuple[Ball | Box | Slab, ...] = (
    Slab(-0.58, 0.06, 1.16, 0.145, ((0.93, 0.89, 0.80), (0.45, 0.29, 0.20))),
    Ball((-0.42, 0.22, 0.00), 0.52, 16, 4.0, ((0.86, 0.16, 0.13), (0.97, 0.93, 0.85))),
    Ball((0.02, -0.62, -0.26), 0.26, 10, 0.0, ((0.10, 0.32, 0.75), (0.95, 0.80, 0.20))),
    Ball((0.52, 0.26, 0.52), 0.20, 8, 3.0, ((0.55, 0.20, 0.60), (0.90, 0.75, 0.90))),
    Box((0.52, 0.26, -0.10), (0.28, 0.28, 0.42), 0.5, 0.14, ((0.15, 0.55, 0.35), (0.80, 0.90, 0.55))),
)


def column(vector: tuple) -> ndarray:
    return np.array(vector, np.float32)[:, None]


def dot(a: ndarray, b: ndarray) -> ndarray:
    return np.einsum("ir,ir->r", a, b)  # with one ray broadcast over the others


def roots(a: ndarray | int, b: ndarray, c: ndarray) -> tuple[ndarray, ndarray]:
    """The interval in which a t² + 2 b t + c ≤ 0, a > 0; (nan, nan) where there is none."""
    middle = -b / a
    with np.errstate(invalid="ignore"):
        reach = np.sqrt(middle**2 - c / a)
    return middle - reach, middle + reach


def between(offset: ndarray, slope: ndarray, half: float) -> tuple[ndarray, ndarray]:
    """The interval in which |offset + slope t| ≤ half."""
    slope = np.where(slope == 0, np.float32(1e-9), slope)
    middle, reach = -offset / slope, half / np.abs(slope)
    return middle - reach, middle + reach


def enter(solid: Ball | Box | Slab, origin: ndarray, direction: ndarray) -> ndarray:
    """The distance at which each ray, which starts outside, enters the solid; inf where it misses."""
    near, far = solid.span(origin, direction)
    return np.where((near < far) & (near > 1e-3), near, np.inf)  # 1e-3: a ray that starts on the solid leaves it


def render(pose: ndarray, focal: float, size: int) -> ndarray:
    """One view, uint8 RGBA (size, size, 4), alpha 0 or 255: a ray a pixel; for smooth edges render larger and average.

    `pose` (3, 4) is camera-to-world with OpenGL axes, `focal` in pixels.
    """
    pose = pose.astype(np.float32)
    across = (np.arange(size, dtype=np.float32) + np.float32(0.5 - size / 2)) / np.float32(focal)
    x, y = np.meshgrid(across, -across)
    direction = pose[:, :3] @ np.stack([x, y, -np.ones_like(x)]).reshape(3, -1)
    direction /= np.sqrt(dot(direction, direction))

    distance = np.stack([enter(solid, pose[:, 3:], direction) for solid in SOLIDS])  # (solids, rays)
    which = distance.argmin(0)
    hit = np.isfinite(distance.min(0))
    image = np.zeros((size * size, 4), np.uint8)
    for index, solid in enumerate(SOLIDS):
        seen = np.flatnonzero(hit & (which == index))
        point = pose[:, 3:] + distance[index, seen] * direction[:, seen]
        normal, color = solid.surface(point)
        albedo = np.array(solid.colors, np.float32)[color].T
        image[seen, :3] = np.rint(255 * shade(point, normal, albedo, -direction[:, seen])).T
        image[seen, 3] = 255
    return image.reshape(size, size, 4)


def shade(point: ndarray, normal: ndarray, albedo: ndarray, towards: ndarray) -> ndarray:
    """Blinn and Phong's reflection (Blinn, SIGGRAPH 1977) of the light, seen from direction `towards`; in [0, 1]."""
    cosine = np.maximum(dot(normal, LIGHT), 0)
    shadow = np.any([np.isfinite(enter(solid, point, LIGHT)) for solid in SOLIDS], axis=0)
    lit = (cosine > 0) & ~shadow
    halfway = LIGHT + towards
    halfway /= np.sqrt(dot(halfway, halfway))
    highlight = np.maximum(dot(normal, halfway), 0)**SHININESS
    return np.clip(albedo * (AMBIENT + DIFFUSE * cosine * lit) + SPECULAR * highlight * lit, 0, 1)


def cameras() -> tuple[ndarray, ndarray]:
    """Poses that look at the origin from a Fibonacci spiral on the upper hemisphere, for training, and between those
    for testing: camera-to-world with OpenGL axes, float32 (60, 3, 4) and (8, 3, 4)."""
    test = (np.arange(TEST_VIEWS) + 0.5) * (TRAIN_VIEWS / TEST_VIEWS)
    turns = np.concatenate([np.arange(TRAIN_VIEWS) + 0.5, test])
    height = turns / TRAIN_VIEWS
    azimuth = turns * math.pi * (3 - math.sqrt(5))
    level = np.sqrt(1 - height**2)
    back = np.stack([level * np.cos(azimuth), level * np.sin(azimuth), height], axis=-1)
    right = np.stack([-np.sin(azimuth), np.cos(azimuth), np.zeros_like(azimuth)], axis=-1)
    poses = np.stack([right, np.cross(back, right), back, RADIUS * back], axis=-1).astype(np.float32)
    return poses[:TRAIN_VIEWS], poses[TRAIN_VIEWS:]
