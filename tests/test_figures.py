"""How figures are drawn and written, and what they leave alone."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import imageio.v3 as iio
import matplotlib
import numpy as np
import pytest
from conftest import ROOT
from matplotlib.figure import Figure

from data.errors import UserError
from harness import figures
from harness.records import Run


def draw_title(title, path, **options):
    figure = Figure(figsize=(3, 1))
    figure.suptitle(title, **options)
    figures.save(figure, path)


def lines(path):
    """The number of lines of text in a picture."""
    inked = (iio.imread(path)[..., 0] < 128).any(axis=1)
    return int(np.diff(inked.astype(int), prepend=0).clip(0).sum())


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
    assert {file.name for file in path.parent.iterdir()} == {"a.png", "a.pdf"}


@pytest.mark.parametrize("title, count", [
    ("aaa", 1), ("aaaaa " * 9, 2), ("$x^2$ costs $", 1), (r"$\frac$", 1),
    ("$ a wall has $ more _ than $ one fence " * 2, 3)])
def test_a_title_is_broken_where_it_is_wide_and_a_dollar_or_a_matplotlibrc_changes_nothing(title, count, tmp_path):
    """matplotlib itself measures a text that it wraps as mathematics, whatever it is told."""
    given = {"image.origin": "lower", "text.usetex": True, "savefig.bbox": "tight", "text.parse_math": True}
    with matplotlib.rc_context(given):
        figures.draw_each(partial(draw_title, title, tmp_path / "found.png"))
        assert all(matplotlib.rcParams[name] == value for name, value in given.items())
    figures.draw_each(partial(draw_title, title, tmp_path / "expected.png", parse_math=False))
    found, expected = (iio.imread(tmp_path / name) for name in ("found.png", "expected.png"))
    assert np.array_equal(found, expected) and lines(tmp_path / "found.png") == count


def test_pyplot_its_backend_and_its_settings_are_left_alone(tmp_path):
    program = """
import sys
import matplotlib.pyplot as plt
plt.switch_backend("svg")
plt.rcParams["font.size"] = 7
before = dict(plt.rcParams)
from harness import figures, meshes
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
    runs = [Run(Path("a"), "2d", "b", mode, 0, {}, {}, own)
            for mode, own in (("relu", {}), ("sin", {}), ("relu+fr", {}), ("relu+pe+fr", {}), ("relu+fr", {"lr": 0.1}))]
    figure, panels = figures.grid_by_backbone(runs, 2, 2)
    relu, sin, relu_fr, pe_fr, other = (axis.get_position() for axis in panels)
    assert relu.y0 == relu_fr.y0 == other.y0 and relu.x1 <= relu_fr.x0 < relu_fr.x1 <= other.x0
    assert relu.x0 == sin.x0 == pe_fr.x0 and len({place.y0 for place in (relu, sin, pe_fr)}) == 3
    assert len(figure.axes) == 9 and sum(axis.axison for axis in figure.axes) == 5


def test_curves_have_their_legend_and_are_smoothed(drawn):
    figure, axis = figures.curves("step", "PSNR (dB)")
    axis.plot([0, 10], [1, 2], label="a", **figures.line_style("sin+fr"))
    figures.save_curves(figure, "a title", Path("a.png"))
    assert drawn == {Path("a.png"): figure} and figure.get_suptitle() == "a title"
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a"]
    assert figures.line_style("sin")["color"] == axis.lines[0].get_color() and axis.lines[0].get_linestyle() == "-"
    assert figures.line_style("sin")["linestyle"] == "--"
    assert figures.smoothed(np.arange(9.0), 3)[1:-1] == pytest.approx(np.arange(1.0, 8))
    assert np.array_equal(figures.smoothed([1, 5], 0), [1, 5])
    assert (figures.seeds([3]), figures.seeds([0, 2])) == ("seed 3", "mean of seeds 0, 2")
