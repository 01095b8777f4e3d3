"""Evidence beside the LLM: one sum, the same by beam and by exact scoring, within every filter."""

import numpy as np
import pytest
import torch
from item_engines import (
    FORMS,
    NUM_ITEMS,
    ItemCase,
    item_sids,
    new_items,
    random_experts,
    random_votes,
)

from store_engine.decoding.backends import NonFiniteLogitsError
from store_engine.decoding.evidence import ItemEvidence
from store_engine.errors import InputError

SCALE = 2.0  # of the sum
OPTIONS = [{}, {"exclude_history": True}, {"allow": "even", "exclude": [[2]] * 5}]


SUM = random_votes()
EXPERTS = random_votes(experts=random_experts(len(SUM.data)))


def plain_sum(history, matrix, decay):
    total = np.zeros(NUM_ITEMS)
    for back, row in enumerate(history[::-1][: SUM.window]):
        total += decay**back * matrix[row]
    return total


def plain_evidence(history, votes=SUM):
    """Of every item, by the definition."""
    if not votes.experts:
        return SCALE * plain_sum(history, votes.matrix, votes.decay)
    total = np.zeros(NUM_ITEMS)
    for expert in votes.experts:
        matrix = np.zeros_like(votes.matrix)
        matrix[votes.matrix > 0] = expert.data
        own = plain_sum(history, matrix, expert.decay)
        total += expert.weight * np.log1p(own / expert.unit)
    return total


@pytest.fixture(params=FORMS, ids=lambda form: "-".join(map(str, form)))
def case(request):
    return ItemCase(*request.param)


@pytest.fixture(params=[SUM, EXPERTS], ids=["sum", "experts"])
def votes(request):
    return request.param


def engine_of(case, votes=SUM, **config):
    config = {"evidence": "auto"} | config
    engine = case.engine(scorer=ItemEvidence(votes, SCALE), **config)
    engine.define("even", [f"item {row}" for row in range(0, NUM_ITEMS, 2)])
    return engine


