"""Click-through prediction, trained beside recommendation."""

import json

import numpy as np
import pytest

from store_engine import Engine
from store_engine.cli.main import main
from store_engine.data.histories import Histories
from store_engine.evaluation.scoring import Scorer
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
