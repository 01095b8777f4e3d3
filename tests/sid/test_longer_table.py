"""New items find a place beside the old ones, whose SIDs stay."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine.config import Config, TokenizerConfig
from store_engine.errors import InputError
from store_engine.sid.clusters import item_sids, with_item_level
from store_engine.sid.collisions import resolve_collisions
from store_engine.sid.item_features import fit_features
from store_engine.sid.longer_table import extended
from store_engine.sid.quantizers.item_clusters import ItemClusters
from store_engine.sid.quantizers.parallel import ParallelQuantizer
from store_engine.sid.quantizers.quantizer import FitSettings
from store_engine.sid.sid_table import SidTable


def ids(num):
    return tuple(f"i{n}" for n in range(num))


def vectors(num_items, seed=0, num_codes=2, dim=6):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((num_items, num_codes, dim)).astype(np.float32)


def config_of(**settings):
    return Config(tokenizer=TokenizerConfig(**{"num_codes": 2, "codebook_size": 4} | settings))


def code_table(dense, config):
    """A table as `make_sids` makes it."""
    settings = config.tokenizer
    quantizer = ParallelQuantizer.fit(dense, FitSettings(2, settings.codebook_size, 4, 10, 0))
    codes, distances = quantizer.encode(dense), quantizer.distances(dense)
    sids, sizes = resolve_collisions(codes, settings.codebook_size, distances, settings.collisions)
    return SidTable(sids, sizes, ids(len(dense)), quantizer)


def item_table(dense, codebook_size=4):
    features = fit_features(dense, 8)
    described = features(dense)
    sids, sizes = item_sids(described[:, :-1], codebook_size, 0)
    clusters = ItemClusters.of(described[:, None], sids)
    return SidTable(sids, sizes, ids(len(dense)), clusters, features=features)


def check(table, longer, is_unique=True):
    num_old = len(table.sids)
    assert (longer.sids[:num_old] == table.sids).all()
    assert longer.codebook_sizes[:-1] == table.codebook_sizes[:-1]
    assert longer.codebook_sizes[-1] >= table.codebook_sizes[-1]
    if is_unique:
        assert len(np.unique(longer.sids, axis=0)) == len(longer.sids)


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(0, 5))
def test_a_suffix_goes_on_behind_the_largest(num_new, seed):
    config, old, new = config_of(collisions="suffix"), vectors(20), vectors(num_new, seed)
    table = code_table(old, config)
    longer = extended(table, ids(20 + num_new), new, config)
    check(table, longer)
    assert (longer.sids[20:, :2] == table.quantizer.encode(new)).all()
    # as many suffixes as there are items of the same codes, without a gap
    for codes in np.unique(longer.sids[:, :2], axis=0):
        own = longer.sids[(longer.sids[:, :2] == codes).all(1), 2]
        assert sorted(own.tolist()) == list(range(len(own)))
    assert longer.codebook_sizes[-1] == longer.sids[:, 2].max() + 1


def test_shared_codes_stay_shared():
    config, old = config_of(collisions="share"), vectors(20)
    table = code_table(old, config)
    longer = extended(table, ids(40), old, config)
    check(table, longer, is_unique=False)
    assert (longer.sids[20:] == table.sids).all()


def test_reassigned_items_take_free_codes_nearby():
    config, old = config_of(collisions="reassign", codebook_size=8), vectors(20)
    table = code_table(old, config)
    assert table.sids.shape[1] == 2
    longer = extended(table, ids(25), old[:5], config)  # whose own codes are taken
    check(table, longer)
    assert longer.codebook_sizes == table.codebook_sizes


def test_reassigned_items_without_a_free_place_are_refused():
    config, old = config_of(collisions="reassign", codebook_size=4), vectors(12)
    table = code_table(old, config)
    assert table.sids.shape[1] == 2
    with pytest.raises(InputError, match="does not fit"):
        extended(table, ids(12 + 40), vectors(40, 3), config)  # 16 combinations


@pytest.mark.parametrize("num_new", [1, 30, 200])
def test_items_find_their_cluster_and_leave_room(num_new):
    config, old, new = config_of(last_level="item"), vectors(60), vectors(num_new, 1)
    table = item_table(old)
    longer = extended(table, ids(60 + num_new), new, config)
    check(table, longer)
    assert longer.codebook_sizes[-1] >= 2 * (longer.sids[:, -1].max() + 1) - 1
    assert longer.quantizer is table.quantizer
    if num_new == 1:  # the nearest cluster
        described = table.features(new)
        assert (longer.sids[60, :-1] == table.quantizer.encode(described[:, None])).all()


def test_more_items_than_twice_the_room_are_refused():
    table = item_table(vectors(16))
    room = 2 * table.codebook_sizes[-1] * len(table.quantizer.prefixes)
    with pytest.raises(InputError, match="do not fit"):
        extended(table, ids(16 + room), vectors(room, 2), config_of(last_level="item"))


def test_codes_brought_as_a_file_are_read_for_new_items_too(tmp_path):
    config = config_of(sids_file="sids.csv", collisions="suffix")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(tmp_path)))
    lines = "".join(f"i{n},{n % 2},1\n" for n in range(4))
    (tmp_path / "sids.csv").write_text("item_id,code_0,code_1\n" + lines)
    codes = np.array([[0, 1], [1, 1]], dtype=np.int32)
    sids, sizes = resolve_collisions(codes, 4, np.zeros((0, 0, 0), np.float32), "suffix")
    table = SidTable(sids, sizes, ids(2))
    longer = extended(table, ids(4), np.zeros((2, 2, 6), np.float32), config)
    assert longer.sids.tolist() == [[0, 1, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1]]
    with pytest.raises(InputError, match="have no SID, the first is 'i4'"):
        extended(table, ids(5), np.zeros((3, 2, 6), np.float32), config)


@pytest.mark.parametrize("collisions", ["suffix", "share"])
def test_items_of_a_file_are_numbered_on_in_their_cluster(tmp_path, collisions):
    config = config_of(sids_file="sids.csv", last_level="item", collisions=collisions)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(tmp_path)))
    table = item_table(vectors(16))
    codes = np.resize(table.sids[0, :-1], 2)  # of the first item, at two levels
    lines = "".join(f"i{n},{codes[0]},{codes[1]}\n" for n in range(18))
    (tmp_path / "sids.csv").write_text("item_id,code_0,code_1\n" + lines)
    prefixes = np.hstack([table.sids[:, :1], table.sids[:, :1]])
    sids, last_size = with_item_level(prefixes)
    table = dataclasses.replace(table, sids=sids, codebook_sizes=(4, 4, last_size))
    longer = extended(table, ids(18), vectors(2, 1), config)
    check(table, longer)
    num = int((prefixes == codes).all(1).sum())
    assert longer.sids[16:].tolist() == [[*codes, num], [*codes, num + 1]]


def test_what_cannot_be_known_of_new_items_is_refused():
    old = vectors(20)
    table = code_table(old, config_of())
    with pytest.raises(InputError, match="made of co-visits"):
        extended(table, ids(21), old[:1], config_of(space="collaborative"))
    brought = dataclasses.replace(table, quantizer=None)
    with pytest.raises(InputError, match="no codebook"):
        extended(brought, ids(21), old[:1], config_of())
    with pytest.raises(ValueError, match="must be those of the table"):
        extended(table, ids(21)[::-1], old[:1], config_of())


def test_without_new_items_nothing_changes():
    table = code_table(vectors(20), config_of(space="collaborative"))
    empty = np.zeros((0, 2, 6), np.float32)
    assert extended(table, ids(20), empty, config_of(space="collaborative")) is table
