import dataclasses
import hashlib

import numpy as np
import pytest

from store_engine.config import RecommenderConfig
from store_engine.data.packing import Document
from store_engine.model.targets import IGNORE
from store_engine.training.tasks.mixture import active_tasks

NAMES = ["next_item", "alignment", "reconstruction", "scoring"]


@pytest.fixture
def mixture(all_tasks):
    return all_tasks.mixture


def documents_of(plan, num_steps):
    return [d for step in range(num_steps) for d in plan.shard(step, 0, 1)]


def digest(arrays):
    return hashlib.sha256(np.concatenate(arrays).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("epoch", "tokens", "targets", "num_targets"),
    [
        (0, "c6b5f574d1cf7a5d", "d1d9b9376f9392f2", [936, 108, 204, 67]),
        (3, "28c808744cf16450", "ca314f4db9e38f1d", [894, 99, 332, 67]),
    ],
    ids=["first", "later"],
)
def test_the_documents_of_a_seed_stay_the_same(epoch, tokens, targets, num_targets, mixture):
    """Runs that were begun by an earlier version go on with the same batches."""
    plan = mixture.plan(epoch, 6)
    documents = plan.shard(0, 1, 2)
    assert digest([d.tokens for d in documents]) == tokens
    assert digest([d.targets for d in documents]) == targets
    assert plan.num_targets(0).tolist() == num_targets


def test_lengths_and_targets_are_planned_as_they_come_out(mixture):
    for task in mixture.tasks:
        keys = task.sample(3)
        documents = [task.document(key) for key in keys]
        assert task.lengths(keys).tolist() == [len(tokens) for tokens, _ in documents]
        counts = [(targets != IGNORE).sum() for _, targets in documents]
        assert task.num_targets(keys).tolist() == counts
        assert all(len(tokens) == len(targets) for tokens, targets in documents)


def test_a_steps_targets_are_counted_by_task(mixture):
    plan = mixture.plan(3, 5)
    for step in range(5):
        documents = plan.shard(step, 0, 1)
        assert len(documents) == plan.num_documents(step)
        assert {d.task_id for d in documents} == set(range(4))
        counts = np.zeros(4)
        for d in documents:
            counts[d.task_id] += (d.targets != IGNORE).sum()
        assert plan.num_targets(step).tolist() == counts.tolist()


def test_an_epoch_holds_every_sampled_document_once(mixture):
    got = documents_of(mixture.plan(2, 7), 7)
    want = [
        Document(*task.document(key), task_id)
        for task_id, task in enumerate(mixture.tasks)
        for key in task.sample(2)
    ]
    key = lambda d: (d.task_id, d.tokens.tolist(), d.targets.tolist())  # noqa: E731
    assert sorted(map(key, got)) == sorted(map(key, want))


def test_plans_depend_on_the_epoch_alone(mixture):
    first, again, other = (documents_of(mixture.plan(epoch, 6), 6) for epoch in (2, 2, 3))
    tokens = [[d.tokens.tolist() for d in documents] for documents in (first, again, other)]
    assert tokens[0] == tokens[1] != tokens[2]


def test_shards_hold_every_document_once(mixture):
    plan = mixture.plan(0, 6)
    shards = [plan.shard(0, shard, 4) for shard in range(4)]
    want = sorted(d.tokens.tolist() for d in plan.shard(0, 0, 1))
    assert sorted(d.tokens.tolist() for shard in shards for d in shard) == want


def test_targets_are_weighed_by_loss_group(mixture):
    assert mixture.group_targets(np.array([5, 3, 2, 7])).tolist() == [10, 10, 10, 7]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"alignment": 0.0}, NAMES[:1]),
        ({}, NAMES[:2]),
        ({"alignment": 0.0, "scoring": 1.0}, ["next_item", "scoring"]),
        ({"reconstruction": 1.0, "scoring": 1.0}, NAMES),
    ],
    ids=["next_item", "default", "scoring", "all"],
)
def test_a_task_is_switched_on_by_its_passes(settings, names, task_data):
    tasks = active_tasks(dataclasses.replace(RecommenderConfig(), **settings), task_data)
    assert [task.name for task in tasks] == names


def test_labels_have_a_level_behind_the_items_codes(task_data):
    items = task_data.items
    assert items.vocabulary.codebook_sizes == (16, 16, 16, 2)
    assert items.first_label == items.vocabulary.level_offsets[3] == len(items.vocabulary) - 2
