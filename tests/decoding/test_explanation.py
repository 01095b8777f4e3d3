import numpy as np
import pytest
from engines import BOS, catalog_of, random_model, random_sids
from item_engines import random_experts

from store_engine import Engine, InputError
from store_engine.collaborative.evidence import Evidence
from store_engine.collaborative.item_space import Mix
from store_engine.config import DecodingConfig
from store_engine.decoding.evidence import ItemEvidence


def evidence(decay=0.5, window=3, num_items=60, has_experts=False):
    """Every item votes 1 for the next one, and 2 for the one after that."""
    rows = np.arange(num_items, dtype=np.int64)
    pairs = [sorted([((r + 1) % num_items, 1.0), ((r + 2) % num_items, 2.0)]) for r in rows]
    indices = np.array([i for pair in pairs for i, _ in pair], dtype=np.int32)
    data = np.array([v for pair in pairs for _, v in pair], dtype=np.float32)
    indptr = np.arange(0, 2 * num_items + 1, 2)
    experts = random_experts(len(data)) if has_experts else ()
    mix = Mix("unit", 0.0)
    return Evidence(indptr, indices, data, decay, window, {"a": 1.0}, mix, experts=experts)


def make_engine(mode, has_experts=False):
    sids = random_sids(60)
    config = DecodingConfig(beam_width=20, prefix_cache_mib=0, evidence=mode)
    parts = random_model(), catalog_of(60), sids
    scorer = ItemEvidence(evidence(has_experts=has_experts))
    return Engine(*parts, bos=BOS, max_history=5, config=config, evidence=scorer)


@pytest.fixture(params=["auto", "none"])
def engine(request):
    return make_engine(request.param)


@pytest.mark.parametrize(
    ("mode", "has_experts"), [("none", False), ("auto", False), ("auto", True)]
)
def test_explains_the_score_that_the_item_is_recommended_with(mode, has_experts):
    engine = make_engine(mode, has_experts)
    history = [f"item {n}" for n in (40, 7, 3, 4, 9, 2, 3)]
    ranked = engine.recommend([history], 60, exact=True)[0]
    for item in ranked[:3] + ranked[-3:]:
        one = engine.explain(history, item.item_id)
        assert one.logprob == pytest.approx(item.logprob, abs=1e-4)
        assert one.evidence == pytest.approx(item.evidence, abs=1e-5)
        assert one.score == pytest.approx(item.score, abs=1e-4)
        assert [reason.item_id for reason in one.history] == history[-5:]
        assert sum(r.evidence for r in one.history) == pytest.approx(item.evidence, abs=1e-5)
        row = engine.catalog.row_of(item.item_id)
        assert one.sid == tuple(engine.sids[row].tolist())


def test_says_what_each_event_brings(engine):
    history = ["item 3", "item 9", "item 4", "item 3"]
    one = engine.explain(history, "item 5")
    voted = engine.config.evidence == "auto"
    # item 3 votes 2 (now), item 4 votes 1 (one ago), the first item 3 is beyond the window
    want = [0, 0, 0.5, 2] if voted else [0, 0, 0, 0]
    assert [reason.evidence for reason in one.history] == pytest.approx(want)
    assert one.shares == pytest.approx([0, 0, 0.2, 0.8] if voted else [0] * 4)
    alone = engine.recommend([history[1:]], 60, exact=True, evidence=False)[0]
    without = next(item.logprob for item in alone if item.item_id == "item 5")
    assert one.history[0].logprob_gain == pytest.approx(one.logprob - without, abs=1e-4)
    sids = engine.sids
    for reason in one.history:
        same = sids[engine.catalog.row_of(reason.item_id)] == sids[5]
        assert reason.shared_codes == (3 if same.all() else int(np.argmin(same)))


def test_an_empty_history_and_items_that_are_not_there(engine):
    assert engine.explain([], "item 1").history == ()
    with pytest.raises(InputError, match="unknown item id 'x'"):
        engine.explain([], "x")
    engine.remove_items(["item 1"])
    with pytest.raises(InputError, match="'item 1' was removed"):
        engine.explain(["item 1"], "item 1")
    assert engine.explain(["item 1"], "item 2").history[0].item_id == "item 1"
    with pytest.raises(TypeError, match="either histories or users"):
        engine.explain(None, "item 2")
