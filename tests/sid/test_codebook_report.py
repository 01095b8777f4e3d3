import json

import numpy as np
import pytest

from store_engine.sid.codebook_report import (
    advice,
    codebook_report,
    neighbours_share_prefix,
    redundancy,
)
from store_engine.sid.collisions import describe
from store_engine.sid.quantizers.item_clusters import ItemClusters
from store_engine.sid.sid_table import SidTable


def table_of(sids, sizes, **parts):
    ids = tuple(map(str, range(len(sids))))
    return SidTable(np.asarray(sids, np.int32), sizes, ids, **parts)


def test_redundancy_is_the_adjusted_r2_of_a_regression_on_codes():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 5, 200)
    codes = np.stack([first, (first + rng.integers(0, 2, 200)) % 5, rng.integers(0, 3, 200)], 1)
    for target in range(3):
        for other in range(3):
            x, y = (np.eye(5)[codes[:, level]] for level in (other, target))
            left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
            r2 = 1 - (left**2).sum() / ((y - y.mean(0)) ** 2).sum()
            k = len(np.unique(codes[:, other]))
            want = 1 - (1 - r2) * 199 / (200 - k)
            got = redundancy(codes.astype(np.int32))[target, other]
            assert got == pytest.approx(want if target != other else 1)


def test_redundancy_of_codes_that_say_everything_and_nothing():
    codes = np.random.default_rng(0).integers(0, 16, (5000, 2)).astype(np.int32)
    assert abs(redundancy(codes)[0, 1]) < 0.005
    copied = np.stack([codes[:, 0], 15 - codes[:, 0]], 1)
    assert redundancy(copied) == pytest.approx(np.ones((2, 2)))
    one_code = np.stack([codes[:, 0], np.zeros(5000, np.int32)], 1)
    assert (redundancy(one_code) == np.eye(2)).all()
    numbered = np.stack([np.arange(9), np.arange(9)], 1).astype(np.int32)
    assert (redundancy(numbered) == np.eye(2)).all()


@pytest.mark.parametrize("num_items", [1, 5, 300])
def test_neighbours_that_share_prefixes_equal_a_loop(num_items):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((num_items, 2, 3)).astype(np.float32)
    sids = rng.integers(0, 3, (num_items, 4)).astype(np.int32)
    flat, hits, pairs = vectors.reshape(num_items, -1), np.zeros(3), 0
    for item in range(num_items):
        distances = ((flat - flat[item]) ** 2).sum(1)
        distances[item] = np.inf
        for neighbour in np.argsort(distances)[: min(10, num_items - 1)]:
            pairs += 1
            for length in range(3):
                hits[length] += (sids[item, : length + 1] == sids[neighbour, : length + 1]).all()
    got = neighbours_share_prefix(vectors, sids, seed=0)
    np.testing.assert_allclose(got, hits / max(pairs, 1))


def test_of_equal_items_each_has_ten_neighbours():
    sids = np.zeros((40, 2), np.int32)
    sids[:20, 0] = 1
    shares = neighbours_share_prefix(np.ones((40, 1, 2), np.float32), sids, seed=0)
    assert shares.shape == (1,)
    assert 0 <= shares[0] <= 1


def test_the_report_is_json_and_in_words():
    sids = [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 1]]
    table = table_of(sids, (2, 2, 2), neighbours_share_prefix=np.array([0.75, 0.25]))
    report = json.loads(json.dumps(codebook_report(table, num_codes=2)))
    assert report["prefix_by_chance"] == pytest.approx([4 / 12, 2 / 12])
    assert report["neighbours_share_prefix"] == [0.75, 0.25]
    assert np.shape(report["redundancy"]) == (2, 2)
    assert report["num_collision_groups"] == 1
    assert "75.0% of the 10 nearest items share the first 1 codes, 33.3% of any" in describe(report)
    without = codebook_report(table_of(sids, (2, 2, 2)), num_codes=2)
    assert "neighbours_share_prefix" not in without
    assert "nearest" not in describe(without)


def test_of_item_clusters_the_last_level_describes_nothing():
    vectors = np.random.default_rng(0).standard_normal((60, 1, 4)).astype(np.float32)
    sids = np.column_stack([np.arange(60) % 4, np.arange(60)]).astype(np.int32)
    table = table_of(sids, (4, 64), quantizer=ItemClusters.of(vectors, sids))
    report = codebook_report(table, num_codes=3)
    assert np.shape(report["redundancy"]) == (1, 1)
    assert report["largest_group"] == 15
    describe(report)


def test_measured_neighbours_are_saved_and_checked(tmp_path):
    shares = np.array([0.5])
    table_of([[0, 0], [0, 1]], (1, 2), neighbours_share_prefix=shares).save(tmp_path / "sids.npz")
    assert np.array_equal(SidTable.load(tmp_path / "sids.npz").neighbours_share_prefix, shares)
    for wrong in [0.5, 0.5], [1.5], [np.nan]:
        with pytest.raises(ValueError, match="neighbours_share_prefix must be shares"):
            table_of([[0, 0], [0, 1]], (1, 2), neighbours_share_prefix=np.array(wrong))


def test_advice_names_what_could_be_better_chosen():
    good = table_of([[a, b, 0] for a in range(4) for b in range(4)], (4, 4, 1))
    assert advice(good, 2) == []
    shared = table_of([[0, 0, 0], [0, 0, 1], [1, 1, 0], [2, 0, 0], [3, 1, 0]], (4, 2, 2))
    (line,) = advice(shared, 2)
    assert line.startswith("40% of the items have the codes of another one")
    unused = table_of([[a, b, 0] for a in range(4) for b in range(4)], (9, 8, 1))
    assert advice(unused, 2) == [
        "level 0 uses 4 of 9 codes: a smaller tokenizer.codebook_size says as much"
    ]
