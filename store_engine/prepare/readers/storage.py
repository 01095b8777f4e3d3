"""How a table's files are laid out, and the SQL that scans them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from store_engine.data.tables.lines import MAX_LINE_BYTES
from store_engine.errors import InputError

Kind = Literal["delimited", "lines", "json", "literal", "parquet"]


@dataclass(frozen=True)
class Storage:
    """One table's files and how to scan them.

    Args:
        files: The files, of one layout.
        kind: delimited text; lines of whole sequences; json; Python literals; parquet.
        columns: Names, in order; `column_0`, ... where a file has no header.
        sample: The first rows as texts, "" for nothing.
        compression: none, gzip or zstd.
        encoding: utf-8, utf-16 or windows-1252.
        delimiter: Between fields; of `lines` between items.
        quote: The quotation mark, "" where it is a letter.
        escape: What stands before a quotation mark inside quotes.
        has_header: The first line names the columns.
        json_format: newline_delimited, array or unstructured.
        types: Of parquet: name -> Arrow type.
        num_skipped: Lines before the header.
        line_end: What ends a record, where fields hold the other; "" is the first of the file.
    """

    files: tuple[Path, ...]
    kind: Kind
    columns: tuple[str, ...]
    sample: tuple[tuple[str, ...], ...]
    compression: str = "none"
    encoding: str = "utf-8"
    delimiter: str = ""
    quote: str = ""
    escape: str = ""
    has_header: bool = True
    json_format: str = "newline_delimited"
    types: tuple[str, ...] = ()
    num_skipped: int = 0
    line_end: str = ""

    def describe(self) -> str:
        """Says in a few words what the files are."""
        packed = "" if self.compression == "none" else f", {self.compression}"
        if self.kind in ("delimited", "lines"):
            name = {"\t": "tab", " ": "space"}.get(self.delimiter, f"'{self.delimiter}'")
            header = "a header" if self.has_header else "no header"
            form = f"text, {name} between {'fields' if self.kind == 'delimited' else 'items'}"
            text = f"{form}, {header}, {self.encoding}{packed}"
        elif self.kind == "json":
            text = f"json ({self.json_format.replace('_', ' ')}){packed}"
        else:
            text = {"literal": "Python literals, one a line"}.get(self.kind, self.kind) + packed
        return text

    def relation(self, names: Iterable[str]) -> str:
        """Writes the SQL that gives columns as text, in the order of the files.

        Args:
            names: The columns, which keep their names.
        """
        names = list(dict.fromkeys(names))
        self._check_cases(names)
        if self.kind in ("delimited", "lines"):
            # by position: names of which only the case differs are one name in SQL
            chosen = [f"c{self.columns.index(n)} AS {identifier(n)}" for n in names]
        else:
            chosen = [f"{self._text(n)} AS {identifier(n)}" for n in names]
        return f"(SELECT {', '.join(chosen)} FROM {self._scan(names)})"

    def _check_cases(self, names: list[str]) -> None:
        """Refuses names that SQL takes for one."""
        others = self.columns if self.kind == "parquet" else names
        for name in names:
            for other in others:
                if other != name and other.lower() == name.lower():
                    raise InputError(
                        f"{self.files[0]}: columns {name!r} and {other!r} differ in capitals only: "
                        "rename one, or leave it out (--text)"
                    )

    def _scan(self, names: list[str]) -> str:
        # `*` in a name is a star: in brackets it is no pattern
        paths = (re.sub(r"[*?\[]", r"[\g<0>]", str(path)) for path in self.files)
        files = f"[{', '.join(map(literal, paths))}]"
        if self.kind == "parquet":
            return f"read_parquet({files}, union_by_name=true)"
        packed = f"compression={literal(self.compression)}"
        if self.kind == "json":
            skip = "true" if self.json_format == "newline_delimited" else "false"
            columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
            return (
                f"read_json({files}, format='{self.json_format}', columns={{{columns}}}, {packed}, "
                f"ignore_errors={skip}, maximum_object_size={MAX_LINE_BYTES})"
            )
        columns = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(self.columns)))
        delimiter = "\x1f" if self.kind == "lines" else self.delimiter
        ends = {"\n": ", new_line='\\n'", "\r\n": ", new_line='\\r\\n'"}.get(self.line_end, "")
        return (
            f"read_csv({files}, auto_detect=false, columns={{{columns}}}, {packed}, "
            f"delim={literal(delimiter)}, quote={literal(self.quote)}, "
            f"escape={literal(self.escape)}, header={str(self.has_header).lower()}, "
            f"skip={self.num_skipped}, encoding='{self.encoding}', store_rejects=true, "
            f"max_line_size={MAX_LINE_BYTES}{ends})"
        )

    def _text(self, name: str) -> str:
        column = identifier(name)
        if not self.types:
            return column
        kind = self.types[self.columns.index(name)]
        if kind in ("float", "double", "halffloat"):  # ids that a missing value made floats
            whole = f"{column} = floor({column}) AND abs({column}) < 1e18"
            return f"CASE WHEN {whole} THEN {column}::BIGINT::VARCHAR ELSE {column}::VARCHAR END"
        if kind.startswith("timestamp[ns"):
            return f"epoch_ns({column})::VARCHAR"
        if kind.startswith(("list", "large_list", "fixed_size_list", "struct", "map")):
            return f"to_json({column})::VARCHAR"
        if kind in ("binary", "large_binary"):
            return f"decode({column})"
        return f"{column}::VARCHAR"


def literal(text: str) -> str:
    """Quotes a text for SQL."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Quotes a column's name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def place_of_copy(path: Path, number: int, folder: Path) -> Path:
    """Makes room for a copy of a table's file under the file's own name, by which it is known.

    Args:
        path: The file.
        number: Of the file in its table.
        folder: Where the table's copies are.
    """
    place = folder / str(number) / path.name
    place.parent.mkdir(parents=True)
    return place
