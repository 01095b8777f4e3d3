"""A training that goes on from a finished run, as a user starts it."""

import csv
import json

import numpy as np
import pytest
from safetensors.torch import load_file

from store_engine import Engine
from store_engine.cli.main import main
from store_engine.runs.run import load_run
from store_engine.sid.sid_table import SidTable
from store_engine.training.log import read_log

pytestmark = pytest.mark.slow
NUM_NEW = 15
ITEMS_FORM = ["--config", "configs/presets/ours.toml", "model.hidden_size=32"]
ITEMS_FORM += ["tokenizer.codebook_size=16", "recommender.epochs=2"]


@pytest.fixture
def new_data(tmp_path):
    """new_data(run_dir) writes new items and events; their files as arguments."""

    def write(run_dir):
        run, rng = load_run(run_dir), np.random.default_rng(0)
        catalog, data = run.catalog, run.config.data
        texts = list(zip(*catalog.fields.values(), strict=True))
        ids = [f"new {n}" for n in range(NUM_NEW)]
        with (tmp_path / "items.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([data.item_id, *catalog.fields])
            writer.writerows([i, *texts[rng.integers(len(texts))]] for i in ids)
        with (tmp_path / "events.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([data.user_id, data.item_id, data.timestamp])
            every = [*catalog.item_ids, *ids]
            for user in [*run.histories.user_ids[:50], *(f"new user {n}" for n in range(9))]:
                writer.writerows([user, every[rng.integers(len(every))], t] for t in range(4))
        files = (tmp_path / "items.csv", tmp_path / "events.csv")
        return ["--items", files[0], "--interactions", files[1]]

    return write


@pytest.mark.parametrize("form", ["codes", "items"])
def test_without_data_or_steps_it_is_the_same_run(form, tiny_run, train_once, train, tmp_path):
    settings = [] if form == "codes" else ITEMS_FORM
    parent = tiny_run if form == "codes" else train_once("items_form", *settings)
    settings = [*settings, "recommender.epochs=0", "train.refit=false"]
    out = train(tmp_path / "again", "--from", parent, *settings)
    assert f"goes on from {parent}: 0 new items, +0 users, +0 events" in out
    old_weights = parent / ("model.safetensors" if form == "codes" else "model_train.safetensors")
    old, new = load_file(old_weights), load_file(tmp_path / "again" / "model.safetensors")
    assert old.keys() == new.keys()
    assert all((old[name] == new[name]).all() for name in old)
    one, other = (
        json.loads((r / "metrics.json").read_text()) for r in (parent, tmp_path / "again")
    )
    if form == "codes":  # of the others the parent's refit has seen more
        assert one["metrics"] == other["metrics"]
    assert one["run"]["parent"] is None
    assert other["run"]["parent"]["weights"] == one["run"]["weights"]


def test_new_items_and_events_of_a_run_of_codes(tiny_run, train, new_data, tmp_path):
    out = train(tmp_path / "next", "--from", tiny_run, *new_data(tiny_run), "recommender.epochs=2")
    assert f"{NUM_NEW} new items, +9 users" in out
    check_next(tiny_run, tmp_path / "next")
    losses = [e["loss/next_item"] for e in read_log(tmp_path / "next" / "train_log.jsonl")]
    begin = [
        e["loss/next_item"]
        for e in read_log(tiny_run / "train_log.jsonl")
        if e["stage"] == "recommender"
    ]
    assert losses[0] < 0.85 * begin[0]  # it goes on from what was learnt


def test_items_form_is_resumed_to_the_same_end(
    train_once, train, train_until_killed, new_data, tmp_path
):
    parent = train_once("items_form", *ITEMS_FORM)
    arguments = ["--from", parent, *ITEMS_FORM, *new_data(parent)]
    arguments += ["recommender.tokens_per_step=256", "train.save_every=2"]
    train(tmp_path / "next", *arguments)
    check_next(parent, tmp_path / "next")
    train_until_killed(tmp_path / "killed", "recommender", 3, *arguments)
    train(tmp_path / "killed", *arguments, "--resume")
    for name in ("model.safetensors", "sids.npz", "evidence.npz"):
        one, other = ((tmp_path / run / name).read_bytes() for run in ("next", "killed"))
        assert one == other, name
    old, new = (load_run(run).training_evidence for run in (parent, tmp_path / "next"))
    assert (new.weights, new.decay, new.scale) == (old.weights, old.decay, old.scale)
    assert new.num_items == old.num_items + NUM_NEW


def check_next(parent, run_dir):
    """Old SIDs stay, new items are found, nothing of the vocabulary changes."""
    old, new = (SidTable.load(run / "sids.npz") for run in (parent, run_dir))
    num_old = len(old.sids)
    assert (new.sids[:num_old] == old.sids).all()
    assert len(np.unique(new.sids, axis=0)) == len(new.sids) == num_old + NUM_NEW
    assert (parent / "text.model").read_bytes() == (run_dir / "text.model").read_bytes()
    stages = {entry["stage"] for entry in read_log(run_dir / "train_log.jsonl")}
    assert stages - {"refit"} == {"recommender"}
    engine = Engine.load(run_dir)
    engine.define("new", [f"new {n}" for n in range(NUM_NEW)])
    found = engine.recommend([["new 3", old.item_ids[0]]], k=5, allow="new")[0]
    assert {item.item_id for item in found} <= {f"new {n}" for n in range(NUM_NEW)}
    assert len(found) == 5
    assert main(["report", str(run_dir)]) == 0
