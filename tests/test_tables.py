"""The tables that are made from records."""

import json
from importlib import import_module

import pytest
from conftest import write_record

from experiment import published, tables
from experiment.errors import UserError
from experiment.records import Run


def test_means_spreads_gains_and_published_values(tmp_path):
    for seed, (plain, fr) in enumerate([(20.0, 22.0), (22.0, 25.0)]):
        write_record(tmp_path / "paper", "sin", seed, plain)
        write_record(tmp_path / "paper", "sin+fr", seed, fr)
    write_record(tmp_path / "quick", "sin+fr", 0, 40.0, steps=100)
    table = tables.images(tables.read_records(tmp_path))
    assert table.columns[3:8] == ["PSNR (dB)", "published", "FR gain", "best", "SSIM"]
    baseline, fr, quick = table.rows
    assert baseline == ["kodim05", "768 × 512, 10,000 steps", "sin", "21.00 ± 1.41", "33.05", "–", "22.00 ± 1.41",
                        "0.500 ± 0.000", "0 1", "cpu, fp32", "10"]
    assert fr[3:6] == ["23.50 ± 2.12", "34.64", "+2.50"]
    assert quick[3:6] == ["40.00", "–", "–"]  # no published value for another size, and no baseline in the same folder
    gaps = table.unmeasured
    assert [row[2] for row in gaps] == ["relu", "relu+fr", "relu+pe", "relu+pe+fr"]  # published, and not run here
    assert gaps[0] == ["kodim05", "768 × 512, 10,000 steps", "relu", tables.NOT_RUN, "17.31", *6 * ["–"]]


def test_a_batch_stands_beside_the_published_value_with_what_differs_and_its_own_growth(tmp_path):
    for seed in (0, 1):
        write_record(tmp_path / "a", "sin", seed, 40.0 + seed, batch=8_192)
    write_record(tmp_path / "a", "relu", 0, 17.0, batch=4_096)
    write_record(tmp_path / "b", "sin", 0, 41.0, batch=4_096)
    write_record(tmp_path / "c", "sin", 0, 42.0)
    write_record(tmp_path / "d", "sin", 0, 43.0, shape=[8, 8, 3])
    records = tables.read_records(tmp_path)
    table = tables.images(records)
    assert [row[1:5] for row in table.rows] == [  # the largest first
        ["768 × 512, 10,000 steps", "sin", "42.00", "33.05"],
        ["768 × 512, 10,000 steps of 8,192 pixels", "sin", "40.50 ± 0.71", "33.05 (all pixels a step)"],
        ["768 × 512, 10,000 steps of 4,096 pixels", "relu", "17.00", "17.31 (all pixels a step)"],
        ["768 × 512, 10,000 steps of 4,096 pixels", "sin", "41.00", "33.05 (all pixels a step)"],
        ["8 × 8, 10,000 steps", "sin", "43.00", "–"]]
    assert [row[2] for row in table.unmeasured] == ["relu", "relu+fr", "relu+pe", "relu+pe+fr", "sin+fr"]
    assert tables.batches(records) == tables.Table(
        ["network", "pixels a step", "1,000 steps", "3,000 steps", "3,500 steps", "4,000 steps", "5,000 steps",
         "10,000 steps"],
        [["relu", "4,096", "8.00", "10.00", "10.50", "11.00", "12.00", "17.00"],
         ["sin", "4,096", "32.00", "34.00", "34.50", "35.00", "36.00", "41.00"],
         ["sin", "8,192", *(f"{value} ± 0.71" for value in ("31.50", "33.50", "34.00", "34.50", "35.50", "40.50"))],
         ["sin", "all", "33.00", "35.00", "35.50", "36.00", "37.00", "42.00"]])


