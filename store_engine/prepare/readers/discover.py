"""Files and folders -> one table of events and one of items, found before they are read."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from store_engine.errors import InputError
from store_engine.prepare.readers.columns import (
    Roles,
    column_values,
    guess_roles,
    is_sequence,
    rename,
)
from store_engine.prepare.readers.layouts import FORMATS, Layout, Role, find_layout
from store_engine.prepare.readers.sniff import ATOMIC, read_storage
from store_engine.prepare.readers.storage import Storage

_MAX_FILES = 100_000
_SKIPPED = re.compile(
    r"(readme|license|_success|_metadata|_common_metadata|lock|card[.]json|impressions[.]parquet|"
    r".*[.](md|pdf|png|jpe?g|py|ipynb|toml|yaml|yml|crc|sh|pl|html?|log))",
    re.IGNORECASE,
)  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """What the user says instead of leaving it to the guess; "" and () leave it.

    Args:
        format: One of `FORMATS`.
        user: Column of the user ids.
        item: Column of the item ids, in both tables where the items' has it.
        time: Column of the times; "none" reads none.
        texts: Columns with the items' texts, the title first.
        event_columns: Names of the columns of an events file without a header.
        item_columns: Names of the columns of an items file without a header.
    """

    format: str = "auto"
    user: str = ""
    item: str = ""
    time: str = ""
    texts: tuple[str, ...] = ()
    event_columns: tuple[str, ...] = ()
    item_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Files of one layout, and what their columns hold.

    Args:
        storage: The files.
        roles: What the columns hold.
        format: The data set or the kind of file.
        layout: That of a known data set.
        sequence: Column whose cells are lists of items; "" where a row is one event.
    """

    storage: Storage
    roles: Roles
    format: str
    layout: Layout | None = None
    sequence: str = ""

    @property
    def role(self) -> Role:
        """What the rows are."""
        if self.layout is not None:
            return self.layout.role
        if self.roles.user and (self.roles.item or self.sequence):
            return "events"
        return "items" if self.roles.item and self.roles.texts else "unused"

    @property
    def expand(self) -> Literal["rows", "mind", "nested"]:
        """How a row becomes events; see `Layout`."""
        return "rows" if self.layout is None else self.layout.expand

    @property
    def computed(self) -> dict[str, str]:
        """Texts that are no plain column: name -> SQL of the columns."""
        return {} if self.layout is None else dict(self.layout.computed)


@dataclass(frozen=True)
class Found:
    """What is read.

    Args:
        events: Who did what.
        items: The catalogue; None: it is made of the items that the events name.
        unused: Files that are not read.
        unread: Why: of those that no reader can read, and that look like more of a table whose
            files were named.
    """

    events: Table
    items: Table | None
    unused: tuple[Path, ...] = ()
    unread: tuple[str, ...] = ()


def discover(
    paths: Sequence[Path], events: Sequence[Path], items: Sequence[Path], choices: Choices
) -> Found:
    """Finds the events and the items.

    Args:
        paths: Files and folders that hold either.
        events: Files and folders that hold events.
        items: Files and folders that hold items.
        choices: What the user said.

    Raises:
        InputError: A file cannot be read, no file holds events, or several could.
    """
    if choices.format not in FORMATS:
        raise InputError(f"--format must be one of {', '.join(FORMATS)}, got {choices.format!r}")
    unread: dict[Path, str] = {}
    tables = _tables(_files(paths), choices, "", unread)
    event_tables = _tables(_files(events), choices, "events", unread)
    item_tables = _tables(_files(items), choices, "items", unread)
    for named, what in ((event_tables, "events"), (item_tables, "items")):
        if len(named) > 1:
            raise InputError(_apart(named, what))
    event_tables = event_tables or [table for table in tables if table.role == "events"]
    item_tables = item_tables or [table for table in tables if table.role == "items"]
    found = _one(event_tables, "events")
    if found is None:
        raise InputError(_nothing(tables, unread, choices))
    catalogue = _one(_of_data_set(item_tables, found), "items")
    used = {*found.storage.files, *(() if catalogue is None else catalogue.storage.files)}
    kinds = {(file.parent, file.suffix) for file in used}
    for path, reason in unread.items():  # a part file that is damaged must not go unnoticed
        if (path.parent, path.suffix) in kinds:
            raise InputError(reason)
    read = set(map(os.path.realpath, used))
    unused = [
        path
        for table in tables
        for path in table.storage.files
        if os.path.realpath(path) not in read
    ]
    more = [_more_parts(tables, found, "events", unused) if events else ""]
    more += [_more_parts(tables, catalogue, "items", unused) if items and catalogue else ""]
    return Found(
        _checked(found, choices, is_events=True),
        None if catalogue is None else _checked(_same_item(catalogue, found), choices, False),
        (*unused, *unread),
        (*unread.values(), *filter(None, more)),
    )


