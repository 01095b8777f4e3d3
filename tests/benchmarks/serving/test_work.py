import re
from types import SimpleNamespace

from benchmarks.measuring.harness import Options
from benchmarks.serving.work import K, histories_of, make_questions, make_work
from store_engine.runs.run import load_run


def test_questions_are_ends_of_the_runs_histories(run_dir):
    run = load_run(run_dir)
    ids, users = run.catalog.item_ids, dict(zip(run.histories.user_ids, run.histories, strict=True))
    every = ["".join(f" {ids[row]}" for row in rows) + " " for rows in users.values()]
    asked = make_questions(run_dir, 40, by_user=True)
    assert asked == make_questions(run_dir, 40, by_user=True)
    assert ["user" in one for one in asked] == [False, True] * 20
    for one, history in zip(asked, histories_of(run_dir, asked), strict=True):
        if "user" in one:
            assert history == [ids[row] for row in users[one["user"]]]
        else:
            assert history == one["history"] and len(history) <= 50
            assert any("".join(f" {item}" for item in history) + " " in text for text in every)


def test_the_work_is_cut_into_rounds(run_dir):
    extra = SimpleNamespace(seconds=20.0, clients=256, changes_per_s=5.0)
    options = Options(re.compile(""), 1, run_dir, False, "cpu", extra)
    quiet, changes = (make_work(options, run_dir, case) for case in ("quiet", "changes"))
    assert (quiet["seconds"], changes["seconds"]) == (4.0, 20.0)
    assert (quiet["changes_per_s"], changes["changes_per_s"]) == (0, 5.0)
    assert quiet["k"] == K and quiet["num_clients"] == 256 and not quiet["users"]
    assert changes["users"] and set(changes["users"]) <= set(load_run(run_dir).histories.user_ids)
    known = set(load_run(run_dir).catalog.item_ids)
    assert {item_id for item_id, _ in changes["items"]} <= known
