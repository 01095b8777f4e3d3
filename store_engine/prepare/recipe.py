"""How a run's data were prepared: kept, so that later files of the same shape are read alike.

`prepare` writes it into card.json, training keeps it as recipe.json: nothing is guessed again.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from store_engine.config.toml_file import build_checked
from store_engine.errors import InputError
from store_engine.files.json_file import read_json
from store_engine.prepare.readers.columns import Roles, rename
from store_engine.prepare.readers.discover import Found, Table
from store_engine.prepare.readers.layouts import LAYOUTS, Layout, Role
from store_engine.prepare.readers.sniff import read_storage
from store_engine.prepare.readers.sources import item_fields
from store_engine.prepare.readers.storage import Kind, Storage
from store_engine.prepare.rules import Rules
from store_engine.prepare.steps.positive import parse_positive


@dataclass(frozen=True)
class TableRecipe:
    """How the files of one table are read; the fields are those of `Table` and its `Storage`.

    Args:
        format: As of `Table`; "" where there was no such table.
        is_data_set: The format has a layout of its own.
        kind: As of `Storage`, like the following.
        columns: All names; of files without a header they are given.
        delimiter: As of `Storage`.
        quote: As of `Storage`.
        escape: As of `Storage`.
        has_header: As of `Storage`.
        user: As of `Roles`, like the following.
        item: As of `Roles`.
        time: As of `Roles`.
        texts: Text fields that are read of the table, the title first.
        sequence: As of `Table`.
    """

    format: str = ""
    is_data_set: bool = False
    kind: Kind = "delimited"
    columns: tuple[str, ...] = ()
    delimiter: str = ""
    quote: str = ""
    escape: str = ""
    has_header: bool = True
    user: str = ""
    item: str = ""
    time: str = ""
    texts: tuple[str, ...] = ()
    sequence: str = ""

    def __post_init__(self) -> None:
        """Refuses marks that no reader takes."""
        marks = (self.quote, self.escape)
        if max(map(len, marks)) > 1 or len(self.delimiter) > 2:
            raise InputError(
                f"quote and escape must be one letter, delimiter one or two, got "
                f"{(*marks, self.delimiter)}"
            )

    @classmethod
    def of(cls, table: Table, texts: tuple[str, ...]) -> "TableRecipe":
        """The recipe of a table of which some text fields are read."""
        storage, roles = table.storage, table.roles
        return cls(
            table.format, table.layout is not None, storage.kind, storage.columns,
            storage.delimiter, storage.quote, storage.escape, storage.has_header,
            roles.user, roles.item, roles.time, texts, table.sequence,
        )  # fmt: skip

    def table(self, path: Path, role: Role, reads: Iterable[str] = ()) -> Table:
        """Returns a later file as such a table.

        Args:
            path: The file.
            role: "events" or "items".
            reads: Further columns that it must have.

        Raises:
            InputError: It cannot be read, is of another kind, or lacks a column.
        """
        old = Storage((path,), self.kind, self.columns, (), delimiter=self.delimiter,
                      quote=self.quote, escape=self.escape, has_header=self.has_header)  # fmt: skip
        storage = read_storage(path, old)
        if storage.kind != self.kind:
            raise InputError(
                f"{path}: must be {old.describe()}, as the run's {role} were, is "
                f"{storage.describe()}"
            )
        if self.format == "recbole":
            names = [name.rpartition(":")[0] or name for name in storage.columns]
            storage = rename(storage, names)
        if self.kind == "delimited" and not self.has_header:
            if len(storage.columns) != len(self.columns):
                raise InputError(
                    f"{path}: must have {len(self.columns)} columns, as the run's {role} had "
                    f"({', '.join(self.columns)}), has {len(storage.columns)}"
                )
            storage = rename(storage, self.columns)
        layout = self._layout(role) if self.is_data_set else None
        roles = Roles(self.user, self.item, self.time, self.texts)
        table = Table(storage, roles, self.format, layout, self.sequence)
        return self._checked(table, role, reads)

    def _layout(self, role: Role) -> Layout:
        """That of the data set, by the columns whose names no choice changes."""
        for layout in LAYOUTS:
            if (layout.format, layout.role) == (self.format, role) and (
                set(layout.needs or layout.names) <= {*self.columns}
            ):
                return layout
        raise InputError(f"the data set {self.format!r} has no {role} of these columns")

    def _checked(self, table: Table, role: Role, reads: Iterable[str]) -> Table:
        """The table, if it has all columns; an object of JSON may lack any of the texts."""
        storage, layout = table.storage, table.layout
        needed = [] if layout is None else sorted(layout.needs or layout.names)
        if table.expand == "rows":
            needed += [self.user, self.item, self.time, *reads]
            texts = [name for name in self.texts if name not in table.computed]
            if storage.kind in ("json", "literal"):
                columns = tuple(dict.fromkeys((*storage.columns, *texts)))
                storage = replace(storage, columns=columns, sample=())
            needed += texts
        for name in filter(None, needed):
            if name not in storage.columns:
                raise InputError(
                    f"{storage.files[0]}: column {name!r} is required, as in the files that the "
                    f"run's {role} were prepared from; columns: {', '.join(storage.columns[:50])}"
                )
        return replace(table, storage=storage)


@dataclass(frozen=True)
class Recipe:
    """How data were prepared.

    Args:
        events: How the events were read.
        items: How the items were read; without a format they were made of the events.
        rules: What was kept.
        time_form: How the times were written, as `Report.time_form` says it.
    """

    events: TableRecipe = field(default_factory=TableRecipe)
    items: TableRecipe = field(default_factory=TableRecipe)
    rules: Rules = field(default_factory=Rules)
    time_form: str = ""

    @classmethod
    def of(cls, found: Found, rules: Rules, time_form: str) -> "Recipe":
        """The recipe of a preparation."""
        if found.items is None:
            return cls(
                TableRecipe.of(found.events, found.events.roles.texts), TableRecipe(), rules,
                time_form,
            )  # fmt: skip
        items = TableRecipe.of(found.items, item_fields(found.items))
        return cls(TableRecipe.of(found.events, ()), items, rules, time_form)

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """Reads what `as_json` gave.

        Raises:
            InputError: The file is missing or damaged.
        """
        return cls.parse(read_json(path), str(path))

    @classmethod
    def parse(cls, values: Any, where: str) -> "Recipe":
        """Makes a recipe of JSON; `where` is its place, for messages.

        Raises:
            InputError: It is none.
        """
        try:
            recipe: Recipe = build_checked(cls, values, "")
            if recipe.rules.positive:
                parse_positive(recipe.rules.positive)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        return recipe

    def as_json(self) -> dict[str, Any]:
        """Returns it as JSON."""
        return dataclasses.asdict(self)

    def event_table(self, path: Path) -> Table:
        """Returns a file of later events as such a table; see `TableRecipe.table`."""
        positive = self.rules.positive
        return self.events.table(
            path, "events", parse_positive(positive).columns if positive else ()
        )

    def item_table(self, path: Path) -> Table:
        """Returns a file of later items as such a table; see `TableRecipe.table`.

        Raises:
            InputError: Also where there were no files of items.
        """
        if not self.items.format:
            raise InputError(
                f"{path}: the run's items were made of its events, no file of items was prepared"
            )
        return self.items.table(path, "items")
