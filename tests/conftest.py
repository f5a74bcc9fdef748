"""What several test files share: running a script, where it leaves its files, small volumes and scenes."""

import copy
import functools
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from data.scenes import load_scene
from harness import cli
from harness.records import Run
from models.nerf.rays import RayDataset

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("FR_INR_DATA", ROOT / "data"))  # where tests of the real data sets look for them


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA GPU"))


@functools.cache
def toy_scene():
    """The toy scene at 16 × 16 pixels."""
    return load_scene("toy", Path("nowhere"), 8)


def plan_runs(name, *options, case="a"):
    """The runs that a script would train with some options on a CPU, on data of the test's own."""
    script = import_module(name)
    args = script.parse(["--device", "cpu", *options])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("3D_occupance"), "load_volume", lambda source, *_: (source, ball(20, side=44)))
        if name == "1d_function_fitting":
            data = []
        elif name == "3D_occupance":
            data = [script.load(args)]
        else:
            data = [{case: np.zeros((2, 3, 3), np.float32)} if name[0] == "2" else replace(toy_scene(), name=case)]
        return script.plan(args, *data)


def folders(path):
    """The options that make a script write below `path`, on a CPU."""
    return "--results", path / "results", "--figures", path / "figures", "--device", "cpu"


def toy_options(path, *more):
    """The options of a radiance field's script, on the toy scene at 32 × 32 pixels."""
    return "--quick", "--downscale", 4, *folders(path), "--data", "nowhere", *more


def run_main(script, quick, arguments):
    """Run a script in this process with other settings for --quick; for the fixture of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "QUICK", quick)
        patch.setattr("harness.sweep.cpu_count", lambda: 1)
        patch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
        script.main()


def stem(path, experiment, case, name, options="quick", seed=0):
    """The path, but for the suffix, of what a run with `folders(path)` leaves; `name`: its mode and own settings."""
    return path / "results" / experiment / case / options / f"{name}-seed{seed}"


def beside(stem, suffix):
    """A file of a run. (`with_suffix` would cut a name at the point of a number in it.)"""
    return stem.with_name(stem.name + suffix)


def record(*run, **options):
    """The record of a run, as `stem`."""
    return json.loads(beside(stem(*run, **options), ".json").read_text())


def assert_same_run(found, expected):
    """That two runs, each given by its `stem`, have left the same numbers, to the bit."""
    records = [json.loads(beside(run, ".json").read_text()) for run in (found, expected)]
    assert records[0]["metrics"] == records[1]["metrics"] and records[0]["config"] == records[1]["config"]
    arrays = [np.load(beside(run, ".npz")) for run in (found, expected)]
    assert arrays[0].files == arrays[1].files
    assert all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0].files)
    if beside(expected, ".pt").exists():
        fields = [torch.load(beside(run, ".pt"), weights_only=True)["field"] for run in (found, expected)]
        assert fields[0].keys() == fields[1].keys()
        assert all(value.equal(fields[1][name]) if isinstance(value, torch.Tensor) else value == fields[1][name]
                   for name, value in fields[0].items())


def write_record(folder, mode, seed, psnr, case="kodim05", options=None, own=None, **config):
    """Write a record of the 2D experiment at the paper's size, or at what `config` says; returns its path."""
    run = Run(folder, "2d", case, mode, seed, {
        "network": {"hidden_features": 256}, "steps": 10_000, "batch": None, "decay_at": 3_000, "downscale": 1,
        "shape": [512, 768, 3], "lr": 1e-4, "hidden_lr": 1.0, **config}, options or {}, own or {})
    origin = {"time": {"train_seconds": 10.0 + seed}, "environment": {"device": "cpu"}, "command": ""}
    run.write(origin, {"psnr": psnr, "ssim": 0.5}, {})
    return run.path(".json")


def ball(radius, side=40, center=None):
    """The voxels of a cube, `side` of them a side, that are within `radius` of its middle or `center`."""
    axes = np.meshgrid(*[np.arange(side)] * 3, indexing="ij")
    return sum((axis - place) ** 2 for axis, place in zip(axes, center or [side // 2] * 3)) <= radius**2


def camera_at(position, target):
    """The camera-to-world pose (3, 4) of a camera that looks at a target; OpenGL's axes, z up in the world; float64."""
    position, target, up = (torch.tensor(x, dtype=torch.float64) for x in (position, target, (0, 0, 1)))
    back = torch.nn.functional.normalize(position - target, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back), dim=0)
    return torch.stack([right, torch.linalg.cross(back, right), back, position], dim=1)


def matrix(number):
    """The pose of a camera that looks at the origin."""
    return np.concatenate([camera_at((number, 2, 3), (0, 0, 0)).numpy(), [[0, 0, 0, 1]]])


def write_views(folder, split, images, **content):
    """One split of a scene: images by their file_path, cameras around the origin, and more of the transforms file."""
    frames = []
    for i, (file, image) in enumerate(images.items()):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        iio.imwrite(path.with_suffix(path.suffix or ".png"), image)
        frames.append({"file_path": file, "transform_matrix": matrix(i).tolist()})
    (folder / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames, **content}))


