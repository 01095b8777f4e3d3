"""store-engine sweep: what is run, what is skipped, what is printed."""

import csv
import json
from pathlib import Path

import pytest

from store_engine.cli.main import main
from store_engine.experiments import sweep

ROOT = Path(__file__).parents[2]
PLAN = f"""
configs = ["{ROOT}/configs/tiny.toml"]
ds_config = "{ROOT}/configs/zero0.json"
seeds = [0, 1]
[variants]
small = []
large = ["model.num_layers=3"]
broken = ["recommender.lr=9"]
"""


def row(trial):
    """What a trial gives here; the worse of two by validation is the better by the test."""
    better = trial.variant.name == "large"
    values = {"ndcg@10": 0.2 if better else 0.1, "recall@10": 0.3}
    rule = {"metrics": {"ndcg@10": 0.1111 if better else 0.2222, "recall@10": 0.5}, "baselines": {}}
    made = {
        "variant": trial.variant.name, "seed": trial.seed, "settings": trial.settings,
        "overrides": list(trial.variant.overrides), "minutes": {"total": 1.0}, "commit": "abc",
        "date": "2026-01-01", "dataset": "synthetic", "primary": "seen_allowed",
    }  # fmt: skip
    if trial.variant.name == "broken":
        return made | {"status": "failed", "error": "the loss is nan"}
    test = {"seen_left_out": rule, "seen_allowed": rule}
    return made | {"status": "finished", "validation": values, "test": test}


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Names of the trials that were run, in a folder with a plan."""
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text(PLAN)
    names = []

    def run(trial, launch, tick):
        tick("step 1")
        names.append(trial.name)
        return row(trial)

    monkeypatch.setattr(sweep, "run_trial", run)
    return names


def test_every_trial_is_run_once(ran, capsys):
    assert main(["sweep", "plan.toml"]) == 0
    assert ran == [f"{name}, seed {s}" for name in ("small", "large", "broken") for s in (0, 1)]
    out = capsys.readouterr().out
    assert out.index("large") < out.index("small")  # by validation
    assert "0.2000 ± 0.0000" in out
    assert "broken, seed 0 failed: the loss is nan" in out
    ran.clear()
    assert main(["sweep", "plan.toml"]) == 0
    assert ran == []


def test_what_failed_is_run_again_when_asked(ran):
    main(["sweep", "plan.toml", "--seeds", "1"])
    ran.clear()
    main(["sweep", "plan.toml", "--seeds", "1", "--retry"])
    assert ran == ["broken, seed 1"]


def test_other_settings_are_run_again(ran):
    main(["sweep", "plan.toml", "--variants", "large", "small"])
    ran.clear()
    Path("plan.toml").write_text(PLAN.replace("num_layers=3", "num_layers=4"))
    main(["sweep", "plan.toml", "--variants", "large", "small"])
    assert ran == ["large, seed 0", "large, seed 1"]


def test_an_interrupt_keeps_what_is_done(ran, monkeypatch, capsys):
    def run(trial, launch, tick):
        if trial.variant.name == "large":
            raise KeyboardInterrupt
        return row(trial)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "run_trial", run)
        assert main(["sweep", "plan.toml"]) == 130
    assert main(["sweep", "plan.toml"]) == 0
    assert ran == ["large, seed 0", "large, seed 1", "broken, seed 0", "broken, seed 1"]


def test_the_test_is_shown_only_when_asked(ran, capsys):
    main(["sweep", "plan.toml"])
    assert "0.2222" not in capsys.readouterr().out
    main(["sweep", "plan.toml", "--print", "--json"])
    assert "0.2222" not in capsys.readouterr().out
    main(["sweep", "plan.toml", "--print", "--show-test"])
    out = capsys.readouterr().out
    assert "0.2222" in out
    assert out.index("large") < out.index("small")  # still by validation
    main(["sweep", "plan.toml", "--print", "--json", "--show-test"])
    rows = json.loads(capsys.readouterr().out)
    assert [r["status"] for r in rows] == ["finished"] * 4 + ["failed"] * 2


def test_every_training_is_an_experiment(ran):
    main(["sweep", "plan.toml", "--experiments", "all.csv", "--note", "first try", "--out", "x"])
    with Path("all.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["variant"] for line in lines] == ["small"] * 2 + ["large"] * 2 + ["broken"] * 2
    assert [line["note"] for line in lines[3:5]] == ["first try", "failed: the loss is nan"]
    assert lines[2]["validation_ndcg@10"] == "0.20000"
    assert Path("x").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["no.toml"], "no.toml: No such file or directory"),
        (["plan.toml", "--variants", "smal"], "no variant is named 'smal'; there are small, large"),
        (["plan.toml", "--seeds", "4"], "seed 4 is not in the plan"),
        (["plan.toml", "--num_accelerators", "0"], "--num_accelerators must be at least 1, got 0"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(options, message, ran, capsys):
    assert main(["sweep", *options]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert ran == []


def test_absent_data_is_said_before_anything_is_trained(ran, capsys):
    Path("plan.toml").write_text(
        PLAN.replace("[variants]", 'overrides = ["data.name=files", "data.path=no"]\n[variants]')
    )
    assert main(["sweep", "plan.toml"]) == 2
    err = capsys.readouterr().err
    assert (
        err == "error: no/items.csv: the data of small is not there; name its folder with --data\n"
    )
    assert ran == []


def test_drawn_data_has_no_folder(ran, capsys):
    Path("plan.toml").write_text(
        PLAN.replace("[variants]", 'overrides = ["data.name=synthetic"]\n[variants]')
    )
    assert main(["sweep", "plan.toml", "--data", "shop"]) == 2
    assert "data.name = 'synthetic' draws its data, --data shop would be" in capsys.readouterr().err
    assert ran == []


def test_nothing_trained_is_said(ran, capsys):
    assert main(["sweep", "plan.toml", "--print"]) == 0
    assert capsys.readouterr().out == "no training has ended yet\n"
