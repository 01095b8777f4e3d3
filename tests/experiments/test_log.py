"""experiments.csv: one line an experiment, by any number of writers."""

import csv
from concurrent.futures import ProcessPoolExecutor

import pytest

from store_engine.errors import InputError
from store_engine.experiments.log import COLUMNS, append_experiment, experiment

ROW = {
    "date": "2026-01-02", "variant": "a", "seed": 1, "commit": "abc",
    "overrides": ["x.y=1", "x.z=2"], "minutes": {"total": 1.234},
}  # fmt: skip


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_header_comes_once(tmp_path):
    path = tmp_path / "experiments.csv"
    append_experiment(path, {"variant": "a, b", "note": 'says "no"\nand more'})
    append_experiment(path, {"variant": "c"})
    assert [(line["variant"], line["note"]) for line in lines(path)] == [
        ("a, b", 'says "no"\nand more'),
        ("c", ""),
    ]
    assert path.read_text().count("variant") == 1


def test_a_line_that_a_kill_cut_short_spoils_no_other(tmp_path):
    path = tmp_path / "experiments.csv"
    path.write_text(",".join(COLUMNS) + "\n2026-01-01,beau")
    append_experiment(path, {"variant": "b"})
    assert lines(path)[-1]["variant"] == "b"


def test_another_header_is_refused(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="its first line must be date,dataset"):
        append_experiment(path, {"variant": "b"})
    assert path.read_text() == "a,b\n1,2\n"
    with pytest.raises(InputError, match="no column 'variants'"):
        append_experiment(tmp_path / "new.csv", {"variants": "b"})
    assert not (tmp_path / "new.csv").exists()


def test_many_may_write_at_once(tmp_path):
    path = tmp_path / "experiments.csv"
    with ProcessPoolExecutor(4) as pool:
        for future in [pool.submit(append_experiment, path, {"seed": i}) for i in range(40)]:
            future.result()
    assert sorted(int(line["seed"]) for line in lines(path)) == list(range(40))


def test_a_failure_is_a_line_too():
    values = experiment(ROW | {"status": "failed", "error": "out of memory"})
    assert values["note"] == "failed: out of memory"
    assert values["overrides"] == "x.y=1 x.z=2"
    assert "validation_ndcg@10" not in values


def test_the_test_is_that_of_the_runs_own_rule():
    test = {
        "seen_allowed": {"metrics": {"ndcg@10": 0.1, "recall@10": 0.2}},
        "seen_left_out": {"metrics": {"ndcg@10": 0.3, "recall@10": 0.4}},
    }
    row = ROW | {"status": "finished", "dataset": "d", "primary": "seen_left_out", "test": test}
    values = experiment(row | {"validation": {"ndcg@10": 0.5}}, "why")
    assert set(values) <= set(COLUMNS)
    assert (values["validation_ndcg@10"], values["test_recall@10"]) == ("0.50000", "0.40000")
    assert values["note"] == "why"
