"""The two stages of training: what each one's batches and losses are.

A stage is a pure function of the config, the data and the step; `loop.train_stage` does the rest.
A step is sharded over all ranks and micro-batches. Losses are normalised by the counts of the whole
step, so that its gradient does not depend on the number of shards.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from store_engine.collaborative.partners import Partners
from store_engine.config import Config
from store_engine.data.packing import IntArray, pack
from store_engine.errors import InputError
from store_engine.files.token_file import TokenFile
from store_engine.model.attention import PackedSequences, pad_tokens
from store_engine.model.store_model import StoreModel
from store_engine.model.targets import Targets
from store_engine.model.unified_vocabulary import UnifiedVocabulary
from store_engine.runs.open_run import RunData
from store_engine.sid.clusters import num_cluster_levels
from store_engine.sid.dense_tokenizer import (
    DenseTokenizer,
    ItemTexts,
    TokenizerBatch,
    contrastive_loss,
    tokenizer_batch,
)
from store_engine.sid.item_features import FeatureMap
from store_engine.sid.item_tokens import item_ids, item_tokens
from store_engine.sid.sid_table import SidTable
from store_engine.training.randomness import rng
from store_engine.training.tasks.mixture import Mixture, Plan
from store_engine.training.tasks.scoring import NUM_LABELS
from store_engine.training.tasks.task import TaskData
from store_engine.training.throughput import head_columns, training_flops


class StepLoss(NamedTuple):
    """The loss of one shard of a step."""

    total: Tensor  # scalar; its mean over all shards is the step's loss
    sums: Tensor  # (num_losses,) float32, detached
    counts: Tensor  # (num_losses,) float32, number of terms in each sum
    work: Tensor  # (2,) float64, real tokens and the FLOPs that forward and backward need
    losses: Tensor  # (num_targets,) float32, detached; NaN where a target is none


class TextBatch(NamedTuple):
    """One shard of a step of stage 1; like all batches it knows its counts from the host."""

    items: TokenizerBatch
    num_targets: int  # of the whole step
    counts: Tensor  # see `StepLoss`
    work: Tensor  # see `StepLoss`

    def padded(self, multiple: int) -> "TextBatch":
        """Returns the same work with both passes padded to a multiple of that many tokens."""
        items = self.items
        content = pad_tokens(items.content_tokens, items.content_sequences, multiple)
        tokens, sequences = pad_tokens(items.text.tokens, items.text_sequences, multiple)
        items = items._replace(
            content_tokens=content[0],
            content_sequences=content[1],
            text=items.text._replace(tokens=tokens),
            text_sequences=sequences,
        )
        return self._replace(items=items)


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


class Stage(Protocol):
    """What the training loop needs to know."""

    name: str
    losses: tuple[str, ...]  # what the log calls the parts of the loss
    num_steps: int
    steps_per_epoch: int
    lr: float

    def build(self) -> nn.Module:
        """Makes the module with fresh weights."""

    def batch(self, step: int, shard: int, num_shards: int) -> Any:
        """Makes one shard of the step's batch."""

    def loss(self, module: Callable[..., Any], batch: Any, num_shards: int) -> StepLoss:
        """Computes the loss of one shard."""


