"""Tables of JSON rows: the last of rows alike, both rules on one line."""

import json

from benchmarks.tabulating.quality_tables import baselines_table, cold_start_table, scoring_table


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_model_has_one_line_of_both_rules(tmp_path):
    row = {"dataset": "beauty", "model": "sasrec_refit+evidence", "start": "random", "seed": 0}
    for recall in (0.5, 0.25):  # measured again
        rules = {"seen_left_out": recall, "seen_allowed": recall / 2}
        rows = [
            row | {"rule": rule, "cpu_seconds": 90, "metrics": {"recall@10": x, "ndcg@10": x / 5}}
            for rule, x in rules.items()
        ]
        with (tmp_path / "baselines.jsonl").open("a") as file:
            file.writelines(json.dumps(one) + "\n" for one in rows)
    (line,) = baselines_table(tmp_path).splitlines()[2:]
    title = "SASRec, random start, refitted, with our evidence"
    assert line == f"| beauty | {title} | .2500 | .0500 | .1250 | .0250 | 2 |"


def test_new_items_beside_neighbours_by_text(tmp_path):
    one, two = {"recall@1": 0.1, "recall@10": 0.2}, {"recall@1": 0.3, "recall@10": 0.4}
    both = {"ours": one, "text_neighbours": two}
    row = {"dataset": "beauty", "cold": "newest:0.02", "seed": 0, "num_cold": 1234}
    row |= {"among_cold": both, "full_catalogue": both, "warm_before": two, "warm_after": one}
    write(tmp_path / "cold_start.jsonl", row | {"num_cold": 7}, row)
    (line,) = cold_start_table(tmp_path).splitlines()[2:]
    low, high = ".1000 / .2000", ".3000 / .4000"
    cells = ["beauty", "newest 2 % (1,234)", low, high, low, high, high, low]
    assert line == "| " + " | ".join(cells) + " |"


def test_click_through_and_nothing_measured(tmp_path):
    assert scoring_table(tmp_path) == baselines_table(tmp_path) == "Not measured yet."
    metrics = {"auc": 0.75, "gauc": 0.5, "log_loss": 0.625}
    write(tmp_path / "scoring.jsonl", {"model": "scorer", "metrics": metrics})
    assert scoring_table(tmp_path).splitlines()[2:] == ["| our LLM | .750 | .500 | .625 |"]
