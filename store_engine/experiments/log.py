"""experiments.csv: every experiment that was tried is a line, also those that failed."""

import csv
import fcntl
import io
import os
from collections.abc import Mapping
from pathlib import Path

from store_engine.errors import InputError
from store_engine.experiments.rows import Row

# fmt: off
COLUMNS = (
    "date", "dataset", "variant", "overrides", "seed", "validation_ndcg@10",
    "validation_recall@10", "test_ndcg@10", "test_recall@10", "minutes", "commit", "note",
)
# fmt: on


def append_experiment(path: str | Path, values: Mapping[str, object]) -> None:
    """Adds one line; several processes may at once.

    Args:
        path: The CSV file; made with its header if it is missing.
        values: By column; what is not stated stays empty.

    Raises:
        InputError: The file has another header, or a value has no column.
    """
    if unknown := set(values) - set(COLUMNS):
        raise InputError(
            f"{path}: no column {sorted(unknown)[0]!r}; there are {', '.join(COLUMNS)}"
        )
    with open(path, "a+b") as file:  # "a": each write goes to the end, wherever that is by then
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        header = file.readline()
        if header and header.strip() != _line(COLUMNS).strip():
            raise InputError(f"{path}: its first line must be {','.join(COLUMNS)}")
        text = _line([values.get(name, "") for name in COLUMNS])
        if not header:
            text = _line(COLUMNS) + text
        elif not _ends_a_line(file.fileno()):  # a writer was killed
            text = b"\n" + text
        os.write(file.fileno(), text)
        os.fsync(file.fileno())


def experiment(row: Row, note: str = "") -> dict[str, object]:
    """Says a sweep's row in the columns of experiments.csv, the test under the run's own rule."""
    values: dict[str, object] = {name: row[name] for name in ("date", "variant", "seed", "commit")}
    values["overrides"] = " ".join(row["overrides"])
    values["minutes"] = f"{row['minutes']['total']:.1f}"
    values["note"] = note
    if row["status"] != "finished":
        return values | {"note": f"failed: {row['error']}"}
    test = row["test"][row["primary"]]["metrics"]
    for name in ("ndcg@10", "recall@10"):
        for split, measured in (("validation", row["validation"]), ("test", test)):
            if name in measured:
                values[f"{split}_{name}"] = f"{measured[name]:.5f}"
    return values | {"dataset": row["dataset"]}


def _line(values: object) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(values)  # type: ignore[arg-type]
    return text.getvalue().encode()


def _ends_a_line(handle: int) -> bool:
    size = os.fstat(handle).st_size
    return os.pread(handle, 1, size - 1) == b"\n"
