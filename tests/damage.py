"""Damage valid files at random and read them: every one is read, or refused in a line.

    python tests/damage.py --seconds 3600 --seed 1    says how many files were tried, and ends with status 1 on a fault

They are read in a process that may take 10 seconds of computing a file, and 2 GB. A fault is any other end than that
the file is read, or a UserError of one line.
"""

import argparse
import io
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import scipy.io
import tifffile
import trimesh
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.errors import UserError
from data.images import describe, load_image, read_image
from data.scenes import load_scene, near_far
from data.toy_scene import cameras
from data.volumes import load_volume

SECONDS, BYTES = 10, 2 << 30


def valid_files() -> dict[str, bytes]:
    """Small files of every kind that is read, by name."""
    rng = np.random.default_rng(0)
    rgba, deep = rng.integers(0, 256, (13, 17, 4), np.uint8), rng.integers(0, 65536, (13, 17), np.uint16)
    files = {}

    def save(name, image, kind, **options):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files[name] = buffer.getvalue()

    exif = Image.Exif()
    exif[274] = 6
    save("rgba.png", Image.fromarray(rgba), "PNG")
    save("gray.png", Image.fromarray(deep), "PNG")
    save("palette.png", Image.fromarray(rgba[..., 0] % 4, "P"), "PNG", transparency=1)
    save("a.jpg", Image.fromarray(rgba[..., :3]), "JPEG", exif=exif)
    save("a.webp", Image.fromarray(rgba), "WEBP", lossless=True)
    save("a.gif", Image.fromarray(rgba[..., 0]), "GIF")
    save("a.bmp", Image.fromarray(rgba[..., :3]), "BMP")
    save("a.ppm", Image.fromarray(rgba[..., :3]), "PPM")
    save("lzw.tif", Image.fromarray(rgba), "TIFF", compression="tiff_lzw")
    save("deflate.tif", Image.fromarray(deep), "TIFF", compression="tiff_deflate")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, rgba[..., :3], photometric="rgb", planarconfig="contig", tile=(16, 16))
    files["tiles.tif"] = buffer.getvalue()

    ball = trimesh.creation.icosphere(subdivisions=1)
    for kind in ("ply", "obj", "off", "stl", "stl_ascii"):
        content = ball.export(file_type=kind)
        files[f"{kind}.{kind[:3]}"] = content.encode() if isinstance(content, str) else content
    files["scene.glb"] = ball.export(file_type="glb")
    files["text.ply"] = trimesh.exchange.ply.export_ply(ball, encoding="ascii")
    full = np.linalg.norm(np.stack(np.meshgrid(*[np.linspace(-1, 1, 9)] * 3)), axis=0) < 0.8
    for name, values in (("bool.npy", full), ("fractions.npy", full.astype(np.float32) * 0.9)):
        buffer = io.BytesIO()
        np.save(buffer, values)
        files[name] = buffer.getvalue()
    for name, packed in (("plain.mat", False), ("packed.mat", True)):
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {"hypercube": full.astype(np.uint8), "name": "a"}, do_compression=packed)
        files[name] = buffer.getvalue()
    poses = np.concatenate([cameras()[0][:3], np.tile([[[0, 0, 0, 1]]], (3, 1, 1))], axis=1).tolist()
    files["transforms_train.json"] = json.dumps(
        {"camera_angle_x": 0.7, "fl_y": 23.0, "w": 17, "h": 13, "k1": 0, "frames": [
            {"file_path": f"./r_{i}", "transform_matrix": pose, "time": 0} for i, pose in enumerate(poses)]}).encode()
    return files


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A copy with one to four faults: cut off, bytes changed, parts moved, doubled or left out, numbers replaced."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        size = max(len(data), 1)
        start, length = rng.randrange(size), rng.choice([1, 2, 4, 8, rng.randrange(1, size + 1)])
        other = rng.randrange(size)
        match rng.randrange(8):
            case 0:
                del data[start:]
            case 1:
                del data[start:start + length]
            case 2:
                data[start:start + 1] = bytes([rng.randrange(256)])
            case 3:
                data[start:start + length] = rng.randbytes(length)
            case 4:
                data[start:start] = data[other:other + length]
            case 5:
                data[start:start + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"])
            case 6:
                data[start:start + length], data[other:other + length] = (
                    data[other:other + length], data[start:start + length])
            case 7:
                words = bytes(data).split(b" ")
                at = rng.randrange(len(words))
                words[at] = rng.choice([b"-1", b"0", b"1e999", b"nan", b"99999999999", b"", b"\n", words[-at]])
                data = bytearray(b" ".join(words))
    return bytes(data)


def read(path: Path) -> None:
    """What the scripts do with a file before they train."""
    if path.suffix == ".json":
        near_far(load_scene(str(path.parent), path.parent).train.poses)
    elif path.suffix in (".npy", ".mat", ".ply", ".obj", ".off", ".stl", ".glb"):
        load_volume(str(path), path.parent, 16)
    else:
        describe(*read_image(str(path), path.parent))
        load_image(str(path), path.parent)


def lay(files: dict[str, bytes], name: str, content: bytes, folder: Path) -> Path:
    """Write a file into a folder; what else a scene has beside a transforms file, and else no picture beside it."""
    for view in range(3):
        (folder / f"r_{view}.png").write_bytes(files["rgba.png"] if name.endswith(".json") else b"")
    (folder / "transforms_test.json").write_bytes(files["transforms_train.json"])
    (folder / name).write_bytes(content)
    return folder / name


def limit_memory() -> None:
    """Of the process that reads: BYTES more than it has; and libtiff does not print what is wrong."""
    memory = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (memory + BYTES,) * 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def fault_of(path: Path) -> str:
    """What goes wrong when a file is read, or nothing."""
    start = time.process_time()
    try:
        read(path)
    except UserError as error:
        if "\n" in str(error) or len(str(error)) >= 1000:
            return f"no one line: {error}"
    except Exception:  # noqa: BLE001
        return traceback.format_exc()
    seconds = time.process_time() - start
    return f"{seconds:.1f} seconds" if seconds > SECONDS else ""


def try_files(seed: int, seconds: float, keep: Path | None = None) -> tuple[int, list[str]]:
    """How many damaged files were read within so many seconds, and what went wrong."""
    context, files, faults = multiprocessing.get_context("fork"), valid_files(), []
    index, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory() as folder, context.Pool(1, limit_memory) as pool:
            fault = ""
            while time.monotonic() < end and not fault:
                rng = random.Random(f"{seed} {index}")
                name = rng.choice(sorted(files))
                path = lay(files, name, damaged(files[name], rng), Path(folder))
                try:
                    fault = pool.apply_async(fault_of, [path]).get(10 * SECONDS)
                except multiprocessing.TimeoutError:
                    fault = "the process ended, or does not end"
                index += 1
            if fault:
                faults.append(f"seed {seed}, number {index - 1}, {name}: {fault}")
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    path.replace(keep / f"{seed}-{index - 1}-{name}")
    return index, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the files that end in a fault")
    args = parser.parse_args()
    count, faults = try_files(args.seed, args.seconds, args.keep)
    print(*faults, f"{count:,} files, {len(faults)} faults", sep="\n")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
