"""Stage 2: the LLM learns what follows a history."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from store_engine.config import Config
from store_engine.data.packing import pack
from store_engine.errors import InputError
from store_engine.files.token_file import TokenFile
from store_engine.model.attention import PackedSequences, pad_tokens
from store_engine.model.store_model import StoreModel
from store_engine.model.targets import Targets
from store_engine.sid.dense_tokenizer import (
    ItemTexts,
)
from store_engine.sid.item_tokens import item_ids, item_tokens
from store_engine.sid.sid_table import SidTable
from store_engine.training.stages.stage import StepLoss, sums_by_task, work_of
from store_engine.training.tasks.mixture import Mixture, Plan
from store_engine.training.tasks.scoring import NUM_LABELS
from store_engine.training.tasks.task import TaskData
from store_engine.training.throughput import head_columns, training_flops


class RecommenderBatch(NamedTuple):
    """One shard of a step of stage 2."""

    tokens: Tensor  # (num_tokens,) int64 unified ids
    sequences: PackedSequences
    targets: Targets
    tasks: Tensor  # (num_targets,) int64, in the order of the positions
    weights: Tensor  # (num_targets,) float32, of each target in the loss
    counts: Tensor  # see `StepLoss`
    work: Tensor  # see `StepLoss`

    def padded(self, multiple: int) -> "RecommenderBatch":
        """Returns the same work padded to a multiple of that many tokens."""
        tokens, sequences = pad_tokens(self.tokens, self.sequences, multiple)
        return self._replace(tokens=tokens, sequences=sequences)


class RecommenderStage:
    """Stage 2: codes of the history -> codes of the next item, and the tasks beside it."""

    name = "recommender"

    def __init__(
        self,
        config: Config,
        texts: ItemTexts,
        text_vocab_size: int,
        histories: TokenFile,
        table: SidTable,
        shown: TokenFile | None = None,
    ) -> None:
        self.config, self.texts, self.table = config, texts, table
        self.text_vocab_size = text_vocab_size
        self.num_labels = NUM_LABELS if config.recommender.scoring else 0
        ids = item_ids(config.recommender, table, text_vocab_size, self.num_labels)
        self.items, self.vocabulary = item_tokens(config.recommender, table), ids.vocabulary
        data = TaskData(texts, histories, ids, config.data.max_history, config.train.seed, shown)
        self.mixture = Mixture(config.recommender, data)
        self.losses = tuple(f"loss/{task.name}" for task in self.mixture.tasks)
        self.lr = config.recommender.lr
        tokens_per_step = config.recommender.tokens_per_step
        self.steps_per_epoch = -(-self.mixture.tokens_per_epoch // tokens_per_step)
        self.num_steps = config.recommender.epochs * self.steps_per_epoch

    def build(self) -> StoreModel:
        """Makes the LLM with both vocabularies; an untied text head that no task uses is frozen."""
        model = StoreModel(
            self.config.model,
            self.text_vocab_size,
            self.vocabulary.codebook_sizes,
            items=self.items,
            skip=self.config.recommender.skip,
            fused_loss=self.config.train.fused_loss,
            activation_checkpointing=self.config.train.activation_checkpointing,
        )
        if not self.config.model.tie_text_head and not self.config.recommender.reconstruction:
            model.text_head.requires_grad_(False)
        return model

    def check_shards(self, num_shards: int) -> None:
        """Refuses more shards than a step of the first epoch has documents.

        Raises:
            InputError: There are more shards than that.
        """
        for step in range(self.steps_per_epoch):
            self._plan(0, step, num_shards)

    def batch(self, step: int, shard: int, num_shards: int) -> RecommenderBatch:
        """Makes this shard's documents, and weighs the targets of the whole step."""
        epoch, i = divmod(step, self.steps_per_epoch)
        plan = self._plan(epoch, i, num_shards)
        documents = pack(plan.shard(i, shard, num_shards))
        sequences, tasks = PackedSequences(documents.cu_seqlens), documents.target_tasks
        num_targets = torch.from_numpy(self.mixture.group_targets(plan.num_targets(i)))
        targets = Targets.of(documents.targets, self.vocabulary, self.items)
        columns = head_columns(targets, self.vocabulary, self.items)
        return RecommenderBatch(
            documents.tokens,
            sequences,
            targets,
            tasks,
            (num_shards / num_targets.clamp(min=1).float())[tasks],
            torch.bincount(tasks, minlength=len(self.losses)).float(),
            work_of(len(documents.tokens), training_flops(self.config.model, sequences, columns)),
        )

    def loss(
        self, module: Callable[..., Any], batch: RecommenderBatch, num_shards: int
    ) -> StepLoss:
        """Computes the cross-entropy; each loss group's mean over the step has the same weight."""
        losses = module(batch.tokens, batch.sequences, batch.targets)
        total = (losses * batch.weights).sum()
        sums = sums_by_task(losses, batch.tasks, len(self.losses))
        return StepLoss(total, sums, batch.counts, batch.work, losses.detach())

    def split_labels(self, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Takes the labels out of the weights.

        Returns:
            The weights of a recommender of items, and the labels' rows of the code embedding and
            head by the same names; empty if there are none.
        """
        if not self.num_labels:
            return weights, {}
        names = ("code_embedding.weight", "code_head.weight")
        begin = self.vocabulary.num_codes - self.num_labels
        labels = {name: weights[name][begin:] for name in names}
        return weights | {name: weights[name][:begin] for name in names}, labels

    def _plan(self, epoch: int, step: int, num_shards: int) -> Plan:
        """Plans an epoch, and refuses it if `step` has fewer documents than shards."""
        try:
            plan = self._epoch(epoch)
            num_documents = plan.num_documents(step)
        except ValueError:  # fewer documents than steps
            num_documents = 0
        if num_documents < num_shards:
            raise InputError(
                f"recommender.tokens_per_step is too small: a step of {num_documents} documents "
                f"cannot be shared by {num_shards} ranks and micro-batches"
            )
        return plan

    @functools.lru_cache(maxsize=1)  # noqa: B019 - a stage lives as long as the training
    def _epoch(self, epoch: int) -> Plan:
        """Plans an epoch."""
        return self.mixture.plan(epoch, self.steps_per_epoch)


class RefitStage(RecommenderStage):
    """Stage 2 again, from its start, on more events and for as long as validation chose.

    Args:
        of: The stage that validation watched.
        histories: Training and validation events.
        epochs: Passes over them; of the last one a part may do.
        shown: What users were shown by then, if that is known.
    """

    name = "refit"

    def __init__(
        self,
        of: RecommenderStage,
        histories: TokenFile,
        epochs: float,
        shown: TokenFile | None = None,
    ) -> None:
        super().__init__(of.config, of.texts, of.text_vocab_size, histories, of.table, shown)
        self.num_steps = max(1, round(epochs * self.steps_per_epoch))