class TokenizerStage:
    """Stage 1: text -> dense tokens -> text, with LAMIA's contrastive loss.

    Args:
        config: The run's config.
        texts: Token ids of the catalogue's texts.
        text_vocab_size: Number of text tokens.
        partners: Items that were visited next to each other, which are to be near to each other;
            None: items are near to themselves alone.
    """

    name = "tokenizer"

    def __init__(
        self,
        config: Config,
        texts: ItemTexts,
        text_vocab_size: int,
        partners: Partners | None = None,
    ) -> None:
        self.config, self.texts, self.text_vocab_size = config, texts, text_vocab_size
        self.partners = partners
        self.lr = config.tokenizer.lr
        self.losses = (*(f"loss/{field}" for field in texts.fields), "contrastive")
        self.items_per_step = min(config.tokenizer.items_per_step, texts.num_items)
        if partners is not None:  # every item brings another one
            self.items_per_step = max(1, self.items_per_step // 2)
        self.steps_per_epoch = texts.num_items // self.items_per_step
        self.num_steps = config.tokenizer.epochs * self.steps_per_epoch

    def build(self) -> DenseTokenizer:
        """Makes the LLM without semantic tokens, and the palette."""
        model = StoreModel(
            self.config.model, self.text_vocab_size, fused_loss=self.config.train.fused_loss
        )
        return DenseTokenizer(model, self.config.tokenizer.num_codes)

    def check_shards(self, num_shards: int) -> None:
        """Refuses more shards than a step has items.

        Raises:
            InputError: There are more shards than that.
        """
        if self.items_per_step < num_shards:
            raise InputError(
                f"a step of stage 1 has {self.items_per_step} items, which {num_shards} ranks and "
                f"micro-batches cannot share; raise tokenizer.items_per_step (at most the number "
                f"of items, {self.texts.num_items}) or train with fewer"
            )

    def batch(self, step: int, shard: int, num_shards: int) -> TextBatch:
        """Makes the texts of this shard's items, and counts the targets of the whole step."""
        epoch, i = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        size = self.items_per_step - self.items_per_step % num_shards  # equal shards
        rows = order[i * self.items_per_step :][:size]
        own = rows[shard::num_shards]
        if self.partners is not None:
            generator = rng(self.config.train.seed, self.name, step, "partners")
            partners = self.partners.draw(rows, generator)
            rows, own = np.r_[rows, partners], np.r_[own, partners[shard::num_shards]]
        items = tokenizer_batch(self.texts, own.tolist(), self.config.tokenizer.num_codes)
        counts = torch.bincount(items.text.target_tasks, minlength=len(self.losses)).float()
        counts[-1] = self.config.tokenizer.contrastive_weight > 0
        columns = head_columns(items.targets, UnifiedVocabulary(self.text_vocab_size))
        num_flops = training_flops(self.config.model, items.content_sequences, 0)
        num_flops += training_flops(self.config.model, items.text_sequences, columns)
        work = _work(len(items.content_tokens) + len(items.text.tokens), num_flops)
        return TextBatch(items, int(self.texts.target_lengths[rows].sum()), counts, work)

    def loss(self, module: Callable[..., Any], batch: TextBatch, num_shards: int) -> StepLoss:
        """Computes the text cross-entropy of the step, plus the weighted contrastive loss."""
        losses, vectors = module(batch.items)
        total = losses.sum() * num_shards / max(batch.num_targets, 1)
        sums = _by_task(losses, batch.items.text.target_tasks, len(self.losses))
        if self.config.tokenizer.contrastive_weight:
            everyone = _gather_vectors(vectors)
            partners = None
            if self.partners is not None:  # each rank's items, then their partners
                places = torch.arange(len(everyone), device=everyone.device)
                partners = places.view(-1, 2, len(vectors) // 2).flip(1).flatten()
            temperature = self.config.tokenizer.contrastive_temperature
            contrast = contrastive_loss(everyone, temperature, partners)
            # every rank computes the whole loss but differentiates its own vectors alone: their
            # gradient, not the value, is scaled to undo the mean that is taken over ranks
            scale = len(everyone) // len(vectors)
            contrast = scale * contrast - (scale - 1) * contrast.detach()
            total = total + self.config.tokenizer.contrastive_weight * contrast
            sums[-1] = contrast.detach()
        return StepLoss(total, sums, batch.counts, batch.work, losses.detach())

    @functools.lru_cache(maxsize=1)  # noqa: B019 - a stage lives as long as the training
    def _order(self, epoch: int) -> IntArray:
        """The items' order in an epoch."""
        return rng(self.config.train.seed, self.name, epoch).permutation(self.texts.num_items)


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
            _work(len(documents.tokens), training_flops(self.config.model, sequences, columns)),
        )

    def loss(
        self, module: Callable[..., Any], batch: RecommenderBatch, num_shards: int
    ) -> StepLoss:
        """Computes the cross-entropy; each loss group's mean over the step has the same weight."""
        losses = module(batch.tokens, batch.sequences, batch.targets)
        total = (losses * batch.weights).sum()
        sums = _by_task(losses, batch.tasks, len(self.losses))
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


def check_shards(config: Config, data: RunData, stage: TokenizerStage, num_shards: int) -> None:
    """Refuses, before anything is trained, steps too small for all ranks and micro-batches.

    Args:
        config: The run's config.
        data: The run's data.
        stage: Stage 1; what stage 2 will be is estimated.
        num_shards: Ranks times micro-batches.

    Raises:
        InputError: A step of either stage is.
    """
    stage.check_shards(num_shards)
    settings, num_items = config.tokenizer, data.catalog.num_items
    # what an item's SID will be is not known yet, but how long: it decides what a step holds
    num_levels, features = settings.num_codes + (settings.collisions == "suffix"), None
    if settings.last_level == "item":
        num_levels = num_cluster_levels(num_items, settings.codebook_size) + 1
        features = FeatureMap(torch.zeros(1).numpy(), torch.zeros(1, 1).numpy())
    sids = torch.zeros(num_items, num_levels, dtype=torch.int32).numpy()
    sizes = (settings.codebook_size,) * num_levels
    table = SidTable(sids, sizes, data.catalog.item_ids, features=features)
    planned = RecommenderStage(
        config, data.texts, len(data.vocabulary), data.train, table, data.train_shown
    )
    planned.check_shards(num_shards)


def _by_task(losses: Tensor, tasks: Tensor, num_tasks: int) -> Tensor:
    """Sums the losses of each task: (num_tasks,) float32."""
    return torch.zeros(num_tasks, device=losses.device).index_add_(0, tasks, losses.detach())


def _work(num_tokens: int, num_flops: float) -> Tensor:
    return torch.tensor([num_tokens, num_flops], dtype=torch.float64)


def _gather_vectors(vectors: Tensor) -> Tensor:
    """The vectors of all ranks, (num_ranks * num_items, ...); only this rank's carry a gradient."""
    if torch.distributed.get_world_size() == 1:
        return vectors
    gathered = [torch.empty_like(vectors) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, vectors.detach().contiguous())
    gathered[torch.distributed.get_rank()] = vectors
    return torch.cat(gathered)
