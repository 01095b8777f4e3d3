"""The folder that a preparation leaves: it appears whole, or not at all."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from store_engine.config.toml_file import to_toml
from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.files.directory_swap import LOCK_NAME, StagedDirectory, recover
from store_engine.files.json_file import write_json
from store_engine.files.lock import FileLock
from store_engine.prepare.card import card_markdown
from store_engine.prepare.pipeline import IMPRESSIONS, Preparation
from store_engine.prepare.readers.discover import Found
from store_engine.prepare.recipe import Recipe
from store_engine.prepare.report import Report
from store_engine.prepare.rules import Rules

_SPLIT = "leave-one-out: a user's last event is the test, the one before it the validation"
CARD = "card.json"
_LOOK_ROWS = 200_000  # of each table: a few seconds


def prepare(
    found: Found, rules: Rules, out: Path, is_overwrite: bool, say: Callable[[str], None]
) -> Report:
    """Prepares what was found.

    Args:
        found: What is read.
        rules: What is kept.
        out: The folder to make.
        is_overwrite: Replace what an earlier preparation left there.
        say: Is told of each step as it begins.

    Raises:
        InputError: `out` is taken, or the data cannot be prepared.
    """
    old = _lock_of(out, is_overwrite)
    staged = StagedDirectory.stage(out)
    try:
        work = staged.path / "work"
        work.mkdir()
        report = Preparation(found, rules, work).run(staged.path, say)
        shutil.rmtree(work)
        name = out.resolve().name
        recipe = Recipe.of(found, rules, report.time_form)
        write_json(staged.path / CARD, report.as_json() | {"recipe": recipe.as_json()})
        _write(staged.path / "README.md", card_markdown(name, report, _SPLIT))
        _write(staged.path / "data.toml", _config(name, out.resolve(), report))
        staged.publish(old).release()
    except BaseException:
        staged.discard()
        if old is not None:
            old.release()
        raise
    return report


def look(found: Found, rules: Rules, out: Path | None, is_overwrite: bool) -> Report:
    """Prepares the first rows as `prepare` does, and leaves nothing: what that would say.

    Args:
        found: As for `prepare`.
        rules: As for `prepare`.
        out: The folder that `prepare` would make; None: it is not named yet.
        is_overwrite: As for `prepare`.

    Raises:
        InputError: As `prepare`, of the rows that are read.
    """
    if out is not None:
        _check_place(out, is_overwrite)
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder, name) for name in ("work", "out")]
        for place in places:
            place.mkdir()
        preparation = Preparation(found, rules, places[0], _LOOK_ROWS)
        return preparation.run(places[1], lambda step: None)


def _lock_of(out: Path, is_overwrite: bool) -> FileLock | None:
    """The lock of what is replaced; None where there is nothing."""
    recover(out)
    if not _check_place(out, is_overwrite):
        return None
    return FileLock.acquire(out / LOCK_NAME, str(out))


def _check_place(out: Path, is_overwrite: bool) -> bool:
    """Whether there is a folder to replace, which must be one that prepare made."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / CARD).is_file():
        raise InputError(f"{out}: exists, and was not made by prepare; name another --out")
    if not is_overwrite:
        raise InputError(f"{out}: exists; --overwrite replaces it")
    return True


def _config(name: str, out: Path, report: Report) -> str:
    """A config to train with: where the data is, and sizes that go with it."""
    texts = [lengths.summary() for lengths in report.texts.values()]
    num_letters = sum(text["mean"] * (report.num_items - text["empty"]) for text in texts)
    p95 = int(report.lengths["events per user"][2])
    data = {
        "name": "files",
        "path": str(out),
        "items": "items.parquet",
        "interactions": "interactions.parquet",
        **({"impressions": IMPRESSIONS} if report.num_shown else {}),
        "text_fields": report.fields,
        "min_events": max(3, report.rules.min_user),
        "text_vocab_size": 2048 if num_letters < 1e6 else 8192,
        "max_history": min(max(p95, 10), 50),
    }
    tokenizer = {"codebook_size": 64 if report.num_items < 5000 else 256}
    lines = [f"# {name}: made by `store-engine prepare`; README.md beside it tells how"]
    lines += [f"run_dir = {to_toml(f'runs/{name}')}"]
    for section, values in (("data", data), ("tokenizer", tokenizer)):
        lines += ["", f"[{section}]", *(f"{key} = {to_toml(v)}" for key, v in values.items())]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    with atomic_open(path) as file:
        file.write(text.encode())
