import numpy as np
import pytest

from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.split import leave_one_out
from store_engine.errors import InputError
from store_engine.evaluation.impressions import measure_impressions, read_shown

CATALOG = Catalog(tuple("abcdef"), {"title": ("",) * 6})
HISTORIES = Histories(("u", "v"), np.array([0, 1, 2, 3, 4, 5], np.int32), np.array([0, 3, 6]))
SPLIT = leave_one_out(HISTORIES)  # c is to be found of u, f of v
HEAD = "impression_id,user_id,item_id,timestamp,label\n"
ROWS = (
    ("1", "u", "c", 10, 1), ("1", "u", "a", 10, 0),  # an earlier one
    ("2", "u", "c", 20, 1), ("2", "u", "b", 20, 1), ("2", "u", "d", 20, 0), ("2", "u", "e", 20, 0),
    ("3", "v", "e", 30, 1), ("3", "v", "f", 30, 0),  # another item was clicked
    ("4", "v", "f", 25, 1), ("4", "v", "a", 25, 0), ("4", "v", "zzz", 25, 0),  # unknown
    ("5", "w", "c", 40, 1), ("5", "w", "a", 40, 0),  # no test user
)  # fmt: skip


def write(path, rows=ROWS):
    path.write_text(HEAD + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


class Scorer:
    """Prefers the later letters of the alphabet."""

    def probabilities(self, histories, candidates):
        assert all(history.tolist() in ([0, 1], [3, 4]) for history in histories)
        return candidates / 10


def test_what_was_shown_beside_the_test_items(tmp_path):
    found = read_shown(write(tmp_path / "shown.csv"), SPLIT, CATALOG)
    triples = zip(found.examples.tolist(), found.rows.tolist(), found.labels.tolist(), strict=True)
    assert list(triples) == [(0, 2, 1), (0, 3, 0), (0, 4, 0), (1, 5, 1), (1, 0, 0)]


def test_figures_by_hand(tmp_path):
    found = read_shown(write(tmp_path / "shown.csv"), SPLIT, CATALOG)
    figures = measure_impressions(Scorer(), SPLIT, found)
    assert (figures["num_impressions"], figures["num_shown"]) == (2, 5)
    # c (.2) against d, e, a (.3, .4, .0); f (.5) against all three
    assert figures["auc"] == pytest.approx(4 / 6)
    assert figures["gauc"] == pytest.approx((3 * 0 + 2 * 1) / 5)
    assert figures["ndcg@5"] == pytest.approx((1 / np.log2(4) + 1) / 2)
    want = -np.log([0.2, 0.7, 0.6, 0.5, 1 - 1e-7]).mean()
    assert figures["log_loss"] == pytest.approx(want)


def test_refuses(tmp_path):
    with pytest.raises(InputError, match=r"line 2: label must be 0 or 1, got '2'"):
        read_shown(write(tmp_path / "bad.csv", [("1", "u", "c", 1, 2)]), SPLIT, CATALOG)
    found = read_shown(write(tmp_path / "none.csv", ROWS[-2:]), SPLIT, CATALOG)
    with pytest.raises(InputError, match="no impression shows the item"):
        measure_impressions(Scorer(), SPLIT, found)


def test_what_prepare_writes_of_mind(tmp_path):
    """From behaviors.tsv to candidates."""
    pytest.importorskip("duckdb", reason="the extra `prepare`")
    from data_files import write_files
    from data_samples import SAMPLES

    from store_engine.prepare.output import prepare
    from store_engine.prepare.readers.discover import Choices, discover
    from store_engine.prepare.rules import Rules

    source = write_files(tmp_path / "source", SAMPLES["mind"].files)
    out = tmp_path / "out"
    prepare(discover([source], [], [], Choices()), Rules(min_user=3), out, False, lambda _: None)
    catalog = Catalog(("N55189", "N42782", "N55689", "N35729"), {"title": ("",) * 4})
    rows = np.array([0, 1, 2, 3, 0, 3, 2], np.int32)
    split = leave_one_out(Histories(("U13740", "U91836"), rows, np.array([0, 4, 7])))
    found = read_shown(out / "impressions.parquet", split, catalog)
    triples = zip(found.examples.tolist(), found.rows.tolist(), found.labels.tolist(), strict=True)
    # of the first user nothing else was shown then; of the second what was clicked before is out
    assert sorted(triples) == [(0, 3, 1), (1, 1, 0), (1, 2, 1)]
