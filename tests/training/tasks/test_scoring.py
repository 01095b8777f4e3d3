import dataclasses
import types

import numpy as np
import pytest

from store_engine.errors import InputError
from store_engine.files.token_file import TokenFile
from store_engine.model.targets import IGNORE
from store_engine.training.tasks.scoring import Scoring


@pytest.fixture
def task(task_named):
    return task_named("scoring")


def test_every_user_is_sampled_as_often_as_said(task, task_data):
    has_a_past = np.diff(task_data.histories.offsets) > 1
    assert len(task.sample(0)) == 2 * has_a_past.sum()


def test_candidates_are_positives_and_negatives(task, task_data):
    keys, offsets = task.sample(0), task_data.histories.offsets
    user = np.searchsorted(offsets, keys[:, 1], side="right")
    is_yes = []
    for key, u in zip(keys, user, strict=True):
        begin, cut, candidate, _ = key.tolist()
        assert offsets[u - 1] <= begin < cut  # the history is the same user's
        tokens, targets = task.document(key)
        assert tokens[-1] == task_data.texts.eos_id
        candidate_tokens = tokens[-1 - task_data.tokens_per_item : -1]
        assert candidate_tokens.tolist() == task_data.items.read[candidate].tolist()
        assert (targets[:-1] == IGNORE).all()
        is_yes.append(targets[-1] - task_data.items.first_label)
        assert is_yes[-1] == (candidate == task_data.histories.tokens[cut])
    assert set(is_yes) == {0, 1}
    assert np.mean(is_yes) == pytest.approx(0.5, abs=0.1)


def test_users_without_a_past_give_no_examples(task_data):
    histories = types.SimpleNamespace(offsets=np.array([0, 1, 2]), tokens=np.array([3, 4]))
    data = dataclasses.replace(task_data, histories=histories)
    assert Scoring(data, 2.0).sample(0).shape == (0, 4)


def test_what_was_shown_is_what_is_learnt(task_data, tmp_path):
    offsets, rows = task_data.histories.offsets, task_data.histories.tokens
    shown = [[2, 7, 1, 2, 9, 0], [], [1, 4, 0]]  # place, row, label
    shown += [[]] * (len(offsets) - 1 - len(shown))
    data = dataclasses.replace(task_data, shown=TokenFile.write(tmp_path / "shown", shown))
    keys = Scoring(data, 1.5).sample(0)
    first, third = offsets[0], offsets[2]
    every = [[first, first + 2, 7, 1], [first, first + 2, 9, 0], [third, third + 1, 4, 0]]
    assert sorted(keys.tolist()) == sorted(every)  # 1.5 examples of two users
    for key in keys:
        begin, cut, candidate, label = key.tolist()
        tokens, targets = Scoring(data, 1.0).document(key)
        read = task_data.items.read
        want = [*read[rows[begin:cut]].ravel(), *read[candidate]]
        assert tokens.tolist() == [data.texts.bos_id, *want, data.texts.eos_id]
        assert targets[-1] == data.items.first_label + label
    assert len(Scoring(data, 3.0).sample(0)) == 6


def test_nothing_shown_is_an_error(task_data, tmp_path):
    data = dataclasses.replace(task_data, shown=TokenFile.write(tmp_path / "shown", [[], []]))
    with pytest.raises(InputError, match=r"data\.impressions: nothing was shown"):
        Scoring(data, 1.0)


def test_one_item_has_no_negative(task_data):
    data = dataclasses.replace(task_data, texts=types.SimpleNamespace(num_items=1))
    with pytest.raises(InputError, match="at least 2 items"):
        Scoring(data, 1.0)