def _apart(named: Sequence[Table], what: str) -> str:
    """Why files that were named together are no one table."""
    forms = " and ".join(
        f"{table.storage.files[0]} ({table.storage.describe()}, columns "
        f"{', '.join(table.storage.columns[:12])})"
        for table in named[:2]
    )
    return (
        f"--{what}: {forms} cannot be one table: convert one into the form of the other, or "
        f"prepare them apart"
    )


def _more_parts(tables: Sequence[Table], named: Table, what: str, unused: Sequence[Path]) -> str:
    """Says which files are of the shape of those that were named, without being named."""
    form = named.storage.kind, named.storage.columns
    alike = [one.storage for one in tables if (one.storage.kind, one.storage.columns) == form]
    parts = {path for storage in alike for path in storage.files}
    files = [path for path in unused if path in parts]
    if not files:
        return ""
    more = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
    return (
        f"{files[0]}{more}: of the columns of {named.storage.files[0]}, but not named by --{what}, "
        f"which takes several"
    )


def _files(paths: Iterable[Path]) -> dict[Path, bool]:
    """Files to look at -> whether one was found in a folder instead of being named."""
    files: dict[Path, bool] = {}
    for path in paths:
        if not path.is_dir():
            files[path] = False
            continue
        made = {card.parent for card in path.rglob("*/card.json")}  # by an earlier prepare
        inside = sorted(file for file in path.rglob("*") if not _is_hidden(file, path))
        inside = [file for file in inside if file.is_file() and not made & {*file.parents}]
        inside = [file for file in inside if not _SKIPPED.fullmatch(file.name)]
        if not inside:
            raise InputError(f"{path}: holds no file")
        files |= dict.fromkeys(inside, True)
        if len(files) > _MAX_FILES:
            raise InputError(f"{path}: holds more than {_MAX_FILES:,} files")
    once = {os.path.realpath(path): path for path in reversed(files)}  # a link is no second file
    kept = set(once.values())
    return {path: is_found for path, is_found in files.items() if path in kept}


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in file.relative_to(folder).parts)


def _tables(
    files: dict[Path, bool], choices: Choices, role: str, unread: dict[Path, str]
) -> list[Table]:
    """Looks at every file; part files of one layout become one table.

    Args:
        files: Files, and whether a folder held it.
        choices: What the user said.
        role: What the user said of all of them; "" is nothing.
        unread: Takes those of folders that no reader can read, and why.
    """
    groups: dict[object, list[tuple[Path, Storage, Layout | None]]] = {}
    for path, is_found in files.items():
        try:
            storage = read_storage(path)
        except InputError as error:
            if not is_found:
                raise
            unread[path] = str(error)
            continue
        layout = find_layout(path, storage, choices.format)
        if layout is not None and layout.role == "unused":
            if role and not is_found:
                why = layout.advice or f"is a file of {layout.format} that holds no {role}"
                raise InputError(f"--{role}: {path}: {why}")
            if layout.advice:
                unread[path] = f"{path}: {layout.advice}"
            continue
        groups.setdefault(_likeness(storage, layout), []).append((path, storage, layout))
    return [_table(group, choices, role) for group in groups.values()]


def _likeness(storage: Storage, layout: Layout | None) -> object:
    """What part files of one table have in common."""
    form = (storage.kind, storage.compression, storage.json_format, storage.encoding)
    if layout is not None:
        return (*form, layout)
    if storage.kind in ("json", "literal"):  # an object may lack any key
        roles = guess_roles(storage)
        return (*form, roles.user, roles.item, roles.time, bool(roles.texts))
    return (*form, storage.delimiter, storage.has_header, storage.columns)


