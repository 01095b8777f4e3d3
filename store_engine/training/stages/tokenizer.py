"""Stage 1: the LLM learns to describe items, and its vectors of them become SIDs."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from store_engine.collaborative.partners import Partners
from store_engine.config import Config
from store_engine.data.packing import IntArray
from store_engine.errors import InputError
from store_engine.model.attention import pad_tokens
from store_engine.model.store_model import StoreModel
from store_engine.model.unified_vocabulary import UnifiedVocabulary
from store_engine.sid.dense_tokenizer import (
    DenseTokenizer,
    ItemTexts,
    TokenizerBatch,
    contrastive_loss,
    tokenizer_batch,
)
from store_engine.training.randomness import rng
from store_engine.training.stages.stage import StepLoss, sums_by_task, work_of
from store_engine.training.throughput import head_columns, training_flops


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
        work = work_of(len(items.content_tokens) + len(items.text.tokens), num_flops)
        return TextBatch(items, int(self.texts.target_lengths[rows].sum()), counts, work)

    def loss(self, module: Callable[..., Any], batch: TextBatch, num_shards: int) -> StepLoss:
        """Computes the text cross-entropy of the step, plus the weighted contrastive loss."""
        losses, vectors = module(batch.items)
        total = losses.sum() * num_shards / max(batch.num_targets, 1)
        sums = sums_by_task(losses, batch.items.text.target_tasks, len(self.losses))
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


def _gather_vectors(vectors: Tensor) -> Tensor:
    """The vectors of all ranks, (num_ranks * num_items, ...); only this rank's carry a gradient."""
    if torch.distributed.get_world_size() == 1:
        return vectors
    gathered = [torch.empty_like(vectors) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, vectors.detach().contiguous())
    gathered[torch.distributed.get_rank()] = vectors
    return torch.cat(gathered)
