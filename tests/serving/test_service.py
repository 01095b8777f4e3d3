"""What a replica answers with, beside the answers themselves (test_owner.py, http/)."""

from live_runs import make_run

from store_engine.decoding.engine import Engine
from store_engine.serving.service import EngineService, Found, Query, Refused


def test_a_run_without_histories_answers_but_not_about_users(tmp_path):
    root = make_run(tmp_path / "run")
    (root / "histories.npz").unlink()
    service = EngineService(Engine.load(root, journal=False), "run")
    by_history, by_user, skipping = service.answer(
        [
            Query(history=("item 3",), k=5),
            Query(user="anna", k=5),
            Query(user="anna", k=5, skips_unknown=True),  # anna may well be known
        ]
    )
    assert isinstance(by_history, Found)
    assert isinstance(by_user, Refused)
    assert skipping == by_user
    assert str(tmp_path) not in by_user.message
