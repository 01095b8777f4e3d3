"""SIDs of the user's own: a file with a column of item ids and one per code.

It has the form that `store-engine tokenize --out` writes: item_id, code_0, code_1, ...
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from store_engine.config import Config
from store_engine.data.tables.lines import shown
from store_engine.errors import InputError
from store_engine.extras import needs

if TYPE_CHECKING:  # pyarrow takes long to import: only reading a file does it
    from store_engine.data.tables.table import Table


def read_sids_of(config: Config, item_ids: Sequence[str]) -> NDArray[np.int32]:
    """Reads the codes of `tokenizer.sids_file`, see `read_sids_file`."""
    settings = config.tokenizer
    path = Path(config.data.path) / settings.sids_file
    sizes = settings.num_codes, settings.codebook_size
    return read_sids_file(path, config.data.item_id, item_ids, *sizes)


def read_sids_file(
    path: str | Path, id_column: str, item_ids: Sequence[str], num_codes: int, codebook_size: int
) -> NDArray[np.int32]:
    """Reads the codes of a catalogue's items; other items in the file are left alone.

    Args:
        path: csv, tsv, jsonl or parquet.
        id_column: Column with the item ids.
        item_ids: The catalogue's, in row order.
        num_codes: Columns code_0, code_1, ... that are read.
        codebook_size: Codes are in [0, codebook_size).

    Returns:
        (num_items, num_codes) int32 in row order; items may share their codes.

    Raises:
        InputError: The file cannot be read, an item of the catalogue is missing or there twice, or
            a code is none.
    """
    with needs(str(path)):
        from store_engine.data.tables.table import read_table

    names = [f"code_{level}" for level in range(num_codes)]
    table = read_table(path, [id_column, *names])
    ids = table.keys(id_column)
    table.refuse(ids.bad)
    row_of = {ids.unique[code]: row for row, code in enumerate(ids.codes.tolist())}
    if len(row_of) < table.num_rows:
        row = int(np.flatnonzero(np.bincount(ids.codes)[ids.codes] > 1)[0])
        raise InputError(f"{table.where(row)}: item {shown(ids.unique[ids.codes[row]])} is twice")
    missing = [item_id for item_id in item_ids if item_id not in row_of]
    if missing:
        raise InputError(
            f"{path}: {len(missing):,} of {len(item_ids):,} items of the catalogue have no SID, "
            f"the first is {shown(missing[0])}"
        )
    rows = np.array([row_of[item_id] for item_id in item_ids], dtype=np.int64)
    codes = [_read_codes(table, name, codebook_size)[rows] for name in names]
    return np.stack(codes, axis=1)


def _read_codes(table: "Table", name: str, codebook_size: int) -> NDArray[np.int32]:
    """A column of codes, in the file's order."""
    keys = table.keys(name)
    table.refuse(keys.bad)
    is_code = [text.isascii() and text.isdecimal() and len(text) < 6 for text in keys.unique]
    values = [int(text) if fits else -1 for text, fits in zip(keys.unique, is_code, strict=True)]
    codes = np.array(values, dtype=np.int32)[keys.codes]
    is_bad = (codes < 0) | (codes >= codebook_size)
    if is_bad.any():
        row = int(is_bad.argmax())
        raise InputError(
            f"{table.where(row)}: {name} must be in [0, {codebook_size}) "
            f"(tokenizer.codebook_size), got {shown(keys.unique[keys.codes[row]])}"
        )
    return codes
