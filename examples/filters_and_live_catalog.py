"""Sets of items as filters, and items that come and go while requests are answered.

python examples/filters_and_live_catalog.py             # trains a toy into ./example_run first
python examples/filters_and_live_catalog.py RUN         # a run of yours; nothing is written
"""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from store_engine import Engine

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def main() -> None:
    """Filters, then changes the catalogue while another thread asks."""
    engine = Engine.load(Path(sys.argv[1]) if len(sys.argv) > 1 else trained_toy())
    ids = engine.catalog.item_ids
    history = list(ids[:3])

    # what is not allowed takes no beam's place: k items come back wherever k are allowed
    engine.define("in_stock", ids[: len(ids) // 2])
    engine.define("on the page", ids[:5])
    found = engine.recommend([history], k=10, allow='in_stock & ~"on the page"')[0]
    print("in stock, not on the page:", ", ".join(item.item_id for item in found))
    assert all(item.item_id in ids[5 : len(ids) // 2] for item in found)

    # one that sells out is gone with the next call, and its SID is free for its return
    best = found[0].item_id
    row = engine.catalog.row_of(best)
    back = engine.catalog.take([row])
    sid = engine.sids[row : row + 1].copy()
    asked = count_answers(engine, history)
    engine.remove_items([best])
    assert best not in recommended(engine, history)
    print(best, "is sold out")
    if is_code_run(engine):
        engine.add_items(back, sid)
        everything = engine.recommend([history], k=len(ids), exact=True)[0]
        assert best in {item.item_id for item in everything}
        print(best, "is back")
    print(f"{asked()} requests were answered meanwhile")


def recommended(engine: Engine, history: list[str]) -> set[str]:
    """The ids of twenty recommended items."""
    return {item.item_id for item in engine.recommend([history], k=20)[0]}


def is_code_run(engine: Engine) -> bool:
    """Whether items have no row of their own, which would need features to come back."""
    return engine.model.items is None


def count_answers(engine: Engine, history: list[str]) -> Callable[[], int]:
    """Asks in a thread until the returned function is called, which says how often."""
    answers, stop = [0], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            engine.recommend([history], k=5)
            answers[0] += 1

    thread = threading.Thread(target=ask)
    thread.start()

    def finish() -> int:
        stop.set()
        thread.join()
        return answers[0]

    return finish


def trained_toy() -> Path:
    """Trains configs/tiny.toml, which takes seconds, unless it is there."""
    run = Path("example_run")
    if not (run / "metrics.json").exists():
        command = [sys.executable, "-m", "store_engine", "train", f"run_dir={run}"]
        command += ["--ds_config", str(CONFIGS / "zero0.json")]
        subprocess.run([*command, "--config", str(CONFIGS / "tiny.toml")], check=True)
    return run


if __name__ == "__main__":
    main()
