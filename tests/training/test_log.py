import json
import os

import pytest

from store_engine.errors import InputError
from store_engine.training.log import VALIDATION, TrainLog, in_words, last_rise, read_log


def steps(path):
    return [(entry["stage"], entry["step"]) for entry in read_log(path)]


def write(path, stage, first_step, last_step):
    with TrainLog(path, stage, first_step, 10, is_silent=False) as log:
        for step in range(first_step + 1, last_step + 1):
            log.step(step, {"loss": 1.0 / step, "tokens_per_s": 5.0, "wall_s": 0.1})


def test_a_resumed_stage_replaces_what_it_does_again(tmp_path):
    path = tmp_path / "train_log.jsonl"
    write(path, "tokenizer", 0, 3)
    write(path, "recommender", 0, 4)
    write(path, "recommender", 2, 3)
    assert steps(path) == [("tokenizer", i) for i in (1, 2, 3)] + [
        ("recommender", i) for i in (1, 2, 3)
    ]


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path):
    path = tmp_path / "train_log.jsonl"
    write(path, "tokenizer", 0, 3)
    path.write_text(path.read_text()[:-12])
    assert steps(path) == [("tokenizer", 1), ("tokenizer", 2)]
    write(path, "tokenizer", 2, 3)
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 3


def test_other_ranks_are_silent(tmp_path, capsys):
    with TrainLog(tmp_path / "log.jsonl", "tokenizer", 0, 1, is_silent=True) as log:
        log.step(1, {"loss": 1.0})
    assert not (tmp_path / "log.jsonl").exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff\xfe\n", b"{\n", b"[]\n", b"3\n", b"null\n", b"\n", b'{"stage": "tokenizer"}\n',
        b'{"stage": 3, "step": 1, "loss": 1, "tokens_per_s": 1, "wall_s": 1}\n',
        b'{"stage": "tokenizer", "step": "1", "loss": 1, "tokens_per_s": 1, "wall_s": 1}\n',
        b'{"stage": "tokenizer", "step": 1, "loss": "x", "tokens_per_s": 1, "wall_s": 1}\n',
        b'{"stage": "tokenizer", "step": 1, "loss": NaN, "tokens_per_s": 1, "wall_s": 1}\n',
        b'{"stage": "tokenizer", "step": 1, "tokens_per_s": 1, "wall_s": 1}\n',
        b"[" * 100_000 + b"\n",
    ],
    ids=lambda bad: repr(bad[:60]),
)  # fmt: skip
def test_a_damaged_line_costs_no_other(bad, tmp_path, capsys):
    path = tmp_path / "train_log.jsonl"
    write(path, "tokenizer", 0, 3)
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + bad + b"".join(others))
    assert steps(path) == [("tokenizer", i) for i in (1, 2, 3)]
    write(path, "tokenizer", 3, 4)
    assert "1 damaged line(s) are dropped" in capsys.readouterr().out
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "train_log.jsonl")
    with pytest.raises(InputError, match="FIFO"):
        read_log(tmp_path / "train_log.jsonl")
    assert read_log(tmp_path / "nowhere") == []


def test_metrics_are_put_into_words():
    metrics = {"loss": 2.0, "loss/[bold]loss": 1.5, "lr": 0.1, VALIDATION: 0.25, "wall_s": 3.0}
    assert in_words(metrics) == "loss 2.000  [bold]loss 1.500  valid_ndcg@10 0.2500"


def test_a_metric_is_read_back_also_after_a_resumption(tmp_path):
    path = tmp_path / "train_log.jsonl"
    write(path, "tokenizer", 0, 3)
    write(path, "recommender", 0, 4)
    with TrainLog(path, "recommender", 2, 10, is_silent=False) as log:
        log.step(3, {"loss": 0.25, "tokens_per_s": 5.0, "wall_s": 0.1, VALIDATION: 0.5})
        assert log.values("loss") == [1.0, 0.5, 0.25]
        assert log.values(VALIDATION) == [0.5]
    with TrainLog(path, "recommender", 3, 10, is_silent=True) as log:
        assert log.values("loss") == []


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([], 0),
        ([0.5], 0),
        ([0.2, 0.25], 0.25),
        ([0.0, 0.1], 1e8),
        ([0.2, 0.2019], 0),  # the best is the last, but it had levelled off
        ([0.2, 0.2], 0),
        ([0.3, 0.2, 0.25], 0),
        ([0.25, 0.2, 0.25], 0),
    ],
)
def test_whether_validation_still_rises(values, want):
    assert last_rise(values) == pytest.approx(want)
