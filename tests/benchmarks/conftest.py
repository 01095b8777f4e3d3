import sys
from pathlib import Path

import pytest

# benchmarks/ is not installed; last on the path, the checkout's kernels/ hides no package
sys.path.append(str(Path(__file__).resolve().parents[2]))


@pytest.fixture
def result_row():
    """Makes a row of a sweep, as benchmarks/results/NAME.jsonl has them."""

    def row(variant, seed, recall, **more):
        def rule(x):
            metrics = {"recall@10": x, "ndcg@10": x / 2}
            baselines = {"co_visitation": {"recall@10": 0.05, "ndcg@10": 0.02}}
            baselines["llm"] = {"recall@10": x / 4, "ndcg@10": x / 8}
            return {"metrics": metrics, "baselines": baselines}

        made = {
            "variant": variant, "title": f"{variant} | all", "seed": seed, "status": "finished",
            "settings": "s", "minutes": {"total": 2.0}, "commit": "abc", "hardware": "a machine",
            "dataset": "beauty", "protocol": "leave-one-out", "num_users": 1000, "num_items": 200,
            "data": {"checksum": "1234"}, "validation": {"ndcg@10": 0.2},
            "test": {"seen_left_out": rule(recall), "seen_allowed": rule(recall / 2)},
        }  # fmt: skip
        return made | more

    return row
