"""From two csv files to recommendations and a page to look at, on a CPU in a minute or two.

    python examples/own_data.py             # into ./example_shop
    python examples/own_data.py FOLDER

The files stand for an export of yours: items with an id and texts, events with a user, an item and
a time. docs/data.md says what else may be in them.
"""

import csv
import random
import subprocess
import sys
from pathlib import Path

from store_engine import Engine

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
KINDS = ("tea", "coffee", "honey", "rice", "oil", "soap")
WORDS = ("green", "dark", "wild", "fine", "fresh", "smoked", "sweet", "plain")


def main() -> None:
    """Writes the data, trains, recommends, and writes the report."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "example_shop")
    write_shop(folder / "data")
    run = folder / "run"
    store_engine(
        "train",
        *("--ds_config", CONFIGS / "zero0.json"),
        *("--config", CONFIGS / "tiny.toml"),  # a toy; for your own data begin with beauty.toml
        *("--data", folder / "data", "data.name=files"),
        f"run_dir={run}",
        'data.text_fields=["title","kind"]',
        *("train.eval_every=1", "train.eval_unit=epochs", "train.keep=best"),
        "--overwrite",
    )

    engine = Engine.load(run)
    titles = dict(zip(engine.catalog.item_ids, engine.catalog.fields["title"], strict=True))
    history = ["p0", "p6", "p12"]
    print("after", ", ".join(titles[item_id] for item_id in history))
    for item in engine.recommend([history], k=5)[0]:
        print(f"  {item.item_id:>4}  {titles[item.item_id]:<16} {item.score:6.2f}")

    store_engine("report", run)


def write_shop(folder: Path) -> None:
    """Writes 90 items of six kinds, and 200 users who mostly stay with a kind."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    with (folder / "items.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "title", "kind"])
        for number in range(90):
            kind = KINDS[number % len(KINDS)]
            rows.writerow([f"p{number}", f"{draw.choice(WORDS)} {kind} {number}", kind])
    with (folder / "interactions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "timestamp"])
        for user in range(200):
            item = draw.randrange(90)
            for time in range(draw.randint(4, 12)):
                rows.writerow([f"u{user}", f"p{item}", 1_700_000_000 + 3600 * time])
                is_true = draw.random() < 0.8  # to the kind
                item = (item + len(KINDS)) % 90 if is_true else draw.randrange(90)


def store_engine(verb: str, *arguments: object) -> None:
    """Runs `store-engine VERB ...` with this Python."""
    command = [sys.executable, "-m", "store_engine", verb, *map(str, arguments)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
