"""Stage 2 again with the validation events, for as long as validation chose."""

import json
from collections import Counter

import numpy as np
import pytest
from safetensors.torch import load_file

from store_engine.files.token_file import TokenFile
from store_engine.runs.run import load_run
from store_engine.training.distributed.progress import read_progress

REFIT = ["train.eval_every=1", "train.eval_unit=epochs", "train.keep=best", "train.refit=true"]


@pytest.fixture(scope="module")
def refitted(train_once):
    return train_once("refitted", *REFIT, "decoding.evidence=auto")


@pytest.mark.slow
def test_it_learns_the_validation_events_and_no_test_event(refitted):
    run = load_run(refitted)
    learnt, histories = TokenFile(refitted / "refit.tokens"), run.histories
    assert len(learnt) == histories.num_users
    for user in range(histories.num_users):
        begin, end = learnt.offsets[user : user + 2]
        assert np.array_equal(learnt.tokens[begin:end], histories[user][:-1])
    counted = Counter(learnt.tokens.tolist()) - Counter(run.split.train.rows.tolist())
    assert counted == Counter(run.split.valid.targets.tolist())


@pytest.mark.slow
def test_it_takes_as_many_epochs_as_validation_chose(refitted):
    chosen = read_progress(refitted / "checkpoints" / "recommender")
    again = read_progress(refitted / "checkpoints" / "refit")
    epochs = chosen.best.step / (chosen.step / 6)  # recommender.epochs of tiny.toml
    assert epochs == round(epochs) >= 1
    assert again.best is None  # there is nothing left to validate on
    assert again.step % epochs == 0
    # an epoch of more events has more steps
    assert chosen.best.step < again.step < 1.5 * chosen.best.step


@pytest.mark.slow
def test_what_training_alone_knows_is_measured_beside_it(refitted):
    run = load_run(refitted)
    assert run.is_refitted
    ours, before = (load_file(refitted / f"model{s}.safetensors") for s in ("", "_train"))
    assert any((ours[name] != before[name]).any() for name in ours)
    measured = json.loads((refitted / "metrics.json").read_text())["baselines"]
    assert measured.keys() >= {
        "llm_alone", "evidence_alone", "training_events", "training_llm_alone",
        "training_evidence_alone",
    }  # fmt: skip
    assert measured["training_llm_alone"] != measured["llm_alone"]


@pytest.mark.slow
def test_killed_and_resumed_reaches_the_same_end(refitted, tmp_path, train, train_until_killed):
    run_dir = tmp_path / "run"
    arguments = [*REFIT, "decoding.evidence=auto"]
    train_until_killed(run_dir, "refit", 3, *arguments)
    assert not (run_dir / "model.safetensors").exists()
    train(run_dir, "--resume", *arguments)
    ours, theirs = (load_file(d / "model.safetensors") for d in (run_dir, refitted))
    assert all((ours[name] - theirs[name]).abs().max() < 1e-6 for name in theirs)
