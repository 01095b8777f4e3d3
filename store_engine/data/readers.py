"""The user's files -> catalogue and histories, every mistake named with its file and line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from store_engine.config import DataConfig
from store_engine.data.catalog import Catalog
from store_engine.data.histories import TEST, TRAIN, VALID, Histories
from store_engine.data.markup import without_markup
from store_engine.data.report import DataReport
from store_engine.data.tables.bad_rows import BadRows
from store_engine.data.tables.cell_text import clean_text
from store_engine.data.tables.lines import MissingColumnError, shown
from store_engine.errors import InputError, meant_id
from store_engine.extras import needs

if TYPE_CHECKING:  # pyarrow takes long to import: only reading a file does it
    from store_engine.data.tables.keys import Keys

_NAMED = 3  # unknown ids that a message quotes


@dataclass(frozen=True)
class EventColumns:
    """How the columns of an interactions file are called."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str = "timestamp"

    @classmethod
    def of(cls, settings: DataConfig) -> "EventColumns":
        """The names that a config gives them."""
        return cls(settings.user_id, settings.item_id, settings.timestamp)


@dataclass(frozen=True)
class EventRules:
    """How events become histories.

    Args:
        min_events: Users with fewer events are dropped.
        ties: What orders a user's events of one timestamp: the file, or chance. Where times are
            coarse (Amazon's are per day) the file's order decides which event is the test.
        seed: For `ties="shuffle"`.
        unknown_items: Events of items that the catalogue has not are an error, or dropped and
            counted.
        held_out: Shares of the kept events, the last ones of all in time, that are validation and
            test: they are marked, nothing is left out; None marks none.
    """

    min_events: int = 3
    ties: Literal["file", "shuffle"] = "file"
    seed: int = 0
    unknown_items: Literal["error", "drop"] = "error"
    held_out: tuple[float, float] | None = None

    @classmethod
    def of(cls, settings: DataConfig) -> "EventRules":
        """The rules of a config."""
        shares = settings.valid_share, settings.test_share
        held_out = shares if settings.split == "temporal" else None
        return cls(settings.min_events, settings.ties, settings.seed, held_out=held_out)

    @classmethod
    def of_later(
        cls, settings: DataConfig, unknown_items: Literal["error", "drop"] = "error"
    ) -> "EventRules":
        """The rules for events that come to those of a run with this config: each one counts."""
        return cls(1, settings.ties, settings.seed, unknown_items)


def read_items(
    path: str | Path,
    id_column: str,
    text_columns: Sequence[str],
    report: DataReport | None = None,
    *,
    strip_html: bool = False,
) -> Catalog:
    """Reads a catalogue; rows keep the file's order.

    Args:
        path: csv, tsv, parquet, jsonl or RecBole .item; see tables/table.py.
        id_column: Column with the item ids: text or whole numbers.
        text_columns: Columns with text, the title first; tables/cell_text.py says what a value of
            another type is written as.
        report: Takes the counts, if given.
        strip_html: Make plain text of tags and entities; see `clean_items`.

    Raises:
        InputError: The file cannot be read, has no item, or an id is empty or appears twice.
    """
    with needs(str(path)):
        from store_engine.data.tables.table import read_table

    if not text_columns:
        raise InputError(f"{path}: text_fields must name at least one column")
    report = DataReport() if report is None else report
    try:
        table = read_table(path, [id_column, *text_columns])
    except MissingColumnError as error:
        setting = "data.item_id" if error.name == id_column else "data.text_fields"
        raise _with_setting(error, setting) from error
    if not table.num_rows:
        raise InputError(f"{path}: has no item, expected at least one")
    keys = table.keys(id_column)
    table.refuse([*keys.bad, *([] if keys.bad else _repeated(keys))])
    report.num_items = table.num_rows
    report.notes += table.notes
    catalog = Catalog(
        tuple(keys.unique), {name: table.texts(name, report) for name in text_columns}
    )
    return clean_items(catalog, report) if strip_html else catalog


def clean_items(items: Catalog, report: DataReport | None = None) -> Catalog:
    """Makes every text one line of plain text: what training has read, and serving must read too.

    Args:
        items: With texts of any form.
        report: Takes the counts, if given.
    """
    report = DataReport() if report is None else report
    fields = {}
    for name, texts in items.fields.items():
        plain = [without_markup(text) for text in texts]
        report.num_html += sum(map(str.__ne__, plain, texts))
        fields[name] = tuple(clean_text(text, report) for text in plain)
    return Catalog(items.item_ids, fields)


