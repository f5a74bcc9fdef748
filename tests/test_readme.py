"""What the README and docs/ say is so: the example, the commands, the links, the numbers; and how long they are."""

import math
import re
import runpy
import shlex
from importlib import import_module

import numpy as np
import pytest
from conftest import ROOT

from harness.records import read_record
from harness.results import PUBLISHED_VALUES, published
from report.__main__ import with_tables
from report.tables import read_groups

PAGES = ["README.md", "CONTRIBUTING.md", "data/README.md",
         *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
TEXT = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
README = TEXT["README.md"]
RECORDS = ROOT / "records"

# The status table's rows: where the records of plain and FR lie, their network, the metric, what is missing.
KODAK, STATUE = "2d/kodim05/", "3d/thai_statue/epochs=4,batch=10000"
STATUS = {
    "1D function, ReLU: loss": ("1d/function", "relu", "loss"),
    "1D function, SIREN: loss": ("1d/function", "sin", "loss"),
    "Kodak 05, SIREN: PSNR in dB": (f"{KODAK}device=cuda", "sin", "psnr"),
    "Kodak 05, ReLU + PE: PSNR in dB": (f"{KODAK}device=cuda", "relu+pe", "psnr"),
    "Kodak 05, ReLU: PSNR in dB": (f"{KODAK}batch=32768,device=cuda", "relu", "psnr"),
    "Thai statue, ReLU + PE: IoU": (STATUE, "relu+pe", "iou"),
    "DVGO, lego: PSNR in dB": ("dvgo/lego/medium", "relu", "psnr"),
    "Instant-NGP, lego: PSNR in dB": ("ngp/lego/medium", "relu", "psnr"),
}


def records_of(folder, name):
    """The records of all seeds of a network, given by its name in the path."""
    return [read_record(path) for path in sorted((RECORDS / folder).glob(f"{name}-seed*.json"))]


def mean(folder, name, metric):
    return np.mean([record["metrics"][metric] for record in records_of(folder, name)])


def agrees(text, value):
    """Whether a number as it stands on a page is a value, rounded to as many digits."""
    return text == f"{value:.{len(text.partition('.')[2])}f}"


def status_rows():
    """The cells of the status table, by the first one."""
    table = README.split("## Status")[1].split("\n\n")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


def test_the_status_table_has_the_rows_that_are_checked():
    assert list(status_rows()) == list(STATUS)


@pytest.mark.parametrize("row", STATUS)
def test_each_number_of_the_status_table_is_that_of_a_record(row):
    (folder, mode, metric), (paper, here, state) = STATUS[row], status_rows()[row]
    names, of_network = (mode, f"{mode}+fr"), [records_of(folder, name) for name in (mode, f"{mode}+fr")]
    for name, records, text in zip(names, of_network, here.split(" → ")):
        assert agrees(text, mean(folder, name, metric)) if records else text == "not run"
    digits = len(paper.partition(" ")[0].partition(".")[2])
    first = of_network[1][0]
    if "→" in paper:  # of the paper, at these settings but for the pixels a step
        known = [published({**first, "mode": name}, metric, digits).split(" ")[0] for name in names]
        assert paper.split(" → ") == [f"{float(value):.{digits}f}" for value in known]
    seeds = re.search(r"(\d) seeds?", state)
    assert len(of_network[1]) == (int(seeds[1]) if seeds else 1)
    assert state.split()[0].strip(",:") == ("open" if not seeds else "reproduced" if all(of_network) else "half")
    if state.startswith("open"):
        assert state == f"open: {smaller(first)}"


def smaller(record):
    """What a run has less of than the paper's."""
    config = record["config"]
    if record["experiment"] == "2d":
        return f"{config['batch']:,} pixels a step instead of all {math.prod(config['shape'][:2]):,}"
    if record["experiment"] == "3d":
        paper = import_module("3D_occupance").PAPER
        return (f"{config['batch']:,} voxels a step instead of {paper['batch']:,}; {config['epochs']} epochs, not "
                f"{paper['epochs']}")
    views, side, *_ = config["scene"]["test"]
    text = f"{side} × {side} pixels, not {side * config['downscale']} × {side * config['downscale']}; "
    if record["experiment"] == "dvgo":
        assert 5 * config["steps"] == import_module("dvgo").PAPER["steps"]
        return text + f"a fifth of the steps; {views} of 200 test views"
    steps = [of["epochs"] * of["iterations"] for of in (config, import_module("InstantNGP").PAPER)]
    return text + f"{steps[0]:,} steps, not {steps[1]:,}; {views} of 200 test views"


def test_the_numbers_of_the_readmes_paragraphs_are_those_of_records():
    kodak = [mean(f"{KODAK}batch=8192", name, "psnr")
             for name in ("relu+pe", "relu+pe+fr", "relu+pe+fr,hidden_lr=0.06081")]
    statue = [mean(STATUE, name, "iou") for name in ("sin", "sin+fr", "sin+fr,lr=0.0005")]
    text = " ".join(README.split())
    for pattern, value in ((r"gains ([\d.]+) dB at equal learning rate", kodak[1] - kodak[0]),
                           (r"it gains ([\d.]+) dB", kodak[2] - kodak[0]),
                           (r"ends ([\d.]+) behind SIREN", statue[0] - statue[1]),
                           (r"and ([\d.]+) ahead at SIREN's", statue[2] - statue[0])):
        number, = re.findall(pattern, text)
        assert agrees(number, value)


def test_the_1d_records_agree_with_the_authors_as_the_page_says():
    page = " ".join(TEXT["docs/results.md"].split())
    loss, = (entry for entry in PUBLISHED_VALUES if entry["metric"] == "loss")
    assert all(mean("1d/function", mode, "loss") == pytest.approx(value, abs=0.015)
               for mode, value in loss["values"].items()) and "lie within 0.015 of it" in page
    maps, second = (entry["values"] for entry in PUBLISHED_VALUES if entry["metric"] == "relative_error")
    apart = max(np.abs(np.subtract(maps["relu+fr"][step], errors)).max() for step, errors in second["relu+fr"].items())
    assert f"lie up to {apart:.3f} apart".replace("0.", ".") in page
    for mode, steps in maps.items():
        for step, errors in steps.items():
            ours = [list({**metrics["relative_error_at"], "10000": metrics["relative_error"]}[step].values())
                    for metrics in (record["metrics"] for record in records_of("1d/function", mode))]
            assert np.mean(ours, axis=0) == pytest.approx(errors, abs=0.05) and "within .05 of the paper's" in page


def test_the_tables_are_those_of_the_records():
    page = TEXT["docs/results.md"]
    assert with_tables(page, RECORDS) == page, "python -m report makes them anew"
    for folders in re.findall(r"<!-- table: [a-z ]+ (\S+/.*?) -->", page):
        assert read_groups(RECORDS, folders.split())


def test_the_example_runs(tmp_path):
    example, = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    names = runpy.run_path(str(tmp_path / "example.py"))
    assert names["plain"](names["x"]).equal(names["model"](names["x"]))


def test_continuous_integration_runs_the_test_command():
    setup = [line for line in README.splitlines() if line.startswith(("python3 -m venv", ".venv/bin/pip"))]
    tests, = re.findall(r"`(.venv/bin/python -m pytest)`", README)
    assert " && ".join([*setup, tests]) in (ROOT / ".ci" / "run").read_text().splitlines()


def commands():
    """The scripts' commands on the pages: script and arguments."""
    found = []
    for text in TEXT.values():
        unfenced = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        quoted = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", unfenced)]
        fenced = [line for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
        for line in (*quoted, *fenced):
            if match := re.search(r"^(?:\S*python|torchrun) (?:\S+ )*?(\w+\.py)(.*)$", line):
                found.append((match[1], match[2].strip()))
    return sorted(set(found))


@pytest.mark.parametrize("script, options", commands())
def test_the_options_of_each_command_are_known(script, options):
    import_module(script.removesuffix(".py")).parse(shlex.split(options))


def test_every_script_has_a_command_to_try_and_one_of_the_paper():
    scripts = sorted(path.name for path in ROOT.glob("*.py") if path.name != "hubconf.py")
    tried = [script for script, options in commands() if options == "--quick"]
    assert sorted(tried) == scripts and {script for script, _ in commands()} == {*scripts}


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_are_there(page):
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)]+)\)", TEXT[page])
               if not target.startswith(("http://", "https://", "#"))]
    assert page != "README.md" or "figures/overview.png" in targets
    assert [target for target in targets if not ((ROOT / page).parent / target).exists()] == []


def test_the_pages_are_short():
    assert len(README.split()) <= 1_200 and len(README.splitlines()) <= 130
    assert sum(len(text.split()) for text in TEXT.values()) <= 7_000


@pytest.mark.parametrize("page", PAGES)
def test_no_sentence_has_more_than_25_words(page):
    text = re.sub(r"```.*?```|<!--.*?-->", "\n\n", TEXT[page], flags=re.DOTALL)
    prose = "\n".join("" if re.match(r"\||#|!\[| {4}|All rows: ", line) else line for line in text.splitlines())
    prose = re.sub(r"`[^`]*`|\[([^\]]*)\]\([^)]*\)", lambda found: found[1] or "Code", prose)
    sentences = [sentence for paragraph in re.split(r"\n\s*\n|\n- ", prose)
                 for sentence in re.split(r"(?<=[.?!])[)*\"]* +", " ".join(paragraph.split()))]
    assert [sentence for sentence in sentences if len(re.findall(r"\S*\w\S*", sentence)) > 25] == []
