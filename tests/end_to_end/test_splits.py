"""Every split: nothing that is trained, counted or chosen has seen what the test is to find."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file

from store_engine.data.histories import TEST
from store_engine.runs.run import load_run

SPLITS = ("leave_one_out", "by_user", "temporal")
# all that training leaves behind; histories.npz holds the test itself
LEARNT = ("items.jsonl", "sids.npz", "evidence.npz", "evidence_train.npz", "trie.bin")
QUICK = [
    *("tokenizer.epochs=1", "recommender.epochs=2", "tokenizer.space=collaborative"),
    "tokenizer.quantizer=residual",
    *("train.eval_every=1", "train.eval_unit=epochs", "train.keep=best", "train.refit=true"),
    *("decoding.evidence=auto", "data.valid_share=0.2", "data.test_share=0.2"),
]


def write_data(folder, replaced=frozenset()):
    """40 items, 60 users with 8 events each at times of their own; `replaced` have another item."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    items = "".join(f"i{i},film {i % 7} of kind {i % 5}\n" for i in range(40))
    (folder / "items.csv").write_text("item_id,title\n" + items)
    lines = ["user_id,item_id,timestamp"]
    for user in range(60):
        times = np.sort(rng.permutation(100_000)[:8])
        for place, (time, item) in enumerate(zip(times, rng.integers(0, 40, 8), strict=True)):
            item = (item + 1 + rng.integers(38) * ((user, place) in replaced)) % 40
            lines.append(f"u{user},i{item},{time}")
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
def test_another_test_trains_the_same(tmp_path, train, split):
    write_data(tmp_path / "data")
    options = ["data.name=files", 'data.text_fields=["title"]', f"data.split={split}", *QUICK]
    train(tmp_path / "run", f"data.path={tmp_path / 'data'}", *options)
    run = load_run(tmp_path / "run")
    held_out = np.flatnonzero(run.split.periods == TEST)
    users = np.searchsorted(run.histories.offsets, held_out, side="right") - 1
    places = held_out - run.histories.offsets[users]
    ids = [int(run.histories.user_ids[user][1:]) for user in users]
    write_data(tmp_path / "other", set(zip(ids, places.tolist(), strict=True)))
    train(tmp_path / "again", f"data.path={tmp_path / 'other'}", *options)
    again = load_run(tmp_path / "again")

    assert (run.histories.rows != again.histories.rows).mean() > 0.05
    same = run.histories.rows == again.histories.rows
    assert not same[held_out].all() and np.delete(same, held_out).all()
    for name in LEARNT:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    for name in ("tokenizer", "model_train", "model"):
        ours, theirs = (load_file(tmp_path / r / f"{name}.safetensors") for r in ("run", "again"))
        assert all((ours[part] == theirs[part]).all() for part in ours)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["num_users"] == len(run.split.test.targets)
    assert metrics["num_train_events"] == run.split.train.num_events
    assert metrics["protocol"].replace(" ", "_").replace("-", "_") == split
