import numpy as np
import pytest
import torch

from benchmarks.quality.rankings import rank
from benchmarks.quality.sasrec import SASRec, SASRecConfig, _batches, _loss, train
from store_engine.data.histories import Histories

SMALL = SASRecConfig(hidden_size=16, max_history=6, dropout=0.0, users_per_batch=8, lr=1e-2)


def cycles(num_users, num_items, length):
    """Every user walks through the items in the same order: the next item is certain."""
    rows = (np.arange(num_users)[:, None] + np.arange(length)) % num_items
    offsets = np.arange(num_users + 1) * length
    ids = tuple(str(user) for user in range(num_users))
    return Histories(ids, rows.ravel().astype(np.int32), offsets.astype(np.int64))


@pytest.mark.parametrize("length", [2, 6, 7, 8, 23])
def test_an_epoch_has_every_event_but_the_first_as_a_target_once(length):
    events = cycles(30, 1000, length)
    batches = _batches(events, SMALL, np.random.default_rng(0))
    targets = np.zeros(30 * 0 + 1000, dtype=int)
    for rows, lengths in batches:
        assert rows.shape[1] <= SMALL.max_history + 1
        for row, n in zip(rows, lengths, strict=True):
            assert (np.diff(row[:n]) == 1).all()
            np.add.at(targets, row[1:n].numpy(), 1)
    expected = np.zeros(1000, dtype=int)
    for user in range(30):
        np.add.at(expected, events[user][1:], 1)
    np.testing.assert_array_equal(targets, expected)


def test_the_untrained_model_ranks_by_the_cosine_to_the_last_item():
    space = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 16)))[0]
    space = np.repeat(space, 2, axis=0) + 1e-2  # items in pairs
    space = (space / np.linalg.norm(space, axis=1, keepdims=True)).astype(np.float32)
    model = SASRec(32, SMALL, space).eval()
    rankings = rank(
        model.log_probabilities,
        [np.array([3, 9], np.int32), np.array([20], np.int32)],
        1,
        exclude_history=True,
    )
    assert rankings.tolist() == [[8], [21]]


def test_padding_and_later_events_change_no_state():
    model = SASRec(10, SMALL).eval()
    short, long = model(torch.tensor([[1, 2, 3]])), model(torch.tensor([[1, 2, 3, 0, 7]]))
    torch.testing.assert_close(short, long[:, :3])


def test_it_learns_a_cycle():
    events = cycles(40, 12, 9)
    model = SASRec(12, SMALL)

    def validate(model):
        history = [np.array([r, (r + 1) % 12], np.int32) for r in range(12)]
        found = rank(model.log_probabilities, history, 1, exclude_history=False)
        return float((found[:, 0] == (np.arange(12) + 2) % 12).mean())

    lines = []
    epoch = train(model, events, SMALL, validate, lines.append)
    assert validate(model.eval()) == 1.0
    assert epoch > 0 and len(lines) == epoch + 1 + SMALL.patience


def test_negatives_that_are_all_items_once_give_the_full_softmax(monkeypatch):
    model, batch = SASRec(12, SMALL).eval(), (torch.tensor([[1, 2, 3]]), torch.tensor([3]))
    monkeypatch.setattr(torch, "randint", lambda high, size: torch.arange(12))
    torch.testing.assert_close(_loss(model, batch, 12), _loss(model, batch, 0))


def test_a_space_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"space must be \(10, 16\), got \(10, 8\)"):
        SASRec(10, SMALL, np.zeros((10, 8), np.float32))
