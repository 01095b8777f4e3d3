"""A run whose ids and titles try to steer the terminal."""

import json
from pathlib import Path

import numpy as np
import pytest

from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.runs.run_directory import RunDirectory
from store_engine.sid.sid_table import SidTable

HOSTILE_TITLE = "\x1b[31m[red]Rot[/red] [/] :smile: \x9b漢\nzwei"


@pytest.fixture
def hostile_run(run_dir: Path) -> Path:
    """The run with other ids and titles, and histories to measure it on."""
    ids = ("ítem, [red]漢", "\x1b]0;id\x07", *(f"ítem {row}" for row in range(2, 60)))
    sequences = [[user, user + 1, user + 2, user] for user in range(20)]
    rows = np.concatenate(sequences).astype(np.int32)
    users = tuple(f"u{user}" for user in range(20))
    entry = {"stage": "recommender", "step": 1, "loss": 1.0, "$x_[red]": 1.0, "lr": 0.1}
    entry |= {"tokens_per_s": 1.0, "wall_s": 1.0}
    with RunDirectory.open_to_write(run_dir) as run:
        table = SidTable.load(run.sids)
        run.log.write_text(json.dumps(entry) + "\n")
        with run.writing(run.items, run.histories, run.sids):
            Catalog(ids, {"title": (HOSTILE_TITLE,) * 60}).save(run.items)
            SidTable(table.sids, table.codebook_sizes, ids).save(run.sids)
            Histories(users, rows, np.arange(0, 81, 4)).save(run.histories)
        with run.writing(run.trie, run.model_weights):
            pass  # they go with the new sids.npz as they are
    return run_dir