def test_the_thai_statue_at_its_own_size_stands_beside_the_later_works_value_with_its_recipe(tmp_path):
    for folder, mode, case, config in (
            ("a", "relu+pe", "thai_statue", {}), ("a", "relu+pe+fr", "thai_statue", {"hidden_lr": 0.5}),
            ("a", "relu+pe", "dragon", {}), ("b", "relu+pe+fr", "thai_statue", {"lr": 5e-3}),
            ("b", "relu+pe", "thai_statue", {"shape": [8, 8, 8]})):
        path = write_record(tmp_path / folder, mode, 0, 20.0, case,
                            **{**published.CONFIG_THAI_STATUE, "epochs": 4, "chunk": 10_000, **config})
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "experiment": "3d", "metrics": {"iou": 0.9, "chamfer": 1, "f_score": 1}}))
    table = tables.volumes(tables.read_records(tmp_path))
    size, recipe = "304 × 512 × 262", published.RECIPE_THAI_STATUE
    assert [row[:6] for row in table.rows] == [
        ["dragon", f"{size}, 4 epochs, 10,000 points a step", "relu+pe", "0.002", "0.9000", "–"],
        ["thai_statue", f"{size}, 4 epochs, 10,000 points a step", "relu+pe", "0.002", "0.9000", f"0.9897 ({recipe})"],
        ["thai_statue", f"{size}, 4 epochs, 10,000 points a step", "relu+pe+fr, hidden lr × 0.5", "0.002", "0.9000",
         "–"],
        ["thai_statue", f"{size}, 4 epochs, 10,000 points a step", "relu+pe+fr", "0.005", "0.9000", "–"],
        ["thai_statue", "8 × 8 × 8, 4 epochs, 10,000 points a step", "relu+pe", "0.002", "0.9000", "–"]]
    assert [row[:6] for row in table.unmeasured] == [
        ["thai_statue", size, "relu+pe+fr", "0.002", "no option for the published recipe", f"0.9929 ({recipe})"]]


def test_a_page_says_once_what_all_rows_share(tmp_path):
    for mode, psnr in (("sin", 20.0), ("sin+fr", 21.5)):
        write_record(tmp_path / "paper", mode, 0, psnr)
    table = tables.images(tables.read_records(tmp_path))
    assert tables.markdown(table).splitlines() == [
        "All rows: image kodim05, size 768 × 512, 10,000 steps.", "",
        "| network | PSNR (dB) | published | FR gain | best | SSIM | seeds | device | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| sin | 20.00 | 33.05 | – | 21.00 | 0.500 | 0 | cpu, fp32 | 10 |",
        "| sin+fr | 21.50 | 34.64 | +1.50 | 22.50 | 0.500 | 0 | cpu, fp32 | 10 |",
        *(f"| {mode} | {tables.NOT_RUN} | {published.PSNR_KODAK_05[mode]:.2f} | – | – | – | – | – | – |"
          for mode in ("relu", "relu+fr", "relu+pe", "relu+pe+fr"))]
    assert tables.markdown(tables.Table(["network", "loss"], [["sin", "1"], ["sin+fr", "1"]])).splitlines() == [
        "| network | loss |", "| --- | --- |", "| sin | 1 |", "| sin+fr | 1 |"]  # a result is said of each


def test_the_table_of_a_terminal(tmp_path, capsys):
    runs = [Run(tmp_path, "2d", "kodim05", mode, 0, {"network": {}, "steps": 100, "shape": [20, 30, 3]})
            for mode in ("sin", "sin+fr")]
    for run, psnr in zip(runs, (20.0, 21.5)):
        run.finish(metrics={"psnr": psnr, "psnr_best": psnr, "ssim": 0.5}, seconds=3, steps=100, arrays={})
    tables.print_table("images", runs)
    assert capsys.readouterr().out.splitlines() == [
        "", "image kodim05, size 30 × 20, 100 steps, seeds 0, device cpu, fp32",
        "network  PSNR (dB)  published  FR gain  best   SSIM   seconds",
        "sin      20.00      –          –        20.00  0.500  3",
        "sin+fr   21.50      –          +1.50    21.50  0.500  3"]