def read_interactions(
    path: str | Path,
    catalog: Catalog,
    columns: EventColumns = EventColumns(),
    rules: EventRules = EventRules(),
    report: DataReport | None = None,
) -> tuple[Histories, int]:
    """Reads events and sorts them by user, then time; users in the order they first appear.

    Args:
        path: csv, tsv, parquet, jsonl or RecBole .inter; see tables/table.py.
        catalog: The items that the events name.
        columns: Column names. A timestamp is a number, or a time in ISO 8601.
        rules: Which users are kept, and what orders events of one timestamp.
        report: Takes the counts, if given.

    Returns:
        The histories, and how many users were dropped.

    Raises:
        InputError: The file cannot be read, an item id is not in the catalogue, a user id or a
            timestamp is empty, a timestamp is NaN or no time, or no user is left. All rows are
            looked at first: one message tells of every kind of bad row.
    """
    with needs(str(path)):
        from store_engine.data.tables.table import read_table

    report = DataReport() if report is None else report
    settings = {
        columns.user_id: "data.user_id",
        columns.item_id: "data.item_id",
        columns.timestamp: "data.timestamp",
    }
    try:
        table = read_table(path, list(settings))
    except MissingColumnError as error:
        raise _with_setting(error, settings[error.name]) from error
    users, items = table.keys(columns.user_id), table.keys(columns.item_id)
    times = table.times(columns.timestamp)
    rows, unknown = _catalog_rows(items, catalog)
    drops = rules.unknown_items == "drop"
    table.refuse([*users.bad, *items.bad, *(() if drops else unknown), *times.bad])
    is_known = rows >= 0
    num_events = np.bincount(users.codes[is_known], minlength=len(users.unique))
    is_kept = num_events >= rules.min_events
    if not is_kept.any():
        raise InputError(
            f"{path}: no user has at least {rules.min_events} events; "
            f"got {len(users.unique)} users and {len(rows)} events"
        )
    # lexsort is stable and sorts by its last key first
    keys = [times.order, users.codes]
    if rules.ties == "shuffle":
        keys.insert(0, np.random.default_rng(rules.seed).permutation(len(rows)))
    order = np.lexsort(keys)
    order = order[is_kept[users.codes[order]] & is_known[order]]
    histories = Histories(
        tuple(user_id for user_id, kept in zip(users.unique, is_kept, strict=True) if kept),
        rows[order],
        np.concatenate([[0], np.cumsum(num_events[is_kept])]).astype(np.int64),
        None if rules.held_out is None else _periods(times.order[order], rules.held_out, path),
    )
    num_dropped = int((~is_kept).sum())
    report.num_events, report.num_users = len(rows), len(users.unique)
    report.num_dropped_users, report.min_events = num_dropped, rules.min_events
    report.num_unknown = int((~is_known).sum())
    report.notes += table.notes
    return histories, num_dropped


def _with_setting(error: MissingColumnError, setting: str) -> MissingColumnError:
    """The same error, with the key of the config that names the column."""
    message = f"{error}; {setting} says which is wanted"
    return MissingColumnError(message, error.name, error.found)


def _periods(
    times: NDArray[Any], shares: tuple[float, float], path: str | Path
) -> NDArray[np.int8]:
    """The period of each event; all events of one time are in the same.

    Raises:
        InputError: The times are too coarse to be cut there.
    """
    in_order = np.sort(times)
    valid_share, test_share = shares
    cuts = (round(len(times) * (1 - part)) for part in (valid_share + test_share, test_share))
    valid_from, test_from = (in_order[min(cut, len(times) - 1)] for cut in cuts)
    if not in_order[0] < valid_from < test_from:
        raise InputError(
            f"{path}: data.split = 'temporal' needs times that differ between training, validation "
            f"and test; the last {valid_share + test_share:.1%} and {test_share:.1%} of the events "
            f"begin at the same time as what is before them"
        )
    periods = np.full(len(times), TRAIN)
    periods[times >= valid_from] = VALID
    periods[times >= test_from] = TEST
    return periods


def _repeated(keys: "Keys") -> list[BadRows]:
    """Rows whose item id stands in an earlier row."""
    codes = keys.codes
    if len(keys.unique) == len(codes):
        return []
    # a code that is not a new maximum has been there before
    is_new = np.diff(np.maximum.accumulate(codes), prepend=-1) > 0
    row = int(np.argmin(is_new))
    first = int(np.argmax(codes == codes[row]))
    what = f"item id {shown(keys.unique[codes[row]])} appears twice, first on"
    return [BadRows(row, what, int((~is_new).sum()), first)]


def _catalog_rows(items: "Keys", catalog: Catalog) -> tuple[NDArray[np.int32], list[BadRows]]:
    """The catalogue row of each event, and the events of unknown items."""
    known = {item_id: row for row, item_id in enumerate(catalog.item_ids)}
    row_of_code = np.array([known.get(item_id, -1) for item_id in items.unique], dtype=np.int32)
    rows = np.zeros(0, np.int32) if not len(row_of_code) else row_of_code[items.codes]
    unknown = [item_id for item_id in items.unique if item_id.strip() and item_id not in known]
    if items.bad or not unknown:  # the ids themselves are at fault first
        return rows, []
    what = f"unknown item id {shown(unknown[0])}; the catalogue has {catalog.num_items:,}"
    if len(unknown) > 1:
        names = ", ".join(map(shown, unknown[:_NAMED])) + (", ..." if len(unknown) > _NAMED else "")
        what += f"; {len(unknown):,} ids are unknown: {names}"
    what += _hint(unknown[0], known)
    return rows, [BadRows(int(np.argmax(rows < 0)), what, int((rows < 0).sum()))]


def _hint(item_id: str, known: dict[str, int]) -> str:
    """What the id may have been before another program wrote it."""
    meant = meant_id(item_id, known)
    if not meant:
        return ""
    if item_id == f"{meant}.0":
        how = (
            ": a program that takes ids for numbers writes 1 as 1.0 when a value is missing in the "
            "column, so write ids as text"
        )
    elif meant == f"{item_id}.0":
        how = ": its ids were written as numbers with a fraction"
    elif meant == item_id.strip():
        how = " without white space around it"
    elif meant == item_id.lstrip("0"):
        how = " without leading zeros"
    elif meant.lstrip("0") == item_id:
        how = " with leading zeros"
    else:
        how = ""
    return f"; it has {shown(meant)}{how}"
