"""The folder that the pages' code blocks run in: a small run under the name that they use."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from store_engine.data.synthetic import synthetic

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with runs/ml100k, shop/, new.csv, configs/ and the command `store-engine`.

    The run is of 200 made-up items whose ids are 1 to 200, as MovieLens' are numbers.
    """
    folder = tmp_path_factory.mktemp("desk")
    for name in ("configs", "store_engine"):
        (folder / name).symlink_to(ROOT / name)
    _write_shop(folder / "shop")
    _write_films(folder / "films")
    shutil.copy(folder / "shop" / "items.csv", folder / "new.csv")
    command = folder / "bin" / "store-engine"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m store_engine "$@"\n')
    command.chmod(0o755)
    train = [sys.executable, "-m", "store_engine", "train", "--ds_config", "configs/zero0.json"]
    train += ["--config", "configs/tiny.toml", "--data", "films", "data.name=files"]
    train += ['data.text_fields=["title","categories"]']
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*train, "run_dir=runs/ml100k", "train.threads=1", "train.eval_every=10"],
        cwd=folder, env=variables, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.copytree(folder / "runs" / "ml100k", folder / "runs" / "ml100k-seed1")
    return folder


@pytest.fixture(scope="module")
def desk_variables(desk):
    """The environment of a shell at that desk."""
    path = (
        f"{desk / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


def _write_films(folder: Path) -> None:
    folder.mkdir()
    catalog, histories = synthetic(num_items=200, num_users=150, num_topics=8, seed=0)
    texts = zip(*catalog.fields.values(), strict=True)
    items = [f"{row + 1},{title},{category}" for row, (title, category) in enumerate(texts)]
    events = [
        f"{user},{row + 1},{time}"
        for user in range(histories.num_users)
        for time, row in enumerate(histories[user].tolist())
    ]
    _write(folder, items, events)


def _write_shop(folder: Path) -> None:
    folder.mkdir()
    items = [f"p{i},Thing {i} of kind {i % 5},kind {i % 5}" for i in range(40)]
    events = [f"u{u},p{(u * 3 + t * 5) % 40},{1000 + t}" for u in range(60) for t in range(6)]
    _write(folder, items, events)


def _write(folder: Path, items: list[str], events: list[str]) -> None:
    for name, header, lines in (
        ("items.csv", "item_id,title,categories", items),
        ("interactions.csv", "user_id,item_id,timestamp", events),
    ):
        (folder / name).write_text("\n".join([header, *lines]) + "\n")