def test_the_gain_of_fr_is_over_the_same_settings_and_the_seeds_of_both(tmp_path):
    for seed, psnr in enumerate((20.0, 30.0)):
        write_record(tmp_path / "a", "sin", seed, psnr)
    # The learning rate and the basis may be others.
    write_record(tmp_path / "a", "sin+fr", 1, 33.0, lr=5e-3, network={"hidden_features": 256, "alpha": 0.1})
    write_record(tmp_path / "a" / "equal", "sin+fr", 0, 21.0, hidden_lr=0.3)
    write_record(tmp_path / "a" / "equal", "sin", 1, 29.0, hidden_lr=3.0)
    write_record(tmp_path / "a", "relu", 0, 10.0, steps=100)
    write_record(tmp_path / "a", "relu+fr", 0, 18.0)
    write_record(tmp_path / "a", "relu+pe", 0, 10.0)
    write_record(tmp_path / "a", "relu+pe+fr", 0, 18.0, network={"hidden_features": 128})
    gains = {row[2]: row[5] for row in tables.images(tables.read_records(tmp_path)).rows}
    assert gains == {**dict.fromkeys(("relu", "relu+fr", "sin", "sin, hidden lr × 3", "relu+pe", "relu+pe+fr"), "–"),
                     "sin+fr, α 0.1": "+3.00", "sin+fr, hidden lr × 0.3": "+1.00"}  # their names say so


def test_other_steps_of_the_hidden_weights_are_named_and_have_no_published_value(tmp_path):
    for folder, mode, config in (("a", "sin", {"hidden_lr": 0.5}),
                                 ("a", "sin+fr", {"network": {"hidden_features": 256, "alpha": 0.02}}),
                                 ("b", "sin+fr", {"network": {"hidden_features": 256, "alpha": 0.01}})):
        write_record(tmp_path / folder, mode, 0, 20.0, **config)
    rows = [row[2:5] for row in tables.images(tables.read_records(tmp_path)).rows]
    assert rows == [["sin, hidden lr × 0.5", "20.00", "–"], ["sin+fr, α 0.02", "20.00", "–"],
                    ["sin+fr", "20.00", "34.64"]]


def test_the_largest_size_is_of_one_case_and_folder_and_of_those_with_more_points_a_step(tmp_path):
    for folder, case, settings in (("a", "kodim05", {"shape": [8, 8, 3]}), ("b", "kodim05", {"shape": [9, 9, 3]}),
                                   ("c", "kodim05", {"shape": [9, 9, 3], "steps": 20_000}),
                                   ("a/equal", "kodim05", {"shape": [9, 9, 3], "steps": 20_000, "hidden_lr": 0.5}),
                                   ("c", "other", {"shape": [9, 9, 3], "steps": 15_000}),
                                   ("d", "kodim05", {"shape": [9, 9, 3], "steps": 20_000, "batch": 40})):
        for mode in ("sin", "sin+fr"):
            write_record(tmp_path / folder, mode, 0, 20.0, case, **settings)
    records = tables.read_records(tmp_path)
    chosen = {(record["set"], record["case"], record["mode"]) for record in tables.largest(records, "2d")}
    assert chosen == {("c", "kodim05", "sin"), ("c", "kodim05", "sin+fr")}
    seeds = [*records, *({**record, "seed": 1} for record in records if record["set"] == "d")]
    assert {record["set"] for record in tables.largest(seeds, "2d")} == {"c"}  # not d for its seeds
    more = [*records, {**records[-1], "mode": "relu"}]  # of d, which then has more networks than c, of all pixels
    few = [{**record, "set": "e", "config": {**record["config"], "batch": 20}} for record in more
           if record["set"] == "d"]
    assert {(record["set"], record["mode"]) for record in tables.largest([*more, *few], "2d")} == {
        ("c", "sin"), ("c", "sin+fr"), ("d", "sin"), ("d", "sin+fr"), ("d", "relu")}
    small = [{**record, "mode": mode, "case": "small", "config": {**record["config"], "shape": [2, 2, 3]}}
             for record in records if record["set"] == "c" for mode in ("sin", "relu")]
    assert {(record["set"], record["case"]) for record in tables.largest([*records, *small[:1]], "2d")} == {
        ("c", "kodim05")}
    three = [*records, *small, {**small[0], "mode": "sin+fr"}]  # the smaller case of c has more networks
    assert {(record["set"], record["case"]) for record in tables.largest(three, "2d")} == {("c", "small")}
    assert tables.largest(records, "3d") == []


