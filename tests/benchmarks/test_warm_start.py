import numpy as np
import pytest

from benchmarks.quality.cold_split import Events
from benchmarks.warm_start import cut, main, show


@pytest.mark.parametrize(
    ("share", "new", "kept"),
    [
        (0.1, set(), [0, 1, 2, 4]),  # the last one of u and v
        (0.5, set(), [0, 2, 4]),
        (0.1, {"b"}, [0, 4]),  # and from the first new item on
        (0.1, {"a"}, []),
        (0.99, set(), []),
    ],
)
def test_a_history_loses_its_last_part(share, new, kept):
    #        0: u@1  1: u@3  2: u@2  3: u@4  4: v@1  5: v@1, later in the file
    events = Events(list("uuuuvv"), list("acbdab"), np.array([1, 3, 2, 4, 1, 1]))
    assert cut(events, new, share) == kept


def test_a_share_out_of_range_is_one_line(tmp_path, capsys):
    arguments = ["--dataset", "office", "--data", str(tmp_path), "--work", str(tmp_path)]
    assert main([*arguments, "--share", "1"]) == 2
    assert "--share must be between 0 and 1" in capsys.readouterr().err


def test_the_table_has_a_row_each(capsys):
    row = {"recall@10": 0.1, "ndcg@10": 0.2, "llm_alone_recall@10": 0.3, "llm_alone_ndcg@10": 0.4}
    row |= {"steps": {"recommender": 5}, "minutes": 1.0, "cpu_minutes": 2.0}
    found = dict.fromkeys(("yesterday", "as it is", "warm", "anew"), row)
    found |= {"dataset": "x", "new_items": 1, "new_events": 2, "events": 3}
    show(found | {"machine": "m", "commit": "c"})
    out = capsys.readouterr().out
    assert out.count("0.1000") == 4
