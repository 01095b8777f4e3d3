import dataclasses

import numpy as np
import pytest
import torch

from store_engine.config import TrainConfig
from store_engine.data.histories import Histories
from store_engine.data.split import Examples, leave_one_out
from store_engine.decoding.engine import Engine
from store_engine.evaluation.evaluate_run import rank_all
from store_engine.evaluation.metrics import ranking_metrics
from store_engine.evaluation.validation import Validation, sample_examples
from store_engine.runs.run import Run
from store_engine.runs.run_directory import RunDirectory


class WithHistories(Run):
    """A run of the fixture, whose users all have five events."""

    @property
    def config(self):
        return dataclasses.replace(super().config, train=TrainConfig(eval_users=1000))

    @property
    def histories(self):
        rows = np.random.default_rng(0).integers(0, 60, 40 * 5).astype(np.int32)
        ids = tuple(map(str, range(40)))
        return Histories(ids, rows, np.arange(41, dtype=np.int64) * 5)


@pytest.fixture
def run(run_dir):
    return WithHistories(RunDirectory.open(run_dir))


@pytest.fixture
def weights(run):
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


def test_it_is_the_ndcg_of_the_runs_own_decoding(run, run_dir, weights):
    validation = Validation(run)
    valid = leave_one_out(run.histories).valid
    assert np.array_equal(validation.examples.targets, valid.targets)
    engine = Engine.load(run_dir, dtype="float32", prefix_cache_mib=0)
    rankings = rank_all(engine, valid, 10, exact=False)
    assert validation(weights) == ranking_metrics(rankings, valid.targets, (10,))["ndcg@10"] > 0


def test_it_follows_the_weights_and_changes_none(run, weights):
    validation = Validation(run)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    first = validation(weights)
    other = {name: tensor.flip(0) for name, tensor in weights.items()}
    assert validation(other) != first
    assert validation(weights) == first
    assert all(torch.equal(weights[name], tensor) for name, tensor in before.items())


def test_the_labels_rows_play_no_part(run, weights):
    labelled = dict(weights)
    for name in ("code_embedding.weight", "code_head.weight"):
        labelled[name] = torch.cat([weights[name], torch.full((2, 32), 9.0)])
    assert Validation(run)(labelled) == Validation(run)(weights)


def test_a_sample_is_always_the_same_users():
    examples = Examples(
        [np.array([i], np.int32) for i in range(100)], np.arange(100, dtype=np.int32)
    )
    first, again = (sample_examples(examples, 10, seed=3) for _ in range(2))
    assert first.targets.tolist() == again.targets.tolist() == sorted(set(first.targets.tolist()))
    assert [h[0] for h in first.histories] == first.targets.tolist()
    assert len(first.targets) == 10
    assert sample_examples(examples, 10, seed=4).targets.tolist() != first.targets.tolist()
    assert sample_examples(examples, 100, seed=3) is examples