def test_the_status_has_each_experiment_with_the_papers_values_beside_ours(tmp_path):
    write_record(tmp_path / "quick", "sin", 0, 40.0, steps=100)
    for mode, psnr in (("sin", 20.0), ("sin+fr", 21.5), ("relu+fr", 10.0)):
        write_record(tmp_path / "paper", mode, 0, psnr)
    for mode, psnr in (("sin", 19.0), ("sin+fr", 19.5), ("relu", 16.0), ("relu+fr", 17.0), ("relu+pe", 18.0)):
        write_record(tmp_path / "batch", mode, 0, psnr, batch=4_096)
    rows = tables.status(tables.read_records(tmp_path)).rows
    assert [row[0].split(",")[0] for row in rows] == ["1D function", *3 * ["2D"], "3D", "DVGO", "Instant-NGP"]
    assert "relu 1.79 → 0.25; " in rows[0][1]
    assert [row[1:] for row in rows[1:4]] == [
        ["Kodak 05: sin 33.05 → 34.64; relu+fr 18.33", "sin 20.00 → 21.50; relu+fr 10.00", "the paper's; cpu"],
        ["Kodak 05: relu 17.31 → 18.33; relu+pe 22.87 (all pixels a step)", "relu 16.00 → 17.00; relu+pe 18.00",
         "kodim05, 768 × 512, 10,000 steps of 4,096 pixels; cpu"],
        ["Kodak 05: relu+pe 22.87 → 26.78", "–", "–"]]
    assert rows[4][2:] == ["", "–"]
    assert rows[5][1].startswith("plain, lego: 34.65 (800 × 800, 20,000 iterations of 8,192 rays, no mask renewal")


def test_the_status_names_the_rates_where_those_of_fr_are_others(tmp_path):
    for mode, lr, iou in (("relu+pe", 2e-3, 0.5), ("relu+pe+fr", 2e-3, 0.625), ("sin", 5e-4, 0.75),
                          ("sin+fr", 5e-3, 0.0)):
        path = write_record(tmp_path / "a", mode, 0, 20.0, "dragon", shape=[8, 8, 8], epochs=4, chunk=100, lr=lr)
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "experiment": "3d", "metrics": {"iou": iou}}))
    row = next(row for row in tables.status(tables.read_records(tmp_path)).rows if row[0].startswith("3D"))
    assert row[2] == "relu+pe 0.5000 → 0.6250; sin 0.7500 (lr 0.0005) → 0.0000 (lr 0.005)"


def test_the_coarse_stage_belongs_to_no_network_and_a_damaged_record_is_named(tmp_path):
    write_record(tmp_path / "a", "coarse", 0, 20.0)
    assert tables.read_records(tmp_path) == []
    path = write_record(tmp_path / "a", "sin", 0, 20.0)
    path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": None}))
    with pytest.raises(UserError, match="sin-seed0.json is damaged"):
        tables.read_records(tmp_path)


@pytest.mark.parametrize("script, wanted, options", [
    ("1d_function_fitting", published.CONFIG_1D, []), ("2d_image_fitting", published.CONFIG_KODAK_05, []),
    ("dvgo", published.CONFIG_DVGO, ["--no-mask-renew", "--no-act-decay"]),
    ("InstantNGP", published.CONFIG_NGP, ["--epochs", "20", "--rays", "16384", "--lr", "2e-2"])])
def test_a_run_at_the_published_settings_stands_beside_the_published_value(script, wanted, options):
    module = import_module(script)
    if options:
        run, = module.plan(module.parse(["--scene", "toy", "--modes", "relu", *options]))
        config = run.config
    else:
        config = {"shape": wanted.get("shape"), **module.PAPER["relu"]}
    assert published.at(wanted, config) and not published.at(wanted, {**config, "lr": 0.5})
