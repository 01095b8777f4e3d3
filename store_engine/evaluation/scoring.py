"""Click-through prediction: the chance that a user says YES to a candidate, by the same LLM.

Stage 2 learns it when `recommender.scoring` is above 0 (training/tasks/scoring.py has the form of a
CTR example). The labels' two rows of embedding and head are kept in scoring.safetensors, beside a
model.safetensors that knows items alone.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine.data.packing import IntArray
from store_engine.data.split import Examples
from store_engine.errors import InputError
from store_engine.evaluation.metrics import auc, gauc, log_loss
from store_engine.model.attention import PackedSequences
from store_engine.model.dtype import choose_device
from store_engine.model.store_model import StoreModel
from store_engine.model.weights import read_weights
from store_engine.runs.run import Run, load_run
from store_engine.training.tasks.scoring import NUM_LABELS, ctr_example

_TABLES = ("code_embedding.weight", "code_head.weight")
_EXAMPLES_PER_PASS = 128


class Scorer:
    """The model of a finished run with the labels' rows, in float32.

    Args:
        run_dir: The run, or its directory.
        device: "cpu", "cuda", "cuda:N", or "auto": cuda where there is one.

    Raises:
        InputError: The run is missing, unfinished, damaged, or was trained without scoring; or this
            machine has no such device.
    """

    def __init__(self, run_dir: Path | Run, device: str | torch.device = "auto") -> None:
        self._device = choose_device(device)
        run = run_dir if isinstance(run_dir, Run) else load_run(run_dir)
        labels = _read_labels(run.scoring_weights, run.config.model.hidden_size)
        parameters = run.model.named_parameters()
        weights: dict[str, Tensor] = {n: p.detach().float().cpu() for n, p in parameters}
        weights |= {name: torch.cat([weights[name], labels[name]]) for name in _TABLES}
        sizes = (*run.sid_table.codebook_sizes, NUM_LABELS)
        self._model = StoreModel(run.config.model, len(run.vocabulary), sizes).eval()
        self._model.load_state_dict(weights, strict=False)  # a tied head has one name of two
        self._model.to(self._device)
        self._bos, self._eos = run.vocabulary.bos_id, run.vocabulary.eos_id
        self._max_history = run.config.data.max_history
        self._item_tokens = run.model.vocabulary.to_ids(run.sid_table.sids)

    @torch.no_grad()
    def probabilities(
        self, histories: Sequence[NDArray[np.int32]], candidates: IntArray
    ) -> NDArray[np.float64]:
        """Computes P(YES) of one candidate after each history.

        Args:
            histories: Catalogue rows, oldest first; the last max_history count.
            candidates: (num_histories,) catalogue rows.

        Returns:
            (num_histories,) between 0 and 1.
        """
        documents = [
            ctr_example(self._item_tokens, history[-self._max_history :], row, self._bos, self._eos)
            for history, row in zip(histories, candidates.tolist(), strict=True)
        ]
        found = [
            self._predict(documents[i : i + _EXAMPLES_PER_PASS])
            for i in range(0, len(documents), _EXAMPLES_PER_PASS)
        ]
        probabilities: NDArray[np.float64] = torch.cat(found).cpu().double().numpy()
        return probabilities

    def _predict(self, documents: list[IntArray]) -> Tensor:
        lengths = torch.tensor([len(document) for document in documents])
        sequences = PackedSequences.from_lengths(lengths, self._device)
        tokens = torch.from_numpy(np.concatenate(documents)).to(self._device)
        last = (lengths.cumsum(0) - 1).to(self._device)
        hidden = self._model.hidden_states(self._model.embed(tokens), sequences)[last]
        logits = self._model.level_logits(hidden, len(self._model.codebook_sizes) - 1)
        return logits.float().softmax(-1)[:, 1]


def _read_labels(path: Path, hidden_size: int) -> dict[str, Tensor]:
    """Reads the labels' rows.

    Raises:
        InputError: The file is damaged, or belongs to another model.
    """
    labels = read_weights(path)
    for name in _TABLES:
        want = (NUM_LABELS, hidden_size)
        if name not in labels or labels[name].shape != want:
            got = tuple(labels[name].shape) if name in labels else "none"
            raise InputError(f"{path}: tensor '{name}' must be {want}, got {got}")
    return labels


def measure_scoring(scorer: Scorer, examples: Examples, num_items: int) -> dict[str, float]:
    """Measures AUC, GAUC by user and LogLoss on a positive and a negative per user.

    The positive is the item that came next; the negative is another one, drawn with a fixed seed.

    Args:
        scorer: The model.
        examples: Each user's history, and the item that came next.
        num_items: Number of items of the catalogue.
    """
    targets = examples.targets.astype(np.int64)
    num_users = len(targets)
    shift = np.random.default_rng(0).integers(1, num_items, num_users)
    candidates = np.concatenate([targets, (targets + shift) % num_items])
    labels = np.repeat([1, 0], num_users)
    chances = scorer.probabilities(examples.histories * 2, candidates)
    users = np.tile(np.arange(num_users), 2)
    return {
        "auc": auc(chances, labels),
        "gauc": gauc(chances, labels, users),
        "log_loss": log_loss(chances, labels),
    }
