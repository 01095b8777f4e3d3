import json
import re

import torch

from benchmarks.measuring.json_rows import append_rows, provenance, read_rows


def test_rows_are_appended_in_order(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    assert read_rows(path) == []
    append_rows(path, [{"a": 1}, {"a": "\u00e9"}])
    append_rows(path, [{"b": [0.5]}])
    assert read_rows(path) == [{"a": 1}, {"a": "\u00e9"}, {"b": [0.5]}]
    assert len(path.read_text().splitlines()) == 3


def test_a_row_says_where_and_when():
    found = provenance()
    assert list(found) == ["machine", "threads", "commit", "date"]
    assert found["threads"] == torch.get_num_threads()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    json.dumps(found)