def _table(group: list[tuple[Path, Storage, Layout | None]], choices: Choices, role: str) -> Table:
    _, storage, layout = group[0]
    columns = tuple(dict.fromkeys(name for _, s, _ in group for name in s.columns))
    if storage.kind in ("json", "literal"):
        storage = _with_columns(storage, columns)
    quote = max(s.quote for _, s, _ in group)
    storage = replace(storage, files=tuple(path for path, _, _ in group), quote=quote)
    if all(ATOMIC.fullmatch(name) for name in storage.columns):
        names = [name.rpartition(":")[0] for name in storage.columns]
        if any(name.endswith("_list:token_seq") for name in storage.columns):
            raise InputError(
                f"{storage.files[0]}: every row repeats a history as a list (RecBole's augmented "
                f"form), which would be counted as new events: give the .inter file it was made of"
            )
        return _guessed(rename(storage, names), "recbole", choices)
    named = choices.event_columns if role != "items" else choices.item_columns
    if named and not storage.has_header and storage.kind == "delimited":
        if len(named) != len(storage.columns):
            raise InputError(
                f"{storage.files[0]}: has {len(storage.columns)} columns, {len(named)} are named"
            )
        table = _guessed(replace(rename(storage, named), has_header=True), "delimited", choices)
        return replace(table, storage=replace(table.storage, has_header=False))
    if layout is not None:
        if layout.names:
            storage = replace(rename(storage, layout.names), has_header=False)
        texts = tuple(name for name in layout.roles.texts if name in storage.columns)
        texts = layout.roles.texts if layout.expand == "nested" else texts
        return Table(storage, replace(layout.roles, texts=texts), layout.format, layout)
    return _guessed(storage, storage.kind, choices)


def _with_columns(storage: Storage, columns: tuple[str, ...]) -> Storage:
    places = {name: place for place, name in enumerate(storage.columns)}
    sample = tuple(
        tuple(row[places[name]] if name in places else "" for name in columns)
        for row in storage.sample
    )
    return replace(storage, columns=columns, sample=sample)


def _guessed(storage: Storage, kind: str, choices: Choices) -> Table:
    roles = guess_roles(storage)
    said = [c if c in storage.columns else "" for c in (choices.user, choices.item)]
    roles = roles.with_names(*said)
    if storage.kind == "lines":
        return Table(storage, Roles("line", "line"), "sequences", sequence="line")
    if roles.user and not roles.texts:
        lists = [
            name
            for name in storage.columns
            if name not in (roles.user, roles.time) and is_sequence(column_values(storage, name))
        ]
        if roles.item in lists or (lists and not roles.item):
            sequence = roles.item or lists[0]
            return Table(storage, replace(roles, item=sequence), "sequences", sequence=sequence)
    return Table(storage, roles, kind)


def _one(tables: Sequence[Table], what: str) -> Table | None:
    if len(tables) > 1:
        parts = [[str(path) for path in table.storage.files[:3]] for table in tables[:5]]
        names = "; ".join(" and ".join(files) for files in parts)
        raise InputError(
            f"several files could hold the {what}: {names}; name those of one form by --{what}"
        )
    return tables[0] if tables else None


def _of_data_set(tables: Sequence[Table], events: Table) -> list[Table]:
    """Item tables of the events' own data set, where there are such."""
    own = [table for table in tables if table.format == events.format and table.layout]
    return own or list(tables)


def _same_item(items: Table, events: Table) -> Table:
    """An items table whose ids stand in the column of the events' name."""
    if items.layout is None and events.roles.item in items.storage.columns:
        name = events.roles.item
        texts = tuple(text for text in items.roles.texts if text != name)
        return replace(items, roles=replace(items.roles, item=name, texts=texts))
    return items


def _checked(table: Table, choices: Choices, is_events: bool) -> Table:
    """The table with what the user said in place of what was guessed."""
    columns = table.storage.columns
    said = [choices.user, choices.item, choices.time] if is_events else ["", choices.item, ""]
    if not is_events and choices.item not in columns:
        said[1] = ""
    for column in said:
        if column and column not in columns and not (column == "none" == choices.time):
            raise _no_column(table, column, columns)
    roles = table.roles.with_names(*said)
    if choices.texts and (not is_events or set(choices.texts) <= set(columns)):
        for name in choices.texts:
            if name not in _text_names(table):
                raise _no_column(table, name, _text_names(table))
        roles = replace(roles, texts=choices.texts)
    sequence = table.sequence if roles.item == table.roles.item else ""
    return replace(table, roles=roles, sequence=sequence)


def _no_column(table: Table, name: str, columns: Sequence[str]) -> InputError:
    listed = ", ".join(columns[:50])
    return InputError(f"{table.storage.files[0]}: has no column {name!r}; columns: {listed}")


def _text_names(table: Table) -> tuple[str, ...]:
    return (*table.storage.columns, *table.computed)


def _nothing(tables: Sequence[Table], unread: dict[Path, str], choices: Choices) -> str:
    looked = "; ".join(
        [
            f"{table.storage.files[0]}: {table.storage.describe()}, columns "
            f"{', '.join(table.storage.columns[:12])}"
            for table in tables[:3]
        ]
        + list(unread.values())[:2]
    )
    wanted = "" if choices.format == "auto" else f" of the format {choices.format}"
    return (
        f"no file{wanted} holds events (a column of users, one of items): {looked or 'no file'}. "
        f"--user and --item name the columns, --event-columns those of a file without a header"
    )
