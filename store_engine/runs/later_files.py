"""Files that come to a run's data: prepared ones, or raw ones, prepared as the run's data were."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from store_engine.config import DataConfig
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.readers import EventColumns, EventRules, read_interactions, read_items
from store_engine.data.report import DataReport
from store_engine.errors import InputError
from store_engine.extras import needs
from store_engine.files.json_file import read_json
from store_engine.runs.run import Run

if TYPE_CHECKING:
    from store_engine.prepare.readers.discover import Table
    from store_engine.prepare.recipe import Recipe


def recipe_of(settings: DataConfig) -> "Recipe | None":
    """Returns how a run's data were prepared; None where `prepare` did not make them.

    Args:
        settings: Where the data are.

    Raises:
        InputError: The card that prepare wrote beside them is damaged.
    """
    card = Path(settings.path) / "card.json"
    names = ("items.parquet", "interactions.parquet")
    is_prepared = settings.name == "files" and (settings.items, settings.interactions) == names
    values = read_json(card).get("recipe") if is_prepared and card.is_file() else None
    if values is None:  # an older version kept none
        return None
    from store_engine.prepare.recipe import Recipe

    return Recipe.parse(values, f"{card}: recipe")


class LaterFiles:
    """Reads them.

    Args:
        run: The run that they come to.
        settings: The names of the prepared form's columns.
        report: Takes counts and notes.
    """

    def __init__(self, run: Run, settings: DataConfig, report: DataReport) -> None:
        self._recipe, self._fields = run.recipe, tuple(run.catalog.fields)
        self._settings, self._report = settings, report

    def items(self, path: Path) -> Catalog:
        """Reads items.

        Raises:
            InputError: They cannot be read in either form; names a column that is missing.
        """
        item_id, strip = self._settings.item_id, self._settings.strip_html
        found = self.raw_items(path, (item_id, *self._fields))
        if found is None:
            found = read_items(path, item_id, self._fields, self._report, strip_html=strip)
        return found

    def raw_items(self, path: Path, prepared: Sequence[str] = ()) -> Catalog | None:
        """Reads raw items.

        Args:
            path: The file.
            prepared: Columns of the prepared form, which any other file must have.

        Returns:
            The items; None of a file that is not raw, or where no recipe is known.

        Raises:
            InputError: A raw file has bad rows, or another lacks a column of `prepared`.
        """
        recipe = self._recipe
        table = None if recipe is None else _raw_table(recipe.item_table, path, prepared)
        if recipe is None or table is None:
            return None
        with tempfile.TemporaryDirectory() as folder, needs(str(path)):
            from store_engine.prepare.later import later_lines, prepare_later_items

            self._report.notes += later_lines(prepare_later_items(recipe, table, Path(folder)))
            return self._prepared_items(Path(folder))

    def events(
        self,
        path: Path,
        catalog: Catalog,
        unknown_items: Literal["error", "drop"] = "error",
        *,
        may_bring_items: bool = False,
    ) -> tuple[Catalog, Histories]:
        """Reads events.

        Args:
            path: The file.
            catalog: The items that there are.
            unknown_items: Events of others are an error, or dropped and counted; of raw files also
                where they were dropped when the run's data were prepared.
            may_bring_items: Where the run's items were made of its events, raw events bring theirs.

        Returns:
            The items, with those that came, and the histories.

        Raises:
            InputError: They cannot be read in either form; names a column that is missing.
        """
        columns = EventColumns.of(self._settings)
        rules, recipe = EventRules.of_later(self._settings, unknown_items), self._recipe
        names = [columns.user_id, columns.item_id, columns.timestamp]
        table = None if recipe is None else _raw_table(recipe.event_table, path, names)
        if recipe is None or table is None:
            return catalog, read_interactions(path, catalog, columns, rules, self._report)[0]
        with tempfile.TemporaryDirectory() as name, needs(str(path)):
            from store_engine.prepare.later import later_lines, prepare_later_events

            if unknown_items == "drop":
                recipe = replace(recipe, rules=replace(recipe.rules, unknown_items="drop"))
            folder = Path(name)
            brings = may_bring_items and not recipe.items.format
            known = None if brings else catalog.item_ids
            done = prepare_later_events(recipe, table, known, folder)
            self._report.notes += later_lines(done)
            if brings:
                catalog = catalog.extended(self._prepared_items(folder))
            found = folder / "interactions.parquet"
            histories, _ = read_interactions(found, catalog, rules=rules, report=self._report)
            self._report.num_unknown += done.num_unknown
            return catalog, histories

    def _prepared_items(self, folder: Path) -> Catalog:
        path, strip = folder / "items.parquet", self._settings.strip_html
        return read_items(path, "item_id", self._fields, self._report, strip_html=strip)


def _raw_table(
    table_of: "Callable[[Path], Table]", path: Path, prepared: Sequence[str]
) -> "Table | None":
    """The table that a raw file is; None of one in the prepared form.

    Raises:
        InputError: It is in neither form.
    """
    with needs(str(path)):
        from store_engine.prepare.readers.sniff import read_storage
    try:
        return table_of(path)
    except InputError as error:
        try:
            columns = {name for whole in read_storage(path).columns
                       for name in (whole, whole.partition(":")[0])}  # fmt: skip
        except InputError:
            raise error from None
        if columns.issuperset(prepared):
            return None
        raise InputError(f"{error}; or {', '.join(prepared)}, as prepare writes them") from error
