"""Rows: kept, replaced, grouped."""

import pytest

from store_engine.errors import InputError
from store_engine.experiments.provenance import commit, data_checksum, machine
from store_engine.experiments.rows import (
    Effort,
    by_variant,
    mean_std,
    peer_row,
    read_rows,
    save_row,
)


def row(variant, seed, validation=0.1, test=0.0, status="finished"):
    metrics = {"ndcg@10": test, "recall@10": test}
    return {
        "variant": variant, "seed": seed, "status": status, "validation": {"ndcg@10": validation},
        "test": {"seen_allowed": {"metrics": metrics}},
    }  # fmt: skip


def test_a_row_replaces_that_of_its_variant_and_seed(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    assert read_rows(path) == []
    for variant, seed, validation in (("a", 0, 0.1), ("a", 1, 0.2), ("b", 0, 0.3), ("a", 0, 0.4)):
        save_row(path, row(variant, seed, validation))
    got = [(r["variant"], r["seed"], r["validation"]["ndcg@10"]) for r in read_rows(path)]
    assert got == [("a", 1, 0.2), ("b", 0, 0.3), ("a", 0, 0.4)]


@pytest.mark.parametrize("line", ["3", "{}", '{"variant": "a", "seed": "0"}', "{"])
def test_what_is_no_row_is_refused(line, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError, match=r"rows.jsonl line 1: "):
        read_rows(path)


def test_validation_alone_ranks():
    rows = [row("worse", 0, 0.1, 0.9), row("better", 0, 0.2, 0.1), row("better", 1, 0.3, 0.0)]
    rows.append(row("broken", 0, 0.9, 0.9, "failed"))
    assert list(by_variant(rows)) == ["better", "worse"]
    other = [r | {"test": {}} for r in rows]
    assert list(by_variant(other)) == ["better", "worse"]


def test_a_single_seed_has_no_deviation():
    assert mean_std([0.5]) == (0.5, None)
    assert mean_std([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))


def test_a_peer_has_a_row(tmp_path):
    effort = Effort(1.5, 1, "abc", "a machine", 1)
    rules = {"seen_allowed": {"metrics": {"ndcg@10": 0.1}, "buckets": {}}}
    save_row(tmp_path / "rows", peer_row("sasrec", "SASRec", 0, {"test": rules}, effort))
    (got,) = read_rows(tmp_path / "rows")
    assert got["test"]["seen_allowed"] == {"metrics": {"ndcg@10": 0.1}, "baselines": {}}
    assert got["minutes"] == {"total": 1.5}


def test_the_datas_folder_is_not_the_data():
    here = {"/a/items.csv": "1", "/a/interactions.csv": "2"}
    there = {"/b/c/interactions.csv": "2", "/b/c/items.csv": "1"}
    assert (
        data_checksum(here) == data_checksum(there) != data_checksum(here | {"/a/items.csv": "3"})
    )
    assert data_checksum({}) == ""


def test_a_figure_says_where_it_comes_from():
    assert machine()
    assert commit()
