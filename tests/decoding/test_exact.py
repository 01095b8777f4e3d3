import numpy as np
import pytest
import torch
from item_engines import NUM_ITEMS, ItemCase, item_sids, new_items

from store_engine.decoding.backends import NonFiniteLogitsError
from store_engine.model.attention import PackedSequences


def naive_scores(bench, history):
    """Runs every item's whole sequence through the model."""
    model, context = bench.model, bench.tokens(history)
    scores = []
    for row, sid in enumerate(bench.sids.tolist()):
        tokens = torch.cat([context, bench.item_tokens[row]])
        sequence = PackedSequences(torch.tensor([0, len(tokens)]))
        hidden = model.hidden_states(model.embed(tokens), sequence)[len(context) - 1 :]
        logprobs = [model.level_logits(hidden[i], i).log_softmax(-1)[c] for i, c in enumerate(sid)]
        scores.append(float(sum(logprobs)))
    return torch.tensor(scores)


@pytest.mark.parametrize("chunk_tokens", [1, 16, 63, 4096])
def test_equals_scoring_every_item_alone(make_bench, histories, chunk_tokens, monkeypatch):
    monkeypatch.setattr("store_engine.decoding.exact._CHUNK_TOKENS", chunk_tokens)
    bench = make_bench(num_items=40)
    got = bench.scores(histories)
    want = torch.stack([naive_scores(bench, history) for history in histories])
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_children_normalisation_is_a_distribution_over_sids(make_bench, histories):
    bench = make_bench(num_items=150)
    scores = bench.scores(histories, normalize="children")
    _, first = np.unique(bench.sids, axis=0, return_index=True)  # one item per SID
    torch.testing.assert_close(scores[:, first].exp().sum(1), torch.ones(len(histories)))


def test_items_of_one_sid_score_the_same(make_bench):
    sids = np.array([[1, 2, 3], [0, 0, 0], [1, 2, 3]], dtype=np.int32)
    bench = make_bench(sids=sids)
    scores = bench.scores([[1], []])
    assert torch.equal(scores[:, 0], scores[:, 2])


def test_refuses_nan(make_bench):
    bench = make_bench()
    bench.model.code_head.weight[-1] = torch.nan
    with pytest.raises(ValueError, match="level 2: logits NaN"):
        bench.scores([[1]])


@pytest.mark.parametrize("history", ["codes", "items"])
@pytest.mark.parametrize("is_live", [False, True])
def test_independent_codes_are_ranked_in_one_scan(histories, history, is_live, monkeypatch):
    case = ItemCase("code", history, "heads", False)
    case.model.code_head.weight.mul_(4).round_().div_(4)  # many equal scores
    engine = case.engine()
    if is_live:
        engine.remove_items(["item 3", "item 31"])
        engine.add_items(new_items(4), item_sids(12, seed=5)[[0, 1, 0, 2]])
    engine.define("even", [f"item {row}" for row in range(0, NUM_ITEMS, 2) if row not in (3, 31)])
    options = [{}, {"allow": ["even", None] * 2 + ["even"], "exclude": [[2], [], [4, 4], [0], []]}]
    options += [{"exclude_history": True}]
    found = [engine.recommend_rows(histories, k, exact=True, **o) for o in options for k in (1, 70)]
    monkeypatch.setattr("store_engine.decoding.engine.has_independent_codes", lambda *_: False)
    want = [engine.recommend_rows(histories, k, exact=True, **o) for o in options for k in (1, 70)]
    for one, other in zip(found, want, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_one_scan_names_a_history_with_logits_that_are_not_finite(histories):
    case = ItemCase("code", "codes", "heads", False)
    engine = case.engine()
    case.model.level_heads[1].down_proj.weight.fill_(torch.nan)
    with pytest.raises(NonFiniteLogitsError, match=r"history 0 \(and 4 more\): level 1"):
        engine.recommend_rows(histories, 3, exact=True)
