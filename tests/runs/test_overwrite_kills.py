import importlib.util
from pathlib import Path

spec = importlib.util.spec_from_file_location(
    "overwrite_kills", Path(__file__).with_name("overwrite_kills.py")
)
overwrite_kills = importlib.util.module_from_spec(spec)
spec.loader.exec_module(overwrite_kills)


def test_a_killed_replacement_leaves_the_old_run_or_the_new_one(tmp_path):
    report = overwrite_kills.kill(tmp_path, points=12, seed=1)
    assert sum(report.values()) == 12
