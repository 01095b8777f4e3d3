"""The row of a run that is trained and measured."""

import dataclasses
from pathlib import Path

import pytest

from store_engine.config import load_config
from store_engine.errors import InputError
from store_engine.evaluation.report import save_metrics
from store_engine.experiments.plan import Trial, Variant
from store_engine.experiments.rows import Effort, finished_row
from store_engine.runs.run_directory import RunDirectory, RunOrigin

ROOT = Path(__file__).parents[2]
EFFORT = Effort(3.0, 2, "abc", "a machine", 1)
RULE = {"metrics": {"ndcg@10": 0.1}, "baselines": {"popularity": {"ndcg@10": 0.0}}, "buckets": {}}
METRICS = {
    "train": {"tokenizer": {"wall_s": 60.0}, "recommender": {"wall_s": 90.0}},
    "protocols": {"seen_left_out": RULE, "seen_allowed": RULE}, "primary": "seen_allowed",
    "dataset": "d", "protocol": "leave-one-out", "num_users": 3, "num_items": 2, "decoding": "beam",
}  # fmt: skip


@pytest.fixture
def trial(tmp_path):
    """A trial whose run has nothing but its config, manifest and metrics."""
    base = str(ROOT / "configs" / "beauty.toml")
    variant = Variant("a", "A", (base,), ("recommender.lr=1e-3",))
    made = Trial(variant, 1, "zero.json", "s", tmp_path / "run")
    config = load_config(base, [*made.overrides, "data.path=elsewhere", "decoding.beam_width=77"])
    origin = RunOrigin(config, "d", {"/some/where/items.csv": "0" * 64})

    def write(paths):
        for path in (paths.items, paths.histories):
            path.touch()

    with RunDirectory.create(made.run_dir, origin, write) as run, run.writing(run.metrics):
        save_metrics(METRICS, run.metrics)
    return made


def test_a_row_holds_what_was_asked_and_what_came_out(trial):
    row = finished_row(trial, {"ndcg@10": 0.2}, EFFORT)
    assert row["minutes"] == {"tokenizer": 1.0, "recommender": 1.5, "total": 3.0}
    assert row["test"]["seen_allowed"] == {key: RULE[key] for key in ("metrics", "baselines")}
    assert row["validation"] == {"ndcg@10": 0.2}
    assert row["data"]["files"] == {"items.csv": "0" * 64}
    assert "where" not in str(row)  # a folder is this machine's business
    assert (row["seed"], row["title"], row["commit"]) == (1, "A", "abc")


def test_a_row_never_says_what_was_not_trained(trial):
    other = dataclasses.replace(trial, seed=2)
    with pytest.raises(InputError, match=r"was trained with train.seed = 1, a, seed 2 wants 2"):
        finished_row(other, {}, EFFORT)


def test_damaged_metrics_are_said(trial):
    with RunDirectory.open_to_write(trial.run_dir) as run, run.writing(run.metrics):
        save_metrics({"train": 3}, run.metrics)
    with pytest.raises(InputError, match=r"metrics.json: not what an evaluation writes"):
        finished_row(trial, {}, EFFORT)
