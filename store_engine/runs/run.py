"""A run, loaded part by part: each one when it is first asked for, after it was verified."""

import contextlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from store_engine._C import ItemTrie
from store_engine.config import Config
from store_engine.errors import InputError
from store_engine.extras import needs
from store_engine.files.regular import parse_errors
from store_engine.runs.manifest import Lineage, Manifest
from store_engine.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from store_engine.collaborative.evidence import Evidence
    from store_engine.data.catalog import Catalog
    from store_engine.data.histories import Histories
    from store_engine.data.split import Split
    from store_engine.model.store_model import StoreModel
    from store_engine.prepare.recipe import Recipe
    from store_engine.sid.sid_table import SidTable
    from store_engine.text.vocabulary import Vocabulary


class Run:
    """The parts of a run. Evaluation, serving and export of a run share one `Run`.

    All parts are of the run that was there when this was made: one that replaces it meanwhile is
    refused. Every part raises InputError when its file is missing, damaged, or does not fit the
    others.

    Args:
        directory: Where the run is; a run that is not finished lacks some parts.
        verify: Read every file again to verify it; else a large file that was found whole before
            and was not touched since is trusted.
    """

    def __init__(self, directory: RunDirectory, verify: bool = False) -> None:
        self.directory, self._verify = directory, verify
        self._manifest = directory.read_manifest()

    @property
    def manifest(self) -> Manifest:
        """What run.json said when the run was opened."""
        return self._manifest

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return self._manifest.dataset

    @property
    def created(self) -> str:
        """When it was begun: date and time, ISO 8601."""
        return self._manifest.created

    @property
    def version(self) -> str:
        """Of the package that began it."""
        return self._manifest.version

    @property
    def weights_digest(self) -> str:
        """SHA-256 of model.safetensors; "" in a run of format 1."""
        return self._manifest.files[self.directory.model_weights.name].sha256

    @property
    def lineage(self) -> Lineage | None:
        """The run that it goes on from; None: it was trained from the start."""
        return self._manifest.parent

    @cached_property
    def config(self) -> Config:
        """The config, every value stated."""
        with self._reading(self.directory.config):
            return self.directory.read_config(self._manifest)

    @cached_property
    def recipe(self) -> "Recipe | None":
        """How `prepare` made the run's data; None: they were not prepared by it."""
        if self.directory.recipe.name not in self._manifest.files:
            return None
        with needs(f"{self.directory.recipe}", "prepare"):
            from store_engine.prepare.recipe import Recipe

        with self._reading(self.directory.recipe) as path:
            return Recipe.read(path)

    @cached_property
    def catalog(self) -> "Catalog":
        """The items."""
        from store_engine.data.catalog import Catalog

        with self._reading(self.directory.items) as path:
            return Catalog.load(path)

    @cached_property
    def histories(self) -> "Histories":
        """Every user's events, in rows of the catalogue."""
        from store_engine.data.histories import Histories

        with self._reading(self.directory.histories) as path:
            histories = Histories.load(path)
        if len(histories.rows) and histories.rows.max() >= self.catalog.num_items:
            raise InputError(f"{path}: names items that are not in items.jsonl")
        return histories

    @cached_property
    def split(self) -> "Split":
        """The events that were trained on, and the examples that measure the run."""
        from store_engine.data.split import split_histories

        if not self.histories.num_users:
            raise InputError(
                f"{self.directory.root}: has no histories to be measured on (an imported run has "
                f"none)"
            )
        return split_histories(self.histories, self.config.data)

    @cached_property
    def vocabulary(self) -> "Vocabulary":
        """The text vocabulary."""
        from store_engine.text.vocabulary import load_vocabulary

        with contextlib.ExitStack() as stack:
            for path in self.directory.vocabulary:
                # a file that is not listed must not be read either
                if path.name in self._manifest.files or os.path.exists(path):
                    stack.enter_context(self._reading(path))
            return load_vocabulary(self.directory.root)

    @cached_property
    def sid_table(self) -> "SidTable":
        """The SID of every item."""
        from store_engine.sid.sid_table import SidTable

        with self._reading(self.directory.sids) as path:
            table = SidTable.load(path)
        if table.item_ids != self.catalog.item_ids:
            raise InputError(f"{path}: lists other items than items.jsonl")
        return table

    @cached_property
    def trie(self) -> ItemTrie:
        """The trie of the SIDs, mapped from its file."""
        table = self.sid_table
        if self._manifest.format == 1:
            # nothing binds the file to these SIDs
            return ItemTrie(table.sids, list(table.codebook_sizes))
        with self._reading(self.directory.trie) as path, parse_errors(path, "a readable trie"):
            trie = ItemTrie.load(str(path))
        if (trie.num_items, trie.codebook_sizes) != (len(table.item_ids), table.codebook_sizes):
            raise InputError(f"{path}: holds other SIDs than sids.npz")
        return trie

    @cached_property
    def model(self) -> "StoreModel":
        """The recommender, float32 on the CPU until its user moves it."""
        return self._model(self.directory.model_weights)

    @property
    def is_refitted(self) -> bool:
        """Whether the recommender was trained again with the validation events."""
        return self._manifest.is_current(self.directory.training_weights.name)

    @cached_property
    def training_model(self) -> "StoreModel":
        """The recommender that has seen training events alone."""
        return self._model(self.directory.training_weights) if self.is_refitted else self.model

    def _model(self, path: Path) -> "StoreModel":
        from store_engine.model.weights import load_model
        from store_engine.sid.item_tokens import recommender_model

        with self._reading(path):
            config, text_size, table = self.config, len(self.vocabulary), self.sid_table
            return load_model(lambda: recommender_model(config, text_size, table), path)

    @cached_property
    def evidence(self) -> "Evidence | None":
        """Item-item evidence of all events before the test, in units of log-probability.

        None: the run has none.
        """
        return self._evidence(self.directory.evidence)

    @cached_property
    def training_evidence(self) -> "Evidence | None":
        """The same of the training events alone, on which it was weighed."""
        return self._evidence(self.directory.training_evidence)

    @cached_property
    def evidence_now(self) -> "Evidence | None":
        """What is served: of all events known now, if they were counted since; else `evidence`."""
        newer = self._evidence(self.directory.evidence_now)
        return self.evidence if newer is None else newer

    def _evidence(self, path: Path) -> "Evidence | None":
        from store_engine.collaborative.evidence import Evidence

        if not self._manifest.is_current(path.name):
            return None
        with self._reading(path):
            evidence = Evidence.load(path)
        if evidence.num_items != self.catalog.num_items:
            raise InputError(f"{path}: is of other items than items.jsonl")
        return evidence

    def take_model(self) -> "StoreModel":
        """Returns the model to somebody who may move it; the next one gets another."""
        model = self.model
        del self.model
        return model

    @property
    def has_scoring(self) -> bool:
        """Whether the run was trained to score candidates."""
        return self._manifest.is_current(self.directory.scoring_weights.name)

    @property
    def scoring_weights(self) -> Path:
        """The file with the weights that score candidates, verified."""
        with self._reading(self.directory.scoring_weights) as path:
            return path

    @property
    def tokenizer_weights(self) -> Path:
        """The file with the weights of stage 1, verified."""
        with self._reading(self.directory.tokenizer_weights) as path:
            return path

    @contextlib.contextmanager
    def _reading(self, path: Path) -> Iterator[Path]:
        """Verifies a file before it is read, and that the run was not replaced meanwhile."""
        self.directory.check(path, self._manifest, self._verify)
        yield path
        listed = self.directory.read_manifest().files.get(path.name)
        if listed != self._manifest.files[path.name]:
            raise InputError(f"{path}: was replaced while it was read; load the run again")


def load_run(run_dir: str | Path, *, verify: bool = False) -> Run:
    """Opens a finished run.

    Args:
        run_dir: What training wrote.
        verify: As for `Run`.

    Raises:
        InputError: The directory is missing, unfinished, or of another format.
    """
    directory = RunDirectory.open(run_dir)
    weights = directory.model_weights
    if weights.name not in directory.read_manifest().files or not os.path.exists(weights):
        raise InputError(
            f"{run_dir}: the run is not finished (it has no {weights.name}); "
            f"train.py --resume goes on with it"
        )
    return Run(directory, verify)
