import dataclasses

import numpy as np
import pytest

from store_engine.config import RecommenderConfig
from store_engine.model.targets import IGNORE
from store_engine.training.tasks.next_item import NextItem


@pytest.fixture
def task(task_named):
    return task_named("next_item")


@pytest.fixture
def task_with(task_data):
    """task_with(max_history=..., **settings) with those of the recommender."""

    def make(max_history=50, **settings):
        data = dataclasses.replace(task_data, max_history=max_history)
        return NextItem(data, dataclasses.replace(RecommenderConfig(), **settings))

    return make


def learnt(task, epoch):
    return [e for _, begin, end in task.sample(epoch).tolist() for e in range(begin, end)]


def test_an_epoch_holds_every_event_once(task, task_data):
    assert sorted(learnt(task, 0)) == list(range(len(task_data.histories.tokens)))


def test_targets_follow_their_history(task, task_data):
    context, begin, end = key = task.sample(0)[0]
    assert context == begin
    items = task_data.items.read[task_data.histories.tokens[begin:end]].ravel()
    tokens, targets = task.document(key)
    assert tokens.tolist() == [task_data.texts.bos_id, *items[:-1]]
    assert np.array_equal(targets, items)


def test_what_a_window_begins_with_is_not_learnt(task_with, task_data):
    task = task_with()
    context, begin, end = key = task.sample(0)[0]
    assert begin == context + 1
    tokens, targets = task.document(key)
    num = task_data.tokens_per_item
    assert (targets[:num] == IGNORE).all() and (targets[num:] != IGNORE).all()
    assert len(tokens) == (end - context) * num


@pytest.mark.parametrize("epoch", [0, 5])
def test_windows_overlap_without_a_second_loss(epoch, task_with, task_data):
    task = task_with(max_history=6, window_overlap=4)
    offsets = task_data.histories.offsets
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    for context, begin, end in task.sample(epoch).tolist():
        assert user[context] == user[begin] == user[end - 1]
        assert context < begin < end <= context + 6
        assert begin - context == 4 or context == offsets[user[context]]
    firsts = offsets[:-1][np.diff(offsets) > 0]
    want = sorted(set(range(len(user))) - set(firsts.tolist()))
    assert sorted(learnt(task, epoch)) == want  # all but what histories begin with, each once


def test_heads_have_a_target_before_every_item(task_with, task_data):
    items = dataclasses.replace(task_data.items, written=task_data.items.read[:, :1] + 1000)
    task = task_with()
    task._data = dataclasses.replace(task_data, items=items)
    context, _, end = key = task.sample(0)[0]
    tokens, targets = task.document(key)
    rows, num = task_data.histories.tokens[context:end], task_data.tokens_per_item
    assert tokens.tolist() == [task_data.texts.bos_id, *items.read[rows[:-1]].ravel()]
    want = np.full(len(tokens), IGNORE)
    want[num::num] = items.written[rows[1:], 0]
    assert targets.tolist() == want.tolist()