def write_scene(folder, height=10, width=14):
    """Three train and two test views; returns the images of both."""
    images = np.random.default_rng(0).integers(0, 256, (5, height, width, 4), dtype=np.uint8)
    for split, of_split in (("train", images[:3]), ("test", images[3:])):
        write_views(folder, split, {f"./{split}/r_{i}": image for i, image in enumerate(of_split)})
    return images[:3], images[3:]


def some_rays(count, dtype=torch.float32, half_extent=0.5):
    """Rays of different lengths from outside and inside; some miss the cube [−h, h]³ and some run along the axes."""
    torch.manual_seed(1)
    origins = torch.randn(count, 3, dtype=dtype)
    directions = (0.8 * (torch.rand(count, 3, dtype=dtype) - 0.5) - origins) * (0.5 + torch.rand(count, 1, dtype=dtype))
    origins[:6] = torch.tensor([[-1, 0.1, 0.2], [0.1, 0.2, 3], [0, 0.1, 0.2], [0.3, -0.2, -0.1], [2, 0, 0], [0, 0, -1]])
    directions[:6] = torch.tensor([[1, 0, 0], [0, 0, -0.7], [0, 1, 0], [1, 1, -1], [0, 1, 0], [1e-20, 0, -1]])
    return origins * 2 * half_extent, directions * 2 * half_extent


def run_script(name, *arguments, **options):
    """Run a script of the project as a user does; returns the finished process with its output as text."""
    return subprocess.run([sys.executable, name, *map(str, arguments)], cwd=ROOT, text=True, capture_output=True,
                          timeout=300, check=False, **options)


def copied_to_a_gpu(field, rays):
    """A copy of a field on the GPU, which renders rays (origins, directions) and has gradients as on the CPU."""
    on_gpu = copy.deepcopy(field).cuda()
    renderings = field(*rays), on_gpu(*(x.cuda() for x in rays))
    assert all(torch.allclose(got.cpu(), expected, atol=1e-9) for got, expected in zip(renderings[1], renderings[0]))
    for rendering in renderings:
        rendering.color.square().sum().backward()
    for got, expected in zip(on_gpu.parameters(), field.parameters()):
        assert torch.allclose(got.grad.cpu().to_dense(), expected.grad.to_dense(), rtol=1e-6, atol=1e-9)
    return on_gpu


@contextmanager
def ended_at_checkpoint(number=1):
    """Within it a training ends its process, with status 9, after so many checkpoints; yields their modes and steps."""
    written, write = [], Run.checkpoint

    def checkpoint(run, step, **state):
        write(run, step, **state)
        written.append((run.mode, step))
        if len(written) == number:
            sys.exit(9)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "checkpoint", checkpoint)
        yield written


@contextmanager
def before_each_step(look):
    """Within it `look` is called with every optimizer before each of its steps."""
    def hook(optimizer, *_):
        look(optimizer)

    handle = register_optimizer_step_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a script in this process, which saves the seconds that a new one takes to import torch; as `run_script`."""
    def run(name, *arguments):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        status, threads = 0, torch.get_num_threads()
        try:
            cli.run(import_module(name.removesuffix(".py")).main)
        except SystemExit as stopped:
            status = stopped.code
        assert torch.get_num_threads() == threads
        captured = capsys.readouterr()
        return SimpleNamespace(returncode=status, stdout=captured.out, stderr=captured.err)
    return run


@pytest.fixture
def refused(call):
    """Run a script, as `call`, that has to end with status 2 and one line on stderr; returns that line."""
    def run(name, *arguments):
        done = call(name, *arguments)
        assert done.returncode == 2, done.stdout
        line, = done.stderr.strip().splitlines()
        assert line.startswith("error: ")
        return line
    return run


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would have been written, by path."""
    figures = {}
    monkeypatch.setattr("harness.figures.save", lambda figure, path: figures.update({path: figure}))
    return figures


@pytest.fixture
def one_process(monkeypatch):
    """No processes beside this one, in which a patched table of settings would be as it was."""
    monkeypatch.setattr("harness.sweep.cpu_count", lambda: 1)


@pytest.fixture
def folder(tmp_path):
    """A scene's folder."""
    write_scene(tmp_path / "box")
    return tmp_path / "box"


@pytest.fixture(scope="session")
def toy_rays():
    """The training views of the toy scene at 16 × 16 pixels, on white."""
    return RayDataset.from_views(toy_scene().train, 1.0, torch.device("cpu"))
