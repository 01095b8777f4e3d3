import numpy as np
import pytest
import scipy.sparse as sp

from benchmarks.quality.click_baselines import PRIOR, likeness, shares_so_far


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
