"""A small measured run whose titles try to break out of the page."""

import json

import numpy as np
import pytest

from store_engine.cli.main import main
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.runs.run_directory import RunDirectory
from store_engine.sid.sid_table import SidTable

TITLES = (
    "</script><script>document.title='broken'</script>",
    "<img src=x onerror=\"document.title='broken'\">",
    '"><svg onload="document.title=\'broken\'">',
    "<!-- <script>",
    "{{ 7 * 7 }}{% raw %}&lt;b&gt;",
    "\x1b[31m\x00red\u202egnp\u2028x",
    "",
    "漢字 " * 200,
)


def log_entry(stage, step, **more):
    entry = {"stage": stage, "step": step, "loss": 3.0 / step, "lr": 0.1}
    return entry | {"tokens_per_s": 9.0, "wall_s": 1.0} | more


@pytest.fixture
def measured_run(run_dir, capsys, monkeypatch):
    """The run of the fixtures with hostile titles, twenty users, a log and metrics."""
    monkeypatch.setattr("store_engine.report.latency._SECONDS", 0.01)
    ids = tuple(f"id {row}" for row in range(60))
    titles = tuple(TITLES[row % len(TITLES)] for row in range(60))
    rows = np.concatenate([[u, u + 1, u + 2, u + 3] for u in range(20)]).astype(np.int32)
    users = tuple(f"u{user}" for user in range(20))
    log = [log_entry("tokenizer", step) for step in range(1, 30)]
    log += [
        log_entry("recommender", step, **{"loss/</style><b>": 1.0, "valid_ndcg@10": step / 10})
        for step in range(1, 5)
    ]
    with RunDirectory.open_to_write(run_dir) as run:
        run.log.write_text("\n".join(map(json.dumps, log)) + "\n")
        table = SidTable.load(run.sids)
        with run.writing(run.items, run.histories, run.sids):
            Catalog(ids, {"title": titles}).save(run.items)
            SidTable(table.sids, table.codebook_sizes, ids).save(run.sids)
            Histories(users, rows, np.arange(0, 81, 4)).save(run.histories)
        with run.writing(run.trie, run.model_weights):
            pass  # they go with the new sids.npz as they are
    assert main(["evaluate", str(run_dir), "--save", "--json"]) == 0
    capsys.readouterr()
    return run_dir
