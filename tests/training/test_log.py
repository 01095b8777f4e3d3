import json

from store_engine.training.log import TrainLog, read_log


def steps(path):
    return [(entry["stage"], entry["step"]) for entry in read_log(path)]


def write(path, stage, first_step, last_step):
    with TrainLog(path, stage, first_step, 10, is_silent=False) as log:
        for step in range(first_step + 1, last_step + 1):
            log.step(step, {"loss": 1.0 / step, "tokens_per_s": 5.0})


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
