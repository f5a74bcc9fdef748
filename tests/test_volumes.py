"""Volumes from files of all kinds, and the solids that need none."""

import hashlib
import struct
import zipfile

import numpy as np
import pytest
import scipy.io
import torch
from conftest import DATA

from data import volumes
from data.errors import UserError
from data.volumes import SOLIDS, downscaled, load_volume, read_mat, summary, voxel_coordinates

BLOB = np.zeros((9, 8, 7), np.uint8)
BLOB[2:7, 1:5, 3:6] = 255
BLOB[4, 3, 4] = 0


@pytest.mark.parametrize("name, values", [
    *(("blob.npy", values) for values in (BLOB, BLOB / 255, BLOB.astype(np.float32) / 300, (BLOB > 0).astype(np.int64),
                                          np.asfortranarray(BLOB), 7.5 * (BLOB > 0))),
    ("blob.mat", {"other": np.ones(3), "hypercube": BLOB}), ("packed.mat", {"blob": BLOB.astype(float)})])
def test_one_value_beside_0_is_full_and_the_box_is_kept_whole(name, values, tmp_path):
    if isinstance(values, dict):
        scipy.io.savemat(tmp_path / name, values, do_compression="packed" in name)
    else:
        np.save(tmp_path / name, values)
    case, volume = load_volume(str(tmp_path / name), tmp_path)
    assert case == name[:-4] and volume.dtype == bool and np.array_equal(volume, BLOB[2:7, 1:5, 3:6] > 0)


def test_an_archive_is_read_without_being_extracted(tmp_path, monkeypatch):
    scipy.io.savemat(tmp_path / "a.mat", {"hypercube": BLOB})
    folder = tmp_path / "data" / "occupancy"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "dragon.mat.zip", "w") as archive:
        archive.write(tmp_path / "a.mat", "../../ escaped.mat")
        archive.writestr("notes.txt", "nothing")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="checksum"):
        load_volume("dragon", tmp_path / "data")
    monkeypatch.setitem(volumes.SHA256, "dragon", hashlib.sha256((folder / "dragon.mat.zip").read_bytes()).hexdigest())
    assert load_volume("dragon", tmp_path / "data")[1].shape == (5, 4, 3)
    assert set(tmp_path.rglob("*")) == before


