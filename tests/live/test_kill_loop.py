import importlib.util
from pathlib import Path

from live_runs import make_run

spec = importlib.util.spec_from_file_location("kill_loop", Path(__file__).with_name("kill_loop.py"))
kill_loop = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kill_loop)


def test_what_was_acknowledged_outlives_a_kill(tmp_path):
    (tmp_path / "place").mkdir()
    report = kill_loop.kill(make_run(tmp_path / "place" / "run"), kills=6, seed=1)
    assert sum(count for name, count in report.items() if name.startswith("killed")) == 6
