"""Volumes from files of all kinds, and the solids that need none."""

import zipfile

import numpy as np
import pytest
import scipy.io
import trimesh
from conftest import DATA

from data import volumes
from data.download import DataError
from data.volumes import SOLIDS, load_volume, read_mat, shorten

BLOB = np.zeros((9, 8, 7), np.uint8)
BLOB[2:7, 1:5, 3:6] = 255
BLOB[4, 3, 4] = 0


def test_the_box_is_kept_whole(tmp_path):
    np.save(tmp_path / "blob.npy", BLOB)
    scipy.io.savemat(tmp_path / "blob.mat", {"other": np.ones(3), "hypercube": BLOB})
    for name in ("blob.npy", "blob.mat"):
        case, volume = load_volume(str(tmp_path / name), tmp_path)
        assert case == "blob" and volume.dtype == bool and np.array_equal(volume, BLOB[2:7, 1:5, 3:6] > 0)


@pytest.mark.parametrize("values", [BLOB / 255, BLOB.astype(np.float32) / 300, (BLOB > 0), (BLOB > 0).astype(np.int64)])
def test_any_scale_of_values(values, tmp_path):
    np.save(tmp_path / "blob.npy", values)
    assert load_volume(str(tmp_path / "blob.npy"), tmp_path)[1].sum() == (BLOB > 0).sum()


def test_an_archive_is_read_without_being_extracted(tmp_path, monkeypatch):
    scipy.io.savemat(tmp_path / "a.mat", {"hypercube": BLOB})
    folder = tmp_path / "data" / "occupancy"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "dragon.mat.zip", "w") as archive:
        archive.write(tmp_path / "a.mat", "../../ escaped.mat")
        archive.writestr("notes.txt", "nothing")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="checksum"):
        load_volume("dragon", tmp_path / "data")
    monkeypatch.setitem(volumes.SHA256, "dragon", volumes.sha256(folder / "dragon.mat.zip"))
    assert load_volume("dragon", tmp_path / "data")[1].shape == (5, 4, 3)
    assert set(tmp_path.rglob("*")) == before


def test_a_missing_volume_says_where_it_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "URL", "http://127.0.0.1:9/{}.zip")  # nothing listens there
    with pytest.raises(DataError) as caught:
        load_volume("dragon", tmp_path)
    for part in ("http://127.0.0.1:9/dragon.zip", str(tmp_path / "occupancy" / "dragon.mat.zip"), "--shape gyroid"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", SOLIDS)
def test_solids(name, tmp_path):
    _, small = load_volume(name, tmp_path, 32)
    _, large = load_volume(name, tmp_path, 64)
    assert max(small.shape) <= 32 < max(large.shape) <= 64
    assert small.mean() == pytest.approx(large.mean(), rel=0.1) and 0.05 < large.mean() < 0.6


def test_shortening_takes_the_nearest_voxel_and_crops():
    volume = np.zeros((9, 8, 7), bool)
    volume[[0, 4, 8], :, 0] = volume[4, 0, :] = True
    volume[[1, 3], 3, 3] = True  # falls between the voxels that are kept: 0, 4, 8 of 9; 0, 7 of 8; 0, 6 of 7
    small = shorten(volume, 0.3, "a")
    expected = np.zeros((3, 2, 2), bool)
    expected[:, :, 0] = expected[1, 0, 1] = True
    assert np.array_equal(small, expected)
    assert shorten(volume, 1, "a") is volume
    volume[:] = False
    volume[1:3, 1:3, 1:3] = True
    with pytest.raises(DataError, match="a at a scale of 0.3 is empty"):
        shorten(volume, 0.3, "a")


@pytest.mark.parametrize("kind", [".ply", ".obj", ".stl", ".glb"])
def test_meshes_are_filled(kind, tmp_path):
    trimesh.creation.icosphere(subdivisions=3, radius=2.0).export(tmp_path / f"ball{kind}")
    case, volume = load_volume(str(tmp_path / f"ball{kind}"), tmp_path, 40)
    assert case == "ball" and 39 <= max(volume.shape) <= 42
    assert volume[20, 20, 20] and volume.mean() == pytest.approx(np.pi / 6, rel=0.08)


def broken(path):
    """Files that are no volume, by what the message must say."""
    cases = {"three dimensions": BLOB[0], "empty": np.zeros((4, 4, 4)), "nothing to learn": np.ones((4, 4, 4)),
             "not finite": np.where(BLOB > 0, np.nan, 1.0),
             "negative": -1.0 * BLOB, "between 1 and": np.zeros((0, 4, 4)),
             "at least 2": BLOB[4:5], "of shape": np.full((3, 3, 3), "text")}
    for number, (said, array) in enumerate(cases.items()):
        np.save(path / f"{number}.npy", array)
        yield path / f"{number}.npy", said
    np.save(path / "objects.npy", np.array([[[{}]]], dtype=object), allow_pickle=True)
    yield path / "objects.npy", "objects"
    cells = np.empty((2, 2, 2), dtype=object)
    cells[:] = 1
    scipy.io.savemat(path / "cells.mat", {"hypercube": cells})
    yield path / "cells.mat", "numbers"
    scipy.io.savemat(path / "two.mat", {"a": BLOB, "b": BLOB})
    yield path / "two.mat", "hypercube"
    for name, content in {"junk.mat": b"junk" * 50, "junk.npy": b"junk", "junk.ply": b"junk", "empty.stl": b"",
                          "points.ply": b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
                                        b"property float z\nend_header\n0 0 0\n", "text.txt": b"hello"}.items():
        (path / name).write_bytes(content)
        yield path / name, name
    yield path / "nowhere.npy", "not there"
    yield path, "a folder"


def test_what_is_no_volume_is_refused(tmp_path):
    for file, said in broken(tmp_path):
        with pytest.raises(DataError) as caught:
            load_volume(str(file), tmp_path)
        assert said in str(caught.value), (file, caught.value)


@pytest.mark.skipif(not (DATA / "occupancy").exists(), reason="needs the published volumes")
def test_the_published_volumes():
    for name, shape, full in (("dragon", (360, 510, 228), 7_419_895), ("thai_statue", (304, 512, 262), 4_872_591)):
        case, volume = load_volume(name, DATA)
        assert (case, volume.shape, volume.sum()) == (name, shape, full)
    whole = read_mat(DATA / "occupancy" / "dragon.mat.zip")
    assert whole.shape == (512, 512, 512) and whole.dtype == np.uint8
