"""The files of a run directory: where each one is."""

import re
from pathlib import Path

from store_engine.files.atomic import is_temporary
from store_engine.files.directory_swap import LOCK_NAME
from store_engine.runs.format1 import DATA_FILE

_TEMPORARY_OF_FORMAT1 = re.compile(r"[a-z_.]+\.\d+\.tmp")
VOCABULARY_FILES = ("text.model", "tokenizer.json", "tokenizer_config.json", "config.json")
# of the training, in their order; each has its checkpoints in a folder of its name
STAGES = ("tokenizer", "recommender", "refit")


class RunPaths:
    """The paths of a run directory's files; docs/run-directory.md says what is in them.

    Args:
        root: The directory, which need not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest = root / "run.json"
        self.config = root / "config.toml"
        self.items = root / "items.jsonl"
        self.histories = root / "histories.npz"
        self.recipe = root / "recipe.json"
        self.item_texts = root / "texts.tokens"
        self.train_rows = root / "train.tokens"
        self.refit_rows = root / "refit.tokens"
        self.train_shown = root / "train_shown.tokens"
        self.refit_shown = root / "refit_shown.tokens"
        self.vocabulary = tuple(root / name for name in VOCABULARY_FILES)
        # of the run that this one goes on from
        self.start = root / "start"
        self.start_sids = self.start / "sids.npz"
        self.start_weights = self.start / "model.safetensors"
        self.start_training_weights = self.start / "model_train.safetensors"
        self.start_scoring = self.start / "scoring.safetensors"
        self.start_evidence = self.start / "evidence_train.npz"
        self.start_removed = self.start / "removed.json"
        self.tokenizer_weights = root / "tokenizer.safetensors"
        self.sids = root / "sids.npz"
        self.item_vectors = root / "item_vectors.npz"
        self.training_weights = root / "model_train.safetensors"
        self.training_evidence = root / "evidence_train.npz"
        self.evidence = root / "evidence.npz"
        self.evidence_now = root / "evidence_now.npz"
        self.model_weights = root / "model.safetensors"
        self.scoring_weights = root / "scoring.safetensors"
        self.trie = root / "trie.bin"
        self.metrics = root / "metrics.json"
        # by a stage of the training, which makes a missing one again
        self.made_later = (
            self.tokenizer_weights,
            self.sids,
            self.item_vectors,
            self.training_weights,
            self.training_evidence,
            self.evidence,
            self.model_weights,
            self.evidence_now,
            self.scoring_weights,
            self.trie,
            self.metrics,
        )
        # of the live catalogue: not listed in run.json, because it grows
        self.journal = root / "journal.db"
        self.journal_log, self.journal_index = root / "journal.db-wal", root / "journal.db-shm"
        self.log = root / "train_log.jsonl"
        self.tensorboard = root / "tensorboard"
        self.curves = root / "curves.png"
        self.codebook = root / "codebook.png"
        self.report = root / "report.html"
        self.checkpoints = root / "checkpoints"
        self.lock = root / LOCK_NAME
        self.verified = root / ".verified.json"

    def made_from(self, path: Path) -> tuple[Path, ...]:
        """Returns the files whose content a file depends on: it does not go with others."""
        return {
            self.sids: (self.items, self.tokenizer_weights),
            self.item_vectors: (self.sids,),
            self.training_weights: (self.sids,),
            self.model_weights: (self.sids, self.training_weights),
            self.training_evidence: (self.histories, self.training_weights, self.model_weights),
            self.evidence: (self.training_evidence,),
            self.evidence_now: (self.training_evidence,),
            self.scoring_weights: (self.sids,),
            self.trie: (self.sids,),
        }.get(path, ())

    def foreign(self) -> list[str]:
        """Lists names in the directory that no run has, sorted."""
        own = self._own_names()
        names = sorted(path.name for path in self.root.iterdir())
        names = [name for name in names if name not in own and not is_temporary(name)]
        return [name for name in names if _TEMPORARY_OF_FORMAT1.fullmatch(name) is None]

    def holds(self, path: Path) -> bool:
        """Whether a resolved path is one of a run's own files here, but for pictures and report."""
        if self.root not in path.parents:
            return False
        return path.relative_to(self.root).parts[0] in self._own_names() - {
            self.curves.name,
            self.codebook.name,
            self.report.name,
        }

    def _own_names(self) -> set[str]:
        paths = (path for path in vars(self).values() if isinstance(path, Path))
        own = {path.name for path in paths if path != self.root}
        return own | {*VOCABULARY_FILES, DATA_FILE}
