"""SIDs of new items: each rule against what its words say, on random catalogues."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine.config import TokenizerConfig
from store_engine.errors import InputError
from store_engine.sid.collisions import resolve_collisions
from store_engine.sid.new_sids import SidRule, _nearest_first, _Used
from store_engine.sid.quantizers.kinds import QUANTIZERS
from store_engine.sid.quantizers.quantizer import FitSettings
from store_engine.sid.sid_table import SidTable

NUM_CODES, SIZE = 2, 3


def vectors(num, seed):
    return np.random.default_rng(seed).normal(size=(num, NUM_CODES, 6)).astype(np.float32)


@functools.cache
def rule_of(how, num_items=20, quantizer="parallel", seed=0):
    dense_tokens = vectors(num_items, seed)
    fitted = QUANTIZERS[quantizer].fit(dense_tokens, FitSettings(NUM_CODES, SIZE, 4, 5, 0))
    codes, distances = fitted.encode(dense_tokens), fitted.distances(dense_tokens)
    sids, sizes = resolve_collisions(codes, SIZE, distances, how)
    table = SidTable(sids, sizes, tuple(map(str, range(num_items))), fitted)
    chosen = TokenizerConfig(num_codes=NUM_CODES, codebook_size=SIZE, collisions=how)
    return SidRule(table, chosen), table


@pytest.mark.parametrize("quantizer", ["parallel", "residual"])
@pytest.mark.parametrize("how", ["suffix", "reassign", "share"])
@settings(max_examples=25)
@given(num=st.integers(1, 12), seed=st.integers(0, 99), share=st.floats(0, 1))
def test_new_sids_keep_what_the_rule_promises(how, quantizer, num, seed, share):
    rule, table = rule_of(how, quantizer=quantizer)
    rng = np.random.default_rng(seed)
    taken = table.sids[rng.random(len(table.sids)) < share]
    dense_tokens = vectors(num, seed + 1000)
    found = rule.nearest(dense_tokens)
    room = int(np.prod(table.codebook_sizes)) - len(np.unique(taken, axis=0))
    try:
        new = rule.choose(dense_tokens, found, taken)
    except InputError:
        assert how != "share"
        assert room < num
        return
    assert ((new.sids >= 0) & (new.sids < np.array(table.codebook_sizes))).all()
    is_moved = (new.sids[:, :NUM_CODES] != found.codes).any(1)
    if how == "share":
        assert not is_moved.any()
        return
    together = np.concatenate([np.unique(taken, axis=0), new.sids])
    assert len(np.unique(together, axis=0)) == len(together)
    assert is_moved.sum() <= new.num_moved
    if how == "suffix":
        for item in np.flatnonzero(is_moved):  # it moved for want of room alone
            own = (together[:, :NUM_CODES] == found.codes[item]).all(1)
            assert own.sum() == table.codebook_sizes[-1]


def test_suffixes_are_filled_from_the_lowest():
    rule, table = rule_of("suffix")
    same = np.repeat(vectors(1, 5), 3, axis=0)
    found = rule.nearest(same)
    prefix = found.codes[0].tolist()
    others = table.sids[(table.sids[:, :NUM_CODES] != prefix).any(1)]
    taken = np.concatenate([others, [[*prefix, 1]]]).astype(np.int32)
    size = table.codebook_sizes[-1]
    wanted = [n for n in range(size) if n != 1][:3]
    chosen = rule.choose(same[: len(wanted)], found.of(np.arange(3) < len(wanted)), taken)
    assert chosen.sids.tolist() == [[*prefix, n] for n in wanted]


def test_a_full_catalogue_is_refused_with_a_remedy():
    rule, table = rule_of("suffix")
    every = np.stack(np.meshgrid(*map(np.arange, table.codebook_sizes)), -1)
    taken = every.reshape(-1, len(table.codebook_sizes)).astype(np.int32)
    dense_tokens = vectors(1, 7)
    with pytest.raises(InputError, match="remove items, or train anew"):
        rule.choose(dense_tokens, rule.nearest(dense_tokens), taken)


def test_combinations_come_nearest_first():
    distances = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    listed = list(_nearest_first(distances))
    assert len(listed) == len(set(listed)) == 64
    costs = [sum(distances[n, c] for n, c in enumerate(sid)) for sid in listed]
    assert costs == sorted(costs)


def test_a_hash_that_two_prefixes_share_mixes_nothing_up(monkeypatch):
    monkeypatch.setattr(_Used, "_hash", lambda self, p: np.zeros(len(p), dtype=np.uint64))
    taken = np.array([[0, 0, 0], [0, 1, 0], [0, 1, 1]], dtype=np.int32)
    used = _Used(taken, 2, np.array([[0, 0], [0, 1], [2, 2]], dtype=np.int32))
    assert [used.take(prefix, 3, 3) for prefix in ((0, 0), (0, 1), (2, 2))] == [1, 2, 0]


@pytest.mark.parametrize(
    ("changes", "has_quantizer", "message"),
    [
        ({}, False, "brought as a file"),
        ({"space": "collaborative"}, True, "made of co-visits"),
    ],
)
def test_refuses_runs_that_cannot_read_new_items(changes, has_quantizer, message):
    _, table = rule_of("suffix")
    if not has_quantizer:
        table = SidTable(table.sids, table.codebook_sizes, table.item_ids)
    with pytest.raises(InputError, match=message):
        SidRule(table, TokenizerConfig(num_codes=NUM_CODES, **changes))