@pytest.mark.parametrize("backend", ["cpp", "torch"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_wide_beam_equals_exact_scoring(case, votes, histories, backend, options):
    engine = engine_of(case, votes, backend=backend)
    rows, scores = engine.recommend_rows(histories, 20, **options)
    exact_rows, exact = engine.recommend_rows(histories, 20, exact=True, **options)
    np.testing.assert_array_equal(rows, exact_rows)
    np.testing.assert_allclose(scores, exact, atol=1e-5)


def test_an_engine_tells_whether_it_has_evidence(case, make_engine):
    assert engine_of(case).has_evidence
    assert not make_engine().has_evidence


def test_the_score_is_the_sum(case, votes, histories):
    engine = engine_of(case, votes)
    total = engine.score_rows(histories) + np.stack([plain_evidence(h, votes) for h in histories])
    rows, scores = engine.recommend_rows(histories, 60)
    np.testing.assert_array_equal(rows, np.argsort(-total, axis=1, kind="stable"))
    np.testing.assert_allclose(scores, np.take_along_axis(total, rows, 1), atol=1e-5)
    ids = [[f"item {row}" for row in history] for history in histories]
    for exact in (False, True):
        for one, history, sums in zip(
            engine.recommend(ids, 10, exact=exact), histories, scores, strict=True
        ):
            own = plain_evidence(history, votes)
            np.testing.assert_allclose([item.score for item in one], sums[:10], atol=1e-5)
            found = [int(item.item_id.split()[1]) for item in one]
            np.testing.assert_allclose([item.evidence for item in one], own[found], atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_narrow_beam_scores_its_candidates_exactly(case, votes, histories, options):
    engine = engine_of(case, votes, beam_width=4)
    llm = engine.score_rows(histories)
    rows, scores = engine.recommend_rows(histories, 4, **options)
    for history, own, found, logprobs in zip(histories, rows, scores, llm, strict=True):
        want = logprobs + plain_evidence(history, votes)
        np.testing.assert_allclose(found, want[own], atol=1e-5)
        assert len(set(own.tolist())) == 4
        if options.get("exclude_history"):
            assert not set(own.tolist()) & set(history)
        if "allow" in options:
            assert (own % 2 == 0).all()
            assert 2 not in own
    own = options | ({"exclude": [[2]]} if "exclude" in options else {})
    alone = [engine.recommend_rows([history], 4, **own) for history in histories]
    np.testing.assert_array_equal(rows, np.concatenate([one[0] for one in alone]))
    np.testing.assert_allclose(scores, np.concatenate([one[1] for one in alone]), atol=1e-5)


def test_far_more_items_wanted_than_there_are(case, histories):
    engine = engine_of(case, batch_size=2)
    rows, scores = engine.recommend_rows(histories, 20_000)
    exact_rows, exact = engine.recommend_rows(histories, 20_000, exact=True)
    np.testing.assert_array_equal(rows, exact_rows)
    np.testing.assert_allclose(scores, exact, atol=1e-5)


def test_the_evidence_finds_what_the_beam_does_not(histories):
    case = ItemCase("item", "codes", "heads", False)
    votes = random_votes()
    votes.data[:] = 0
    far = int(case.engine().score_rows(histories[:1])[0].argmin())
    votes.indices[votes.indptr[9]], votes.data[votes.indptr[9]] = far, 1.0
    engine = case.engine(scorer=ItemEvidence(votes, 100.0), beam_width=1)
    assert engine.recommend_rows(histories[:1], 1, evidence=True)[0].tolist() == [[far]]
    assert engine.recommend_rows(histories[:1], 1, evidence=False)[0].tolist() != [[far]]


@pytest.mark.parametrize("backend", ["cpp", "torch"])
@pytest.mark.parametrize("exact", [False, True])
def test_a_catalogue_that_changed(histories, backend, exact):
    case = ItemCase("code", "codes", "transformer", False)
    engine = engine_of(case)
    gone = [3, 7, 31]
    engine.remove_items([f"item {row}" for row in gone])
    engine.add_items(new_items(2), item_sids(12, seed=5)[:2])
    rows, scores = engine.recommend_rows(histories, 59, backend=backend, exact=exact)
    total = engine.score_rows(histories)
    total[:, :NUM_ITEMS] += np.stack([plain_evidence(h) for h in histories])
    for own, found, want in zip(rows, scores, total, strict=True):
        assert sorted(own.tolist()) == sorted(set(range(62)) - set(gone))
        np.testing.assert_allclose(found, want[own], atol=1e-5)
        assert (np.diff(found) <= 1e-5).all()
    narrow, _ = engine.recommend_rows(histories, 3, beam_width=3, backend=backend)
    assert not set(narrow.ravel().tolist()) & set(gone)


def test_who_decides(histories):
    case = ItemCase("code", "codes", "transformer", False)
    scorer = ItemEvidence(SUM, SCALE)
    silent, loud = case.engine(scorer=scorer), engine_of(case)
    plain = case.engine()
    want = plain.recommend_rows(histories, 5)
    for found in (
        silent.recommend_rows(histories, 5),
        loud.recommend_rows(histories, 5, evidence=False),
    ):
        np.testing.assert_array_equal(found[0], want[0])
        np.testing.assert_array_equal(found[1], want[1])
    both = loud.recommend_rows(histories, 5), silent.recommend_rows(histories, 5, evidence=True)
    np.testing.assert_array_equal(both[0][1], both[1][1])
    assert (both[0][1] != want[1]).any()
    assert case.engine(evidence="auto").recommend_rows(histories, 5)[0].shape == (5, 5)


def test_refuses(histories):
    case = ItemCase("code", "codes", "transformer", False)
    with pytest.raises(InputError, match="needs an engine that was given evidence"):
        case.engine().recommend_rows(histories, evidence=True)
    with pytest.raises(InputError, match="needs normalize='codebook', got 'children'"):
        engine_of(case).recommend_rows(histories, normalize="children")
    with pytest.raises(InputError, match="of the catalogue's 60 items, is of 59"):
        case.engine(scorer=ItemEvidence(random_votes(59)))


@pytest.mark.parametrize("decoder", ["transformer", "heads"])
def test_logits_that_are_not_finite_name_the_history(histories, decoder):
    case = ItemCase("item", "codes", decoder, False)
    engine = engine_of(case, beam_width=1)
    found = engine.recommend_rows(histories, 1)[0]  # of the evidence's items, most are not
    written = engine._items.view.table.item_slots.written
    slots = case.slots[np.setdiff1d(np.arange(NUM_ITEMS), found)]
    written[torch.from_numpy(slots)] = torch.nan
    with pytest.raises(NonFiniteLogitsError, match="history"):
        engine.recommend_rows(histories, 1)
