"""The catalogue: item ids and the text of every item, in row order.

A row, the position in the catalogue, stands for an item everywhere else; ids come in and go out
here. On disk it is items.jsonl, one `{"item_id": ..., "text": {field: text}}` per row.
"""

from collections.abc import Container, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from store_engine.errors import InputError, meant_id, shown
from store_engine.files.json_file import read_json_lines, write_json_lines


@dataclass(frozen=True)
class Catalog:
    """Items in row order.

    Args:
        item_ids: The user's keys; unique, at least one.
        fields: Field name -> one text per row, in row order, "" where an item has none. The first
            field is the title.

    Raises:
        InputError: There is no item or no field, an id is empty or appears twice, or a field has
            not one text per item.
        TypeError: The ids or a field's texts are no list of texts, such as one text alone.
    """

    item_ids: tuple[str, ...]
    fields: dict[str, tuple[str, ...]]
    _rows: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks the items, keeps them as tuples, and indexes their ids."""
        if not isinstance(self.fields, Mapping):
            raise TypeError(f"fields must map names to texts, got {type(self.fields).__name__}")
        names = _texts("the names of fields", tuple(self.fields))
        fields = {name: _texts(f"field {name}", self.fields[name]) for name in names}
        object.__setattr__(self, "item_ids", _texts("item_ids", self.item_ids))
        object.__setattr__(self, "fields", fields)
        if not self.item_ids:
            raise InputError("a catalogue needs at least one item, got none")
        if not self.fields:
            raise InputError("a catalogue needs at least one text field, got none")
        for name, texts in self.fields.items():
            if len(texts) != self.num_items:
                raise InputError(
                    f"field {name} must have one text per item ({self.num_items}), got {len(texts)}"
                )
        rows = {item_id: row for row, item_id in enumerate(self.item_ids)}
        object.__setattr__(self, "_rows", rows)
        if "" in rows:
            raise InputError(f"an item id must not be empty (catalogue row {rows['']})")
        if len(rows) < self.num_items:
            row = next(r for r, i in enumerate(self.item_ids) if rows[i] != r)
            item_id = self.item_ids[row]
            raise InputError(f"item id {item_id!r} appears twice (rows {row} and {rows[item_id]})")

    @property
    def num_items(self) -> int:
        """Items in the catalogue."""
        return len(self.item_ids)

    def row_of(self, item_id: str) -> int:
        """Returns the row of an item.

        Raises:
            InputError: The catalogue has no such item.
            TypeError: `item_id` is not text.
        """
        row = self._rows.get(item_id)
        if row is None:
            if not isinstance(item_id, str):
                raise TypeError(f"item ids are text, got {shown(item_id)}")
            raise unknown_item(item_id, self._rows, self.num_items)
        return row

    def extended(self, other: "Catalog") -> "Catalog":
        """Takes the items of another catalogue in: known ones keep their row, new ones come last.

        Args:
            other: With the same fields; its texts count for the items of both.

        Raises:
            InputError: It has other fields.
        """
        if other.fields.keys() != self.fields.keys():
            raise InputError(
                f"the items' fields must be {', '.join(self.fields)}, got {', '.join(other.fields)}"
            )
        row_of = dict(self._rows)
        for item_id in other.item_ids:
            row_of.setdefault(item_id, len(row_of))
        fields = {}
        for name, texts in self.fields.items():
            merged = [*texts, *[""] * (len(row_of) - self.num_items)]
            for item_id, text in zip(other.item_ids, other.fields[name], strict=True):
                merged[row_of[item_id]] = text
            fields[name] = tuple(merged)
        return Catalog(tuple(row_of), fields)

    def take(self, rows: Sequence[int]) -> "Catalog":
        """Returns the items of some rows, at least one, in their order."""
        fields = {n: tuple(texts[row] for row in rows) for n, texts in self.fields.items()}
        return Catalog(tuple(self.item_ids[row] for row in rows), fields)

    def save(self, path: str | Path) -> None:
        """Writes items.jsonl, which either stands complete or not at all."""
        texts = zip(*self.fields.values(), strict=True)
        write_json_lines(
            path,
            (
                {"item_id": item_id, "text": dict(zip(self.fields, row, strict=True))}
                for item_id, row in zip(self.item_ids, texts, strict=True)
            ),
        )

    @classmethod
    def load(cls, path: str | Path) -> "Catalog":
        """Reads what `save` wrote.

        Raises:
            InputError: The file is missing or not of this form; names the line.
        """
        item_ids: list[str] = []
        fields: dict[str, list[str]] = {}
        for where, item in read_json_lines(path):
            item_id, text = _parse(item, where)
            fields = fields or {name: [] for name in text}
            if text.keys() != fields.keys():
                raise InputError(
                    f"{where}: fields must be {', '.join(fields)}, got {', '.join(text)}"
                )
            item_ids.append(item_id)
            for name, texts in fields.items():
                texts.append(text[name])
        try:
            return cls(tuple(item_ids), {name: tuple(texts) for name, texts in fields.items()})
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def unknown_item(item_id: str, known: Container[str], num_items: int) -> InputError:
    """Makes the error for an id that no item has, with the id that was probably meant.

    Args:
        item_id: The id.
        known: The ids that there are.
        num_items: How many there are.
    """
    meant = meant_id(item_id, known)
    hint = f", did you mean {shown(meant)}?" if meant else ""
    return InputError(f"unknown item id {shown(item_id)}; the catalogue has {num_items:,}{hint}")


def _texts(what: str, values: Iterable[str]) -> tuple[str, ...]:
    """Returns texts as a tuple; one text is no list of texts, though it can be iterated over."""
    if isinstance(values, str | bytes | Mapping | Set) or not isinstance(values, Iterable):
        raise TypeError(f"{what} must be a list of texts, got {shown(values)}")
    texts = tuple(values)
    if not all(issubclass(kind, str) for kind in set(map(type, texts))):
        row = next(row for row, text in enumerate(texts) if not isinstance(text, str))
        raise TypeError(f"{what} must be text, got {shown(texts[row])} in row {row}")
    return texts


def _parse(item: dict[str, Any], where: str) -> tuple[str, dict[str, str]]:
    match item:
        case {"item_id": str(item_id), "text": dict(text)}:
            if all(isinstance(value, str) for value in text.values()):
                return item_id, text
    raise InputError(f'{where}: expected {{"item_id": "...", "text": {{field: "..."}}}}')
