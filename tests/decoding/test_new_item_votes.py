"""New items beside evidence: voted for by the items whose text is like theirs."""

import numpy as np
import pytest
import scipy.sparse as sp
from item_engines import FANOUT, NUM_FEATURES, NUM_ITEMS, UPPER, ItemCase, new_items, random_votes

from store_engine.collaborative.evidence import NewItemVotes, new_item_votes
from store_engine.collaborative.top_votes import votes_by_rank
from store_engine.data.catalog import Catalog
from store_engine.data.split import Examples
from store_engine.decoding.evidence import ItemEvidence
from store_engine.errors import InputError
from store_engine.evaluation.weigh_evidence import weigh_new_items

NUM_NEW = 4
TOTAL = NUM_ITEMS + NUM_NEW
HISTORIES = [[3, 8, 1], [61, 5], [], [7]]  # a new item among them


VOTES = random_votes()


def random_new_votes(offset, seed=0):
    matrix = np.random.default_rng(seed).random((TOTAL, TOTAL))
    matrix[matrix < 0.5] = 0
    matrix[:, :NUM_ITEMS] = 0
    return NewItemVotes(NUM_ITEMS, sp.csr_array(9 * matrix.astype(np.float32)), offset)


def engine_with_new_items(**options):
    case = ItemCase("item", "items", "heads", False)
    taken = {tuple(sid) for sid in case.sids.tolist()}
    every = [(a, b, c) for a in range(UPPER[0]) for b in range(UPPER[1]) for c in range(FANOUT)]
    sids = np.array([sid for sid in every if sid not in taken][:NUM_NEW], dtype=np.int32)
    features = np.random.default_rng(0).normal(size=(NUM_NEW, NUM_FEATURES)).astype(np.float32)
    engine = case.engine(scorer=ItemEvidence(VOTES), evidence="auto", **options)
    engine.add_items(new_items(NUM_NEW), sids, features)
    return engine


def plain_total(engine, votes):
    """Log-probability, evidence, votes and offset, by the definition."""
    total = engine.score_rows(HISTORIES)
    matrix = votes.matrix.toarray()
    for score, history in zip(total, HISTORIES, strict=True):
        for back, row in enumerate(history[::-1][: VOTES.window]):
            weight = VOTES.decay**back
            score += weight * matrix[row]
            if row < NUM_ITEMS:
                score[:NUM_ITEMS] += weight * VOTES.matrix[row]
        score[NUM_ITEMS:] += votes.offset
    return total


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("offset", [-2.0, 3.0])
def test_the_score_is_the_sum(exact, offset):
    engine, votes = engine_with_new_items(), random_new_votes(offset)
    engine.vote_for_new_items(votes)
    total = plain_total(engine, votes)
    rows, scores = engine.recommend_rows(HISTORIES, TOTAL, exact=exact)
    np.testing.assert_allclose(scores, -np.sort(-total, axis=1), atol=1e-4)
    np.testing.assert_allclose(scores, np.take_along_axis(total, rows, 1), atol=1e-4)


def test_a_narrow_beam_finds_what_has_votes():
    engine, votes = engine_with_new_items(beam_width=3), random_new_votes(0.0)
    engine.vote_for_new_items(votes.with_offset(1.0))
    votes = random_new_votes(40.0)
    engine.vote_for_new_items(votes)  # in place of the others
    rows, scores = engine.recommend_rows(HISTORIES, 3)
    total = plain_total(engine, votes)
    np.testing.assert_allclose(scores, np.take_along_axis(total, rows, 1), atol=1e-4)
    assert (rows[[0, 1, 3], 0] >= NUM_ITEMS).all()
    engine.define("old", [f"item {row}" for row in range(NUM_ITEMS)])
    allowed, _ = engine.recommend_rows(HISTORIES, 3, allow="old")
    assert (allowed < NUM_ITEMS).all()


def test_items_added_after_the_votes_have_none():
    engine = engine_with_new_items()
    votes = NewItemVotes(NUM_ITEMS, random_new_votes(0.0).matrix[:62, :62], offset=5.0)
    engine.vote_for_new_items(votes)
    _, scores = engine.recommend_rows(HISTORIES, TOTAL)
    wide = sp.block_array([[votes.matrix, None], [None, sp.csr_array((2, 2))]], format="csr")
    total = plain_total(engine, NewItemVotes(NUM_ITEMS, sp.csr_array(wide), 5.0))
    total[:, 62:] -= 5.0
    np.testing.assert_allclose(scores, -np.sort(-total, axis=1), atol=1e-4)


def test_votes_by_rank_equals_a_plain_loop():
    space = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    space /= np.linalg.norm(space, axis=1, keepdims=True)
    found = votes_by_rank(space, 7, 20).toarray()
    want = np.zeros((30, 30))
    for row in range(30):
        near = [i for i in np.argsort(-(space @ space[row]), kind="stable") if i != row][:7]
        for rank, item in enumerate(near, 1):
            if item >= 20:
                want[row, item] = rank**-0.5
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert votes_by_rank(space[:5], 7, 4).shape == (5, 5)


def test_the_nearest_by_text_votes():
    titles = ("red lipstick", "green soap", "blue hammer", "red lipstick gloss", "hammer blue big")
    catalog = Catalog(tuple("abcde"), {"title": titles})
    votes = new_item_votes(catalog, 3)
    matrix = votes.matrix.toarray()
    assert matrix[0].argmax() == 3
    assert matrix[2].argmax() == 4
    assert (matrix[:, :3] == 0).all()
    assert matrix.max() == 32


def test_the_offset_is_the_largest_that_the_old_items_can_bear():
    engine, votes = engine_with_new_items(), random_new_votes(0.0)
    rng = np.random.default_rng(1)
    histories = [rng.integers(0, NUM_ITEMS, 4).astype(np.int32) for _ in range(60)]
    ranked, _ = engine.recommend_rows(histories, 10)
    targets = ranked[np.arange(60), rng.integers(0, 10, 60)].astype(np.int32)  # all hits
    offset = weigh_new_items(engine, votes, Examples(histories, targets), price=0.1)

    def recall(offset):
        engine.vote_for_new_items(votes.with_offset(offset))
        rows, _ = engine.recommend_rows(histories, 10)
        return (rows == targets[:, None]).any(1).mean()

    before = recall(-64.0)
    assert recall(offset) >= 0.9 * before > recall(offset + 1 / 16)


def test_refuses():
    with pytest.raises(InputError, match="need an engine with evidence"):
        ItemCase("item", "items", "heads", False).engine().vote_for_new_items(random_new_votes(0.0))
    engine = engine_with_new_items()
    with pytest.raises(InputError, match="are for 59 to 63"):
        engine.vote_for_new_items(NewItemVotes(59, random_new_votes(0.0).matrix))
    with pytest.raises(InputError, match="are for 60 to 64"):
        engine.vote_for_new_items(NewItemVotes(60, sp.csr_array((65, 65), dtype=np.float32)))
