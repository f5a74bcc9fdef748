"""How figures are drawn and written, and what they leave alone."""

import subprocess
import sys
from functools import partial

import imageio.v3 as iio
import matplotlib
import numpy as np
import pytest
from conftest import ROOT
from matplotlib.figure import Figure

from experiment import figures
from experiment.errors import UserError


def draw_title(title, path, **options):
    figure = Figure(figsize=(3, 1))
    figure.suptitle(title, **options)
    figures.save(figure, path)


def test_a_drawing_that_fails_costs_no_other_and_ends_in_one_error(tmp_path, capsys):
    def draw_nothing():
        raise KeyError("psnr")

    def draw_wrong(path):
        raise ValueError(f"two\nlines of {path.name}")

    path = tmp_path / "figures" / "a.png"
    with pytest.raises(UserError) as caught:
        figures.draw_each(draw_nothing, partial(draw_title, "a", path), partial(draw_wrong, path))
    assert str(caught.value) == ("the records are complete, but not all figures: draw_nothing: 'psnr'; "
                                 "draw_wrong: two lines of a.png")
    assert iio.imread(path).shape[:2] == (160, 480) and capsys.readouterr().out == f"wrote {path}\n"
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_a_title_wider_than_its_figure_goes_on_in_another_line(tmp_path):
    def inked(title):
        draw_title(title, tmp_path / "a.png")
        return (iio.imread(tmp_path / "a.png")[..., 0] < 128).any(axis=1)

    def lines(title):
        return int(np.diff(inked(title).astype(int), prepend=0).clip(0).sum())

    assert (lines("aaa"), lines(" ".join(9 * ["aaaaa"]))) == (1, 2)


@pytest.mark.parametrize("title", ["$x^2$ costs $", r"$\frac$"])
def test_a_dollar_in_a_title_is_drawn_as_it_is(title, tmp_path):
    before = matplotlib.rcParams["text.parse_math"]
    figures.draw_each(partial(draw_title, title, tmp_path / "found.png"),
                      partial(draw_title, title, tmp_path / "expected.png", parse_math=False))
    found, expected = (iio.imread(tmp_path / name) for name in ("found.png", "expected.png"))
    assert np.array_equal(found, expected) and found.min() < 100
    assert matplotlib.rcParams["text.parse_math"] == before


def test_pyplot_its_backend_and_its_settings_are_left_alone(tmp_path):
    program = """
import sys
import matplotlib.pyplot as plt
plt.switch_backend("svg")
plt.rcParams["font.size"] = 7
before = dict(plt.rcParams)
from experiment import figures, meshes
from pathlib import Path
figures.draw_each(lambda: figures.save_curves(figures.curves("x", "y")[0], "a", Path(sys.argv[1])))
assert plt.get_backend() == "svg" and not plt.get_fignums() and dict(plt.rcParams) == before
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "a.png"], cwd=ROOT, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").exists()


def test_the_crop_is_where_the_detail_is():
    image = np.zeros((40, 60, 3), np.float32)
    image[20:30, 30:45] = np.random.default_rng(0).random((10, 15, 3))
    rows, columns = figures.busiest_window(image)
    assert abs(rows.start - 20) <= 1 and abs(columns.start - 30) <= 1


def test_fr_stands_right_of_its_baseline():
    figure, panels = figures.grid_by_backbone(["relu", "sin", "relu+fr", "relu+pe+fr"], 2, 2)
    left, right = ({mode: panels[mode].get_position() for mode in modes}
                   for modes in (("relu", "sin"), ("relu+fr", "relu+pe+fr")))
    assert left["relu"].y0 == right["relu+fr"].y0 and left["relu"].x1 <= right["relu+fr"].x0
    assert left["relu"].x0 == left["sin"].x0 and right["relu+fr"].x0 == right["relu+pe+fr"].x0
    assert left["sin"].y1 <= left["relu"].y0 and len(figure.axes) == 6
    assert sum(axis.axison for axis in figure.axes) == 4


def test_a_title_names_the_seeds_and_what_is_not_the_papers():
    paper = {"lr": 1e-4, "steps": 10_000, "shape": [2, 3]}
    assert figures.title_suffix([3], False, paper, paper) == " (seed 3)"
    changed = {"lr": 0.5, "steps": 2_000, "shape": [4, 4], "chunk": 9}
    assert figures.title_suffix([0, 2], False, changed, paper) == (
        " (mean of seeds 0, 2, lr 0.5, steps 2,000, shape [4, 4])")
    assert figures.title_suffix([0], True, changed, paper) == " (seed 0, quick)"
