"""Files that come later, prepared by the recipe of those before; no user has too few events."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from store_engine.errors import InputError
from store_engine.prepare.pipeline import Preparation
from store_engine.prepare.readers.columns import Roles
from store_engine.prepare.readers.discover import Found, Table
from store_engine.prepare.readers.sniff import read_storage
from store_engine.prepare.recipe import Recipe
from store_engine.prepare.report import Report


def prepare_later_items(recipe: Recipe, table: Table, folder: Path) -> Report:
    """Prepares items.

    Args:
        recipe: How those before were prepared.
        table: What `recipe.item_table` gave.
        folder: An empty folder; takes items.parquet, the caller removes it.

    Raises:
        InputError: They have bad rows that the recipe does not drop.
    """
    preparation = Preparation(Found(table, table), recipe.rules, folder)
    try:
        return preparation.run_items(folder)
    except InputError as error:
        raise _with_advice(error) from error


def prepare_later_events(
    recipe: Recipe, table: Table, item_ids: Sequence[str] | None, folder: Path
) -> Report:
    """Prepares events.

    Args:
        recipe: How those before were prepared.
        table: What `recipe.event_table` gave.
        item_ids: The items that they may name; None: any, items are made of them too.
        folder: An empty folder; takes interactions.parquet and items.parquet, the caller removes
            it.

    Raises:
        InputError: They have bad rows or unknown items that the recipe does not drop, or times of
            another form.
    """
    # items without an event are nobody's concern here: they are known
    rules = replace(recipe.rules, min_user=1, min_item=1)
    if "%" in recipe.time_form:
        rules = replace(rules, time_format=recipe.time_form)
    items = None if item_ids is None else _known_items(item_ids, folder)
    try:
        report = Preparation(Found(table, items), rules, folder).run(folder, lambda step: None)
    except InputError as error:
        raise _with_advice(error) from error
    if report.time_form != recipe.time_form:
        raise InputError(
            f"{report.where}: times must be {recipe.time_form}, as the run's were, are "
            f"{report.time_form}"
        )
    return report


def _known_items(item_ids: Sequence[str], folder: Path) -> Table:
    """A table of the items that events may name."""
    path = folder / "known.parquet"
    ids = pa.array(item_ids, pa.string())
    pa.parquet.write_table(pa.table({"item_id": ids, "title": ids}), path)
    return Table(read_storage(path), Roles(item="item_id", texts=("title",)), "parquet")


def _with_advice(error: InputError) -> InputError:
    return InputError(
        f"{error} (the rules are those that the run's data were prepared by; what `store-engine "
        f"prepare` makes by others is taken as it is)"
    )


def later_lines(report: Report) -> list[str]:
    """Says what was read of later files, left out, noted and warned of."""
    read = f"{report.num_read:,} events" if report.num_read else f"{report.num_items_read:,} items"
    left_out = report.left_out()
    line = f"{report.where}: prepared as the run's data were: {read} read"
    line += f"; left out: {'; '.join(left_out)}" if left_out else ""
    warnings = [f"warning: {report.where}: {warning}" for warning in report.warnings]
    return [line, *report.notes, *warnings]
