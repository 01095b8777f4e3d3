import numpy as np
import pytest


@pytest.fixture
def task(task_named):
    return task_named("next_item")


def test_an_epoch_holds_every_event_once(task, task_data):
    events = [event for begin, end in task.sample(0).tolist() for event in range(begin, end)]
    assert sorted(events) == list(range(len(task_data.histories.tokens)))


def test_targets_follow_their_history(task, task_data):
    begin, end = key = task.sample(0)[0]
    items = task_data.item_tokens[task_data.histories.tokens[begin:end]].ravel()
    tokens, targets = task.document(key)
    assert tokens.tolist() == [task_data.texts.bos_id, *items[:-1]]
    assert np.array_equal(targets, items)
