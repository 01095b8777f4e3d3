"""Click-through prediction, trained beside recommendation."""

import json

import numpy as np
import pytest

from store_engine import Engine
from store_engine.cli.main import main
from store_engine.data.histories import Histories
from store_engine.evaluation.scoring import Scorer
from store_engine.files.token_file import TokenFile
from store_engine.training.log import read_log


@pytest.mark.slow
def test_all_tasks_train_together(tmp_path, train, capsys):
    run_dir = tmp_path / "run"
    overrides = ["recommender.scoring=1", "recommender.reconstruction=1", "recommender.epochs=2"]
    assert "scoring, one random item beside each target: auc 0." in train(run_dir, *overrides)
    last = read_log(run_dir / "train_log.jsonl")[-1]
    tasks = ("next_item", "alignment", "reconstruction", "scoring")
    assert {f"loss/{task}" for task in tasks} <= set(last)
    # the recommender knows items alone, and an example's label does not depend on the others
    assert len(Engine.load(run_dir).model.codebook_sizes) == 3
    scorer, histories = Scorer(run_dir), Histories.load(run_dir / "histories.npz")
    asked, candidates = [histories[user] for user in range(9)], np.arange(9)
    together = scorer.probabilities(asked, candidates)
    alone = [scorer.probabilities([h], c[None])[0] for h, c in zip(asked, candidates, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    # and it can be asked about what users were shown
    lines = ["impression_id,user_id,item_id,timestamp,label"]
    for user, user_id in enumerate(histories.user_ids):
        rows = [int(histories[user][-1]), *((int(histories[user][-1]) + n) % 120 for n in (1, 2))]
        lines += [f"{user},{user_id},item{row},1,{int(n == 0)}" for n, row in enumerate(rows)]
    (tmp_path / "shown.csv").write_text("\n".join(lines) + "\n")
    shown = ["evaluate", str(run_dir), "--impressions", str(tmp_path / "shown.csv"), "--json"]
    assert main(shown) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["num_impressions"], figures["num_shown"]) == (200, 600)
    assert 0 < figures["auc"] < 1 and figures["log_loss"] > 0
    assert main([*shown, "--exact"]) == 2


def write_shown(folder):
    """Users who click what is of their kind, beside four items of others; returns the overrides."""
    draw = np.random.default_rng(0)
    items = [f"i{n},Thing {n} of kind {n % 6},kind {n % 6}" for n in range(60)]
    events, shown = [], []
    for user in range(120):
        for time in range(8):
            item = 6 * int(draw.integers(10)) + user % 6
            events.append(f"u{user},i{item},{100 * time}")
            others = [(item + int(n)) % 60 for n in draw.choice([1, 2, 3, 4, 5], 4, replace=False)]
            for row in (item, *others):
                impression = f"{user}-{time},u{user},i{row},{100 * time},{int(row == item)}"
                shown.append(impression)
    for name, header, lines in (
        ("items.csv", "item_id,title,kind", items),
        ("interactions.csv", "user_id,item_id,timestamp", events),
        ("shown.csv", "impression_id,user_id,item_id,timestamp,label", shown),
    ):
        (folder / name).write_text("\n".join([header, *lines]) + "\n")
    names = ["data.name=files", f"data.path={folder}", 'data.text_fields=["title","kind"]']
    return [*names, "data.impressions=shown.csv"]


@pytest.mark.slow
def test_scoring_learns_from_what_was_shown(tmp_path, train, capsys):
    data, run_dir = write_shown(tmp_path), tmp_path / "run"
    printed = train(run_dir, *data, "recommender.scoring=4", "recommender.epochs=6")
    assert "read 4,200 items that users were shown, 20.0% clicked" in printed
    learnt = TokenFile(run_dir / "train_shown.tokens")
    assert (len(learnt), len(learnt.tokens)) == (120, 3 * 120 * 5 * 5)  # of five moments a user
    assert (
        main(["evaluate", str(run_dir), "--impressions", str(tmp_path / "shown.csv"), "--json"])
        == 0
    )
    figures = json.loads(capsys.readouterr().out)
    assert (figures["num_impressions"], figures["num_shown"]) == (120, 600)
    assert (
        figures["auc"] > 0.8 and figures["log_loss"] < 0.5
    )  # a fifth is clicked: .5 knows nothing
    assert main(["forget", str(run_dir), "--user", "u7"]) == 0
    left = TokenFile(run_dir / "train_shown.tokens")
    assert len(left) == 119 and left[7].tolist() == learnt[8].tolist()
