import itertools

import numpy as np
import pytest

from store_engine.data.synthetic import synthetic


def test_sizes():
    catalog, histories = synthetic(30, 50, 7, seed=1)
    assert (catalog.num_items, histories.num_users) == (30, 50)
    assert list(catalog.fields) == ["title", "categories"]
    assert len(set(catalog.fields["categories"])) == 7
    assert len(set(catalog.fields["title"])) == 30
    assert np.diff(histories.offsets).min() >= 3
    assert histories.rows.min() >= 0 and histories.rows.max() < 30
    assert 10 < histories.num_events / 50 < 14


def test_seed_decides():
    first, same, other = (synthetic(30, 50, 7, seed=seed) for seed in (1, 1, 2))
    assert first[0] == same[0] and first[0] != other[0]
    np.testing.assert_array_equal(first[1].rows, same[1].rows)
    assert first[1].rows.tolist() != other[1].rows.tolist()


def test_text_shares_words_within_a_topic():
    catalog, _ = synthetic(100, 1, 5, seed=0)
    words = [set(title.split()[:2]) for title in catalog.fields["title"]]
    topics = catalog.fields["categories"]
    overlap = {True: [], False: []}
    for a in range(100):
        for b in range(a):
            overlap[topics[a] == topics[b]].append(len(words[a] & words[b]))
    assert np.mean(overlap[True]) > 0.3
    assert np.mean(overlap[False]) == 0


def test_users_follow_topics_in_order():
    catalog, histories = synthetic(100, 400, 10, seed=0)
    topics = np.array([hash(c) for c in catalog.fields["categories"]])
    same_user = np.repeat(np.arange(400), np.diff(histories.offsets))
    pairs = np.flatnonzero(same_user[1:] == same_user[:-1])
    a, b = histories.rows[pairs], histories.rows[pairs + 1]
    assert 0.65 < (topics[a] == topics[b]).mean() < 0.9
    # the most frequent follower of an item is one and the same, most of the time
    counts = np.zeros((100, 100))
    np.add.at(counts, (a, b), 1)
    assert 0.5 < counts.max(1).sum() / counts.sum() < 0.9
    # popularity alone says little
    assert np.bincount(histories.rows).max() / histories.num_events < 0.03


def test_without_noise_the_last_item_tells_the_next(monkeypatch):
    monkeypatch.setattr("store_engine.data.synthetic._NOISE", 0.0)
    _, histories = synthetic(20, 40, 4, seed=0)
    following = {}
    for user in range(40):
        history = histories[user].tolist()
        for a, b in itertools.pairwise(history):
            assert following.setdefault(a, b) == b


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 0, 1), (2, 1, 0), (2, 1, 3)])
def test_rejects_sizes(sizes):
    with pytest.raises(ValueError, match="num_topics <= num_items"):
        synthetic(*sizes, seed=0)