def test_a_missing_volume_says_where_it_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "URL", "http://127.0.0.1:9/{}.zip")  # nothing listens there
    with pytest.raises(UserError) as caught:
        load_volume("dragon", tmp_path)
    for part in ("http://127.0.0.1:9/dragon.zip", str(tmp_path / "occupancy" / "dragon.mat.zip"), "--shape gyroid"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", SOLIDS)
def test_solids(name, tmp_path):
    _, small = load_volume(name, tmp_path, 32)
    _, large = load_volume(name, tmp_path, 64)
    assert max(small.shape) <= 32 < max(large.shape) <= 64
    assert small.mean() == pytest.approx(large.mean(), rel=0.1) and 0.05 < large.mean() < 0.6


def test_downscaling_takes_the_nearest_voxel_and_crops():
    volume = np.zeros((9, 8, 7), bool)
    volume[[0, 4, 8], :, 0] = volume[4, 0, :] = True
    volume[[1, 3], 3, 3] = True  # falls between the voxels that are kept: 0, 4, 8 of 9; 0, 4, 7 of 8; 0, 6 of 7
    small = downscaled(volume, 3, "a")
    expected = np.zeros((3, 3, 2), bool)
    expected[:, :, 0] = expected[1, 0, 1] = True
    assert np.array_equal(small, expected)
    assert downscaled(volume, 1, "a") is volume
    volume[:] = False
    volume[1:3, 1:3, 1:3] = True
    with pytest.raises(UserError, match="a, downscaled by 3, is empty"):
        downscaled(volume, 3, "a")


def test_the_only_volume_of_a_mat_file_beside_anything_else(tmp_path, recwarn):
    others = {"name": "blob", "spacing": 0.5, "table": np.ones((3, 4)), "about": {"voxels": BLOB},
              "texts": np.full((2, 2, 2), "a"), "cells": np.full((2, 2, 2), 1, object)}
    scipy.io.savemat(tmp_path / "a.mat", {**others, "voxels": BLOB, "mask": BLOB[0]})
    with open(tmp_path / "a.mat", "ab") as file:  # a string array or a table, an object that scipy warns of
        parts = [struct.pack("<IIQQ", 6, 16, 17, 0), *(struct.pack("<II16s", 1, 12, name.ljust(12))
                                                       for name in (b"twelve_bytes", b"MCOS", b"string"))]
        file.write(struct.pack("<II", 14, sum(map(len, parts))) + b"".join(parts))
    assert np.array_equal(load_volume(str(tmp_path / "a.mat"), tmp_path)[1], BLOB[2:7, 1:5, 3:6] > 0)
    assert not recwarn.list


@pytest.mark.parametrize("order", ["C", "F"])
def test_fractions_are_full_from_one_half(order, tmp_path):
    values = np.random.default_rng(0).random((4, 5, 6))
    values[:, 1:4] = values[:, 1:4].round()  # as within a body and outside, away from its surface
    values[0, 0, 0], values[3, 4, 5], values[0, 4, 5] = 0, 1, 0.5
    np.save(tmp_path / "chances.npy", np.array(values, order=order))
    assert np.array_equal(load_volume(str(tmp_path / "chances.npy"), tmp_path)[1], values >= 0.5)
    np.save(tmp_path / "chances.npy", 0.4 * np.minimum(values, 0.2))
    with pytest.raises(UserError, match="empty: no voxel is full"):
        load_volume(str(tmp_path / "chances.npy"), tmp_path)


PLACES = np.stack(np.meshgrid(*[np.linspace(-1, 1, 12)] * 3, indexing="ij"))
DENSITY = np.exp(6 - 20 * (PLACES**2).sum(axis=0))  # as of a radiance field
DISTANCE = np.abs(np.linalg.norm(PLACES, axis=0) - 0.6) * 2


@pytest.mark.parametrize("values, said", [
    *[(np.resize(np.array(labels, kind), (6, 6, 6)), said) for kind in (np.uint8, np.int64, np.float32)
      for labels, said in (((0, 1, 3), "1 and 3"), ((1, 3), "1 and 3"), (range(200), "and 199"))],
    (DENSITY, "and 245"), (DENSITY.astype(np.float16), "density or a distance"), (DISTANCE, "density or a distance"),
    (DISTANCE / DISTANCE.max(), "density or a distance"), (np.clip(DISTANCE / 3, 0, 1), "density or a distance"),
    (np.where(BLOB > 0, 1.02, 0.1), "density or a distance")])
def test_labels_densities_and_distances_are_refused(values, said, tmp_path):
    np.save(tmp_path / "values.npy", values)
    with pytest.raises(UserError, match=f"values.npy has more than one value beside 0, .*{said}"):
        load_volume(str(tmp_path / "values.npy"), tmp_path)


def test_a_volume_in_one_line():
    volume = np.zeros((10, 20, 30), bool)
    volume[:5, :5, :5] = True
    assert summary("blob", volume) == "blob: 10 × 20 × 30 voxels, 2.08 % full"


CELLS = np.full((2, 2, 2), 1, object)
HDF5 = b"\x89HDF\r\n\x1a\n".ljust(200, b"\0")
ARRAYS = [  # that are no volume, and what the message must say
    (BLOB[0], "three dimensions"), (np.zeros((4, 4, 4)), "empty"), (np.ones((4, 4, 4)), "nothing to learn"),
    (np.where(BLOB > 0, np.nan, 1.0), "or not finite"), (-1.0 * BLOB, "negative or"),
    (np.zeros((0, 4, 4)), "between 1 and"), (BLOB[4:5], "2 a side"), (np.full((3, 3, 3), "text"), "of type"),
    (CELLS, "Python objects"), ({"hypercube": CELLS}, "0 arrays"), ({"a": BLOB, "b": BLOB}, "2 arrays"),
    ({"a": BLOB[0], "name": "blob"}, "0 arrays of three dimensions of numbers, and must have one")]
CONTENTS = [  # likewise, by file name
    ("h5py.mat", HDF5, "version 7.3"), ("junk.mat", b"junk" * 50, "junk.mat"), ("junk.npy", b"junk", "junk.npy"),
    ("matlab.mat", b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM".ljust(388, b"\0") + HDF5, "version 7.3"),
    ("empty.stl", b"", "empty.stl"), ("scan.nii", b"", "scan.nii"), ("text.txt", b"hello", "text.txt"),
    ("nowhere.npy", None, "not there"), ("", None, "a folder")]


@pytest.mark.parametrize("name, content, said", [
    *((f"a.{'mat' if isinstance(values, dict) else 'npy'}", values, said) for values, said in ARRAYS), *CONTENTS])
def test_what_is_no_volume_is_refused(name, content, said, tmp_path):
    path = tmp_path / name
    if isinstance(content, dict):
        scipy.io.savemat(path, content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(UserError, match=said):
        load_volume(str(path), tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "occupancy").exists(), reason="needs the published volumes")
def test_the_published_volumes():
    for name, shape, full in (("dragon", (360, 510, 228), 7_419_895), ("thai_statue", (304, 512, 262), 4_872_591)):
        case, volume = load_volume(name, DATA)
        assert (case, volume.shape, volume.sum()) == (name, shape, full)
    whole = read_mat(DATA / "occupancy" / "dragon.mat.zip")
    assert whole.shape == (512, 512, 512) and whole.dtype == np.uint8


def test_voxel_coordinates():
    shape = (3, 4, 5)
    found = voxel_coordinates(torch.arange(60), shape).reshape(3, 4, 5, 3)
    y, x, z = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in shape), indexing="ij")
    assert torch.allclose(found, torch.stack([x, y, z], dim=-1), atol=1e-6)
    last = 512**3 - 1
    assert voxel_coordinates(torch.tensor([last]), (512,) * 3).equal(torch.ones(1, 3))
