"""Validation while stage 2 trains: the real decoder on a fixed sample of users."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from store_engine.data.split import Examples
from store_engine.decoding.engine import Engine
from store_engine.decoding.evidence import EvidenceScorer
from store_engine.evaluation.evaluate_run import rank_all
from store_engine.evaluation.metrics import ranking_metrics
from store_engine.runs.run import Run
from store_engine.sid.item_tokens import recommender_model
from store_engine.training.distributed.rank_share import ALONE, RankShare
from store_engine.training.randomness import rng

_K = 10


class Validation:
    """NDCG@10 on the validation split.

    Args:
        run: Its data and SIDs; it need not be finished.
        device: Where to decode.
        share: Of the users, for ranks that all call it.
    """

    def __init__(
        self, run: Run, device: torch.device | str = "cpu", share: RankShare = ALONE
    ) -> None:
        self._run, self._device, self._share = run, device, share
        train = run.config.train
        self.examples = sample_examples(run.split.valid, train.eval_users, train.seed)

    def __call__(self, weights: dict[str, Tensor]) -> float:
        """Measures weights.

        Args:
            weights: Tensors by the names of `StoreModel`. Rows of the codes' tables behind those
                of the items are left out: a recommender of items has no use for them.

        Returns:
            NDCG@10 of the run's own decoding, in float32.
        """
        rankings = rank_all(self.engine(weights), self.examples, _K, share=self._share)
        return ranking_metrics(rankings, self.examples.targets, (_K,))[f"ndcg@{_K}"]

    @torch.no_grad()
    def engine(self, weights: dict[str, Tensor], evidence: EvidenceScorer | None = None) -> Engine:
        """Makes the recommender of weights, with or without evidence."""
        run, table = self._run, self._run.sid_table
        model = recommender_model(run.config, len(run.vocabulary), table)
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name][: len(parameter)])
        return Engine(
            model.to(self._device).requires_grad_(False),
            run.catalog,
            table.sids,
            bos=run.vocabulary.bos_id,
            max_history=run.config.data.max_history,
            config=dataclasses.replace(run.config.decoding, prefix_cache_mib=0.0),
            evidence=evidence,
        )


def sample_examples(examples: Examples, num_users: int, seed: int) -> Examples:
    """Draws users, always the same ones: all if there are not more."""
    count = len(examples.targets)
    if num_users >= count:
        return examples
    users = np.sort(rng(seed, "validation").choice(count, num_users, replace=False))
    return Examples([examples.histories[user] for user in users], examples.targets[users])
