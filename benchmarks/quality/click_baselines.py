"""Click-through without a network: shares of positives, and a logistic regression."""

import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.quality.click_events import TRAIN, VALID, Events, Floats, measure
from store_engine.collaborative.spaces import word_weights
from store_engine.data.catalog import Catalog
from store_engine.data.packing import IntArray

PRIOR = 5.0  # events that a share of positives is smoothed by
REGULARIZATION = (0.003, 0.01, 0.03, 0.1, 0.3)  # of the logistic regression, tried


def shares_so_far(groups: IntArray, events: Events) -> tuple[Floats, Floats]:
    """Per event its group's smoothed share of positives before it, and the number of events."""
    prior = events.labels[events.periods == TRAIN].mean()
    shares, counts = np.empty(len(groups)), np.empty(len(groups))
    positives, seen = np.zeros(groups.max() + 1), np.zeros(groups.max() + 1)
    for event in np.argsort(events.times):
        group = groups[event]
        counts[event] = seen[group]
        shares[event] = (positives[group] + PRIOR * prior) / (seen[group] + PRIOR)
        positives[group] += events.labels[event]
        seen[group] += 1
    return shares, counts


def likeness(events: Events, words: sp.csr_matrix) -> Floats:
    """Per event: words @ (mean words of films liked - of those not liked) before it."""
    found = np.zeros(len(events.rows))
    for begin, end in zip(events.offsets[:-1], events.offsets[1:], strict=True):
        own = words[events.rows[begin:end]]
        alike, labels = (own @ own.T).toarray(), events.labels[begin:end]
        before = np.tri(end - begin, k=-1)
        for label, sign in ((1, 1.0), (0, -1.0)):
            is_of = before * (labels == label)
            found[begin:end] += sign * (alike * is_of).sum(1) / np.maximum(is_of.sum(1), 1)
    return found


def popularity(events: Events) -> Floats:
    """A logistic curve through log(1 + training events) of the film."""
    is_train = events.periods == TRAIN
    counts = np.bincount(events.rows[is_train], minlength=events.rows.max() + 1)
    feature = np.log1p(counts[events.rows])[:, None]
    curve = LogisticRegression().fit(feature[is_train], events.labels[is_train])
    chances: Floats = curve.predict_proba(feature)[:, 1]
    return chances


def logistic_regression(events: Events, catalog: Catalog) -> Floats:
    """The regression whose regularisation is best on the validation period."""
    words = word_weights(catalog)
    is_train = events.periods == TRAIN
    dense = np.stack(
        [
            *shares_so_far(events.users, events),
            *shares_so_far(events.rows, events),
            likeness(events, words),
        ],
        axis=1,
    )
    dense[:, [1, 3]] = np.log1p(dense[:, [1, 3]])
    dense = StandardScaler().fit(dense[is_train]).transform(dense)
    ids = np.stack([events.users, events.rows], axis=1)
    one_hot = OneHotEncoder(handle_unknown="ignore").fit(ids[is_train]).transform(ids)
    features = sp.hstack([one_hot, words[events.rows], dense]).tocsr()
    best, chances = -1.0, np.empty(0)
    for strength in REGULARIZATION:
        model = LogisticRegression(C=strength, max_iter=1000)
        model.fit(features[is_train], events.labels[is_train])
        tried = model.predict_proba(features)[:, 1]
        if (score := measure(tried, events, VALID)["auc"]) > best:
            best, chances = score, tried
    return chances
