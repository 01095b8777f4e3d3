"""SIDs for texts that come later: text in, codes out, by the LLM of a run. Nothing is trained."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from store_engine.data.catalog import Catalog
from store_engine.data.readers import clean_items
from store_engine.data.tables.cell_text import cell_text
from store_engine.errors import InputError, shown
from store_engine.live.changes import Texts
from store_engine.live.text_check import TextCheck
from store_engine.model.store_model import StoreModel
from store_engine.model.weights import load_model
from store_engine.runs.run import Run
from store_engine.sid.dense_tokenizer import DenseTokenizer, ItemTexts, encode_catalog
from store_engine.sid.new_sids import NewItemCodes, NewSids, SidRule

_SAMPLE = 256  # items of the run that new ones are compared with


class ReadItems(NamedTuple):
    """New items as the LLM has read them; which places are free has no part in it yet."""

    items: Catalog  # with clean texts
    dense_tokens: NDArray[np.float32]  # (num_items, num_codes, hidden_size)
    codes: NewItemCodes
    remarks: tuple[str, ...]  # what their owner should look at


class ItemTokenizer:
    """Reads items as stage 1 of a run did. It holds that stage's weights, beside the engine's.

    Args:
        run: A finished run.
        device: Where the LLM reads.

    Raises:
        InputError: New items cannot get SIDs in this run, or a file of it is damaged.
    """

    def __init__(self, run: Run, device: torch.device | str = "cpu") -> None:
        try:
            self.rule = SidRule(run.sid_table, run.config.tokenizer)
        except InputError as error:
            raise InputError(f"{run.directory.root}: {error}") from error
        self._run = run
        self._num_codes = run.config.tokenizer.num_codes
        config, vocabulary = run.config.model, run.vocabulary
        self._model = load_model(
            lambda: DenseTokenizer(StoreModel(config, len(vocabulary)), self._num_codes),
            run.tokenizer_weights,
        ).to(device)

    def read(self, items: Catalog | Texts) -> ReadItems:
        """Reads items, in batches.

        Args:
            items: A catalogue, or item id -> field -> text, with the fields of the run's.

        Raises:
            InputError: A field is none of the run's, or a text is none.
            TypeError: `items` is of another type.
        """
        catalog = as_catalog(items, tuple(self._run.catalog.fields))
        if self._run.config.data.strip_html:
            catalog = clean_items(catalog)
        dense_tokens, lengths = self._encode(catalog)
        codes = self.rule.nearest(dense_tokens)
        remarks = self._check.remarks(catalog, lengths, codes)
        return ReadItems(catalog, dense_tokens, codes, remarks)

    def choose(self, read: ReadItems, taken: NDArray[np.int32]) -> NewSids:
        """Chooses the SIDs; `taken` are those in use, see `SidRule.choose`."""
        return self.rule.choose(read.dense_tokens, read.codes, taken)

    def _encode(self, catalog: Catalog) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Dense tokens, and how many text tokens the LLM would read of each item uncut."""
        texts = ItemTexts(catalog, self._run.vocabulary, self._run.config.data.max_text_tokens)
        return encode_catalog(self._model, texts, self._num_codes), texts.uncut_lengths

    @cached_property
    def _check(self) -> TextCheck:
        catalog = self._run.catalog
        step = max(1, catalog.num_items // _SAMPLE)
        sample = catalog.take(range(0, catalog.num_items, step)[:_SAMPLE])
        dense_tokens, lengths = self._encode(sample)
        return TextCheck(sample, lengths, self.rule.nearest(dense_tokens).distances)


def as_catalog(items: Catalog | Texts, fields: tuple[str, ...]) -> Catalog:
    """Makes a catalogue of items in any form.

    Args:
        items: A catalogue, or item id -> field -> text; numbers, lists and None are written as a
            file's would be.
        fields: The fields of the run's catalogue; what an item lacks is empty.

    Raises:
        InputError: There is no item, a field is none of `fields`, or a value cannot be written.
        TypeError: `items` is no such mapping.
    """
    if isinstance(items, Catalog):
        _check_fields(items.fields, fields, "the new items")
        empty = ("",) * items.num_items
        return Catalog(items.item_ids, {name: items.fields.get(name, empty) for name in fields})
    if not isinstance(items, Mapping):
        raise TypeError(
            f"items must be a Catalog or map item ids to texts by field, got {shown(items)}"
        )
    columns: dict[str, list[str]] = {name: [] for name in fields}
    for item_id, texts in items.items():
        if not isinstance(texts, Mapping):
            raise TypeError(
                f"item {shown(item_id)}: must map fields ({', '.join(fields)}) to texts, got "
                f"{shown(texts)}"
            )
        _check_fields(texts, fields, f"item {shown(item_id)}")
        for name, column in columns.items():
            try:
                column.append(cell_text(texts.get(name)))
            except ValueError as error:
                raise InputError(f"item {shown(item_id)}: {name} {error}") from error
    return Catalog(tuple(items), {name: tuple(column) for name, column in columns.items()})


def _check_fields(given: Iterable[str], fields: tuple[str, ...], what: str) -> None:
    unknown = [name for name in given if name not in fields]
    if unknown:
        raise InputError(
            f"{what}: unknown field {shown(unknown[0])}; the catalogue has {', '.join(fields)}"
        )
