import numpy as np
import pytest
import scipy.sparse as sp

from benchmarks.scoring import (
    IGNORE,
    MAX_EVENTS,
    PRIOR,
    Events,
    _model,
    chances_of,
    document,
    likeness,
    model_of_run,
    shares_so_far,
)
from store_engine.config import ModelConfig
from store_engine.runs.run import load_run

SMALL = ModelConfig(
    hidden_size=16,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=16,
    intermediate_size=16,
    dropout=0.0,
)
SIDS = np.stack([np.arange(12) // 4, np.arange(12) % 4], axis=1)


@pytest.fixture
def events():
    rng, counts = np.random.default_rng(0), [3, MAX_EVENTS + 70, 1]
    users = np.repeat(np.arange(3), counts)
    times = rng.permutation(len(users))
    order = np.lexsort([times, users])
    rows, labels = rng.integers(0, 12, len(users)), rng.integers(0, 2, len(users))
    times = times[order]
    return Events(users, rows, labels, times, np.searchsorted([120, 150], times, side="right"))


def test_shares_count_what_came_before_and_nothing_else(events):
    shares, counts = shares_so_far(events.rows, events)
    prior = events.labels[events.periods == 0].mean()
    for i in range(len(events.rows)):
        before = (events.rows == events.rows[i]) & (events.times < events.times[i])
        total = before.sum()
        assert counts[i] == total
        wanted = (events.labels[before].sum() + PRIOR * prior) / (total + PRIOR)
        assert shares[i] == pytest.approx(wanted)


def test_likeness_compares_with_liked_and_disliked_films_before(events):
    words = sp.csr_matrix(np.random.default_rng(1).random((12, 6)))
    got, dense = likeness(events, words), words.toarray()
    for i in range(0, len(got), 7):
        own = np.arange(events.offsets[events.users[i]], i)
        wanted = 0.0
        for label, sign in ((1, 1), (0, -1)):
            rows = events.rows[own[events.labels[own] == label]]
            if len(rows):
                wanted += sign * (dense[rows] @ dense[events.rows[i]]).mean()
        assert got[i] == pytest.approx(wanted)


def test_a_document_asks_for_every_label_and_every_next_item_of_its_targets(events):
    model = _model(SMALL, 1, SIDS, (3, 4))
    is_target = np.ones(len(events.rows), dtype=bool)
    is_target[1] = False
    tokens, targets, _ = document(model, events, np.array([0, 3]), is_target)
    written = [
        [*model.tokens[row], model.first_label + label]
        for row, label in zip(events.rows[:3], events.labels[:3], strict=True)
    ]
    assert tokens.tolist() == [0, *np.ravel(written)[:-1]]
    ignored = [IGNORE] * 3
    assert targets.tolist() == [IGNORE, IGNORE, written[0][2], *ignored, *written[2]]


def test_a_chance_depends_on_nothing_that_comes_later_nor_on_its_own_label(events):
    model = _model(SMALL, 1, SIDS, (3, 4))
    place = events.offsets[1] + 130
    changed = events.labels.copy()
    changed[place:] = 1 - changed[place:]
    after = chances_of(model, events._replace(labels=changed))
    before = chances_of(model, events)
    np.testing.assert_array_equal(after[: place + 1], before[: place + 1])
    assert (after[place + 1 : place + 10] != before[place + 1 : place + 10]).any()


def test_a_runs_model_keeps_its_weights_and_codes_and_gets_rows_for_the_labels(events, run_dir):
    run = load_run(run_dir)
    model = model_of_run(run, run.catalog)
    num_codes = sum(run.sid_table.codebook_sizes)
    table = model.net.code_head.weight
    assert len(table) == num_codes + 2
    np.testing.assert_array_equal(table[:num_codes].detach(), run.model.code_head.weight.detach())
    assert model.first_label == run.model.vocabulary.text_size + num_codes
    chances = chances_of(model, events)[events.periods > 0]
    assert ((chances > 0) & (chances < 1)).all()
