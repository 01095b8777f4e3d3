"""Spaces: what is near is near, in every run the same, and for catalogues of any size."""

import numpy as np
import pytest

from store_engine.collaborative.co_visits import co_visits, event_counts
from store_engine.collaborative.evidence import Mix
from store_engine.collaborative.item_space import best_mix, item_space, join
from store_engine.collaborative.spaces import co_visit_space, text_space, unit_rows
from store_engine.config import EvidenceConfig
from store_engine.data.catalog import Catalog
from store_engine.data.split import Examples, leave_one_out
from store_engine.data.synthetic import synthetic

NOBODY = Examples([], np.empty(0, dtype=np.int32))


def catalog(*texts: str) -> Catalog:
    return Catalog(tuple(f"i{n}" for n in range(len(texts))), {"title": texts})


def test_text_places_items_by_shared_words():
    items = catalog("red ball", "big red ball", "green tea", "tea, green", "", "unheard")
    space = text_space(items, 4)
    cosines = space @ space.T
    assert cosines[0, 1] > 0.9 and cosines[2, 3] > 0.9 and abs(cosines[0, 2]) < 0.1
    assert (space[4:] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(space[:4], axis=1), 1, rtol=1e-5)
    assert space.tobytes() == text_space(items, 4).tobytes()


@pytest.mark.parametrize("texts", [[""], ["a"], ["", ""], ["a", "b"], ["?", "!"]], ids=str)
def test_text_without_a_shared_word(texts):
    space = text_space(catalog(*texts), 8)
    assert len(space) == len(texts) and (space == 0).all()


def test_two_items_with_the_same_text():
    space = text_space(catalog("tea", "tea"), 8)
    assert space.shape == (2, 1) and abs(space[0] @ space[1] - 1) < 1e-6


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "directed"])
def test_a_full_rank_space_is_the_matrix(symmetric):
    _, events = synthetic(40, 200, 4, seed=0)
    counts, frequency = co_visits(events, 40, 5), event_counts(events, 40)
    space = co_visit_space(counts, frequency, 10.0, 40, symmetric=symmetric)
    dense = counts.toarray() + (counts.toarray().T if symmetric else 0)
    root = np.sqrt(frequency + 10.0)
    want = dense / np.outer(root, root) + 0.3 * np.eye(40)
    np.testing.assert_allclose(space.sources @ space.targets.T, want, atol=1e-5)


def test_the_directed_space_knows_what_comes_later(histories):
    events = histories(*[[0, 1, 2]] * 20, *[[3, 4]] * 20)
    space = co_visit_space(
        co_visits(events, 5, 1), event_counts(events, 5), 1.0, 3, symmetric=False
    )
    votes = space.sources @ space.targets.T
    assert votes[0, 1] > votes[1, 0] and votes[1, 2] > votes[2, 1] and votes[3, 4] > votes[4, 3]


def test_the_space_of_items():
    items, events = synthetic(200, 400, 10, seed=0)
    split = leave_one_out(events)
    got = item_space(split.train, split.valid, items, EvidenceConfig(), seed=1)
    again = item_space(split.train, split.valid, items, EvidenceConfig(), seed=1)
    assert got.vectors.tobytes() == again.vectors.tobytes() and got.mix == again.mix
    assert got.vectors.shape == (200, 96 + 32) and got.vectors.dtype == np.float32
    assert got.ndcg > 0.1
    without = item_space(split.train, NOBODY, items, EvidenceConfig())
    assert without.mix == ("unit", 0.7) and without.ndcg == 0


@pytest.mark.parametrize("num_items", [1, 2, 3])
def test_a_tiny_catalogue_and_no_events(histories, num_items):
    items = catalog(*["tea"] * num_items)
    got = item_space(histories([]), NOBODY, items, EvidenceConfig())
    assert len(got.vectors) == num_items and np.isfinite(got.vectors).all()


def test_forms():
    visited = np.array([[3, 4], [0, 0], [0.3, 0.4]], dtype=np.float32)
    text = np.array([[1], [1], [0]], dtype=np.float32)
    unit = join(visited, text, Mix("unit", 0.5))
    np.testing.assert_allclose(
        unit, unit_rows(np.array([[0.6, 0.8, 0.5], [0, 0, 1], [0.6, 0.8, 0]]))
    )
    norms = join(visited, text, Mix("norms", 0.5))
    assert norms.dtype == np.float32
    np.testing.assert_allclose(norms[0, :2], 10 * norms[2, :2], rtol=1e-6)


def test_validation_chooses_the_form():
    # item 1 is near the history's item, item 2 is far from it but long
    visited = np.array([[1, 0], [0.9, 0.1], [5, 6], [0, 0.1], *[[0.01, 1]] * 20], dtype=np.float32)
    text = np.zeros((24, 1), dtype=np.float32)
    history = [np.array([0], dtype=np.int32)]
    for target, form in ((1, "unit"), (2, "norms")):
        examples = Examples(history, np.array([target], dtype=np.int32))
        assert best_mix(visited, text, examples, 0).mix.form == form
