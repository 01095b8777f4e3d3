import numpy as np
import pytest

from store_engine.model.store_model import IGNORE
from store_engine.training.tasks import TASKS

NEXT_ITEM, ALIGNMENT, RECONSTRUCTION, SCORING = range(4)
NUM_LEVELS = 3


@pytest.fixture
def tasks(all_tasks):
    return all_tasks.documents


def keys_of(tasks, task, epoch=0):
    keys = np.concatenate(tasks.plan(epoch, 7))
    return keys[keys[:, 0] == task]


def document(tasks, key):
    return tasks._document(*key.tolist())


def test_an_epoch_passes_over_every_tasks_data_as_often_as_said(tasks):
    windows = keys_of(tasks, NEXT_ITEM)
    events = [event for _, begin, end, _ in windows.tolist() for event in range(begin, end)]
    assert sorted(events) == list(range(len(tasks.histories.tokens)))
    counts = np.bincount(keys_of(tasks, ALIGNMENT)[:, 1])
    assert set(counts) == {1, 2}
    assert counts.sum() == round(1.5 * tasks.texts.num_items)
    rows = keys_of(tasks, RECONSTRUCTION)[:, 1]
    assert len(rows) == len(set(rows)) == tasks.texts.num_items // 2
    is_asked = np.diff(tasks.histories.offsets) > 1
    assert len(keys_of(tasks, SCORING)) == 2 * is_asked.sum()


def test_lengths_and_targets_are_planned_as_they_come_out(tasks):
    keys = np.concatenate(tasks.plan(3, 5))
    documents = [document(tasks, key) for key in keys]
    assert {d.task_id for d in documents} == set(range(len(TASKS)))
    assert [len(d.tokens) for d in documents] == tasks._lengths(keys).tolist()
    targets = np.zeros(len(TASKS))
    for d in documents:
        targets[d.task_id] += (d.targets != IGNORE).sum()
    assert tasks.num_targets(keys).tolist() == targets.tolist()


def test_plans_depend_on_the_epoch_alone(tasks, all_tasks):
    first, again, other = (tasks.plan(epoch, 6) for epoch in (2, 2, 3))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_shares_hold_every_document_once(tasks):
    (keys, *_) = tasks.plan(0, 6)
    shares = [tasks.share(keys, part, 4) for part in range(4)]
    wanted = [document(tasks, key).tokens.tolist() for key in keys]
    assert sorted(d.tokens.tolist() for share in shares for d in share) == sorted(wanted)


def test_next_item_targets_follow_their_history(tasks):
    key = keys_of(tasks, NEXT_ITEM)[0]
    d = document(tasks, key)
    items = tasks.item_tokens[tasks.histories.tokens[key[1] : key[2]]].ravel()
    assert d.tokens.tolist() == [tasks.texts.bos_id, *items[:-1]]
    assert d.targets.tolist() == items.tolist()


def test_alignment_reads_the_text_and_writes_the_codes(tasks):
    d = document(tasks, np.array([ALIGNMENT, 5, 0, -1]))
    content, codes = tasks.texts.content(5), tasks.item_tokens[5].tolist()
    assert d.tokens.tolist() == content + codes[:-1]
    assert d.targets.tolist() == [IGNORE] * (len(content) - 1) + codes


def test_reconstruction_reads_the_codes_and_writes_the_text(tasks):
    d = document(tasks, np.array([RECONSTRUCTION, 5, 0, -1]))
    text, codes = tasks.texts.content(5)[1:], tasks.item_tokens[5].tolist()
    assert d.tokens.tolist() == [tasks.texts.bos_id, *codes, *text]
    assert d.targets.tolist() == [IGNORE] * NUM_LEVELS + [*text, tasks.texts.eos_id]


def test_scoring_asks_about_what_came_next_and_about_other_items(tasks):
    keys = keys_of(tasks, SCORING)
    user = np.searchsorted(tasks.histories.offsets, keys[:, 2], side="right")
    is_yes = []
    for key, u in zip(keys, user, strict=True):
        _, begin, end, candidate = key.tolist()
        assert tasks.histories.offsets[u - 1] <= begin < end  # the history is the same user's
        d = document(tasks, key)
        assert d.tokens[-1] == tasks.texts.eos_id
        assert d.tokens[-1 - NUM_LEVELS : -1].tolist() == tasks.item_tokens[candidate].tolist()
        assert (d.targets[:-1] == IGNORE).all()
        is_yes.append(d.targets[-1] - tasks.no_token)
        assert is_yes[-1] == (candidate == tasks.histories.tokens[end])
    assert set(is_yes) == {0, 1}
    assert np.mean(is_yes) == pytest.approx(0.5, abs=0.1)
