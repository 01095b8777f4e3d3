"""The two stages of training: what each one's batches and losses are.

A stage is a pure function of the config, the data and the step; `loop.train_stage` does the rest.
Losses are normalised by the count of the whole step, over all ranks and micro-batches, so that a
step's gradient does not depend on how it was dealt out.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from store_engine.config import Config
from store_engine.data.packing import IntArray, PackedBatch, pack
from store_engine.errors import InputError
from store_engine.files.token_file import TokenFile
from store_engine.model.attention import PackedSequences
from store_engine.model.backbone import Backbone
from store_engine.model.store_model import Head, StoreModel
from store_engine.model.transformer import INIT_STD
from store_engine.model.unified_vocabulary import UnifiedVocabulary
from store_engine.sid.dense_tokenizer import (
    DenseTokenizer,
    ItemTexts,
    TokenizerBatch,
    contrastive_loss,
    tokenizer_batch,
)
from store_engine.sid.sid_table import SidTable
from store_engine.training.tasks import ANSWERS, TASKS, Tasks
from store_engine.training.throughput import head_columns, training_flops


class StepLoss(NamedTuple):
    """The loss of one rank's share of a step."""

    total: Tensor  # scalar; its mean over all shares is the step's loss
    sums: Tensor  # (num_tasks,) float32, detached
    counts: Tensor  # (num_tasks,) number of terms in each sum
    num_tokens: int  # real tokens that went through the model
    num_flops: float  # that forward and backward need


class RecommenderBatch(NamedTuple):
    """One part of a step of stage 2."""

    share: PackedBatch
    sequences: PackedSequences
    num_targets: Tensor  # (num_tasks,) int64, of the whole step


class Stage(Protocol):
    """What the training loop needs to know."""

    name: str
    tasks: tuple[str, ...]
    num_steps: int
    lr: float

    def build(self) -> nn.Module:
        """The module with fresh weights."""

    def batch(self, step: int, part: int, num_parts: int) -> Any:
        """Part `part` of the step's batch, dealt out in `num_parts`."""

    def loss(self, module: Callable[..., Any], batch: Any, num_parts: int) -> StepLoss:
        """The loss of one part."""


class TokenizerStage:
    """Stage 1: text -> dense tokens -> text, with LAMIA's contrastive loss."""

    name = "tokenizer"

    def __init__(self, config: Config, texts: ItemTexts, text_vocab_size: int) -> None:
        self.config, self.texts, self.text_vocab_size = config, texts, text_vocab_size
        self.lr = config.tokenizer.lr
        self.tasks = (*texts.fields, "contrastive")
        self.items_per_step = min(config.tokenizer.items_per_step, texts.num_items)
        self.steps_per_epoch = texts.num_items // self.items_per_step
        self.num_steps = config.tokenizer.epochs * self.steps_per_epoch

    def build(self) -> DenseTokenizer:
        """The LLM without semantic tokens, and the palette."""
        model = _build_model(self.config, self.text_vocab_size)
        return DenseTokenizer(model, self.config.tokenizer.num_codes)

    def batch(self, step: int, part: int, num_parts: int) -> tuple[TokenizerBatch, int]:
        """Texts of this part's items, and the number of targets in the whole step."""
        epoch, i = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        size = self.items_per_step - self.items_per_step % num_parts  # equal shares
        rows = order[i * self.items_per_step :][:size]
        share = tokenizer_batch(
            self.texts, rows[part::num_parts].tolist(), self.config.tokenizer.num_codes
        )
        return share, int(self.texts.target_lengths[rows].sum())

    def loss(
        self, module: Callable[..., Any], batch: tuple[TokenizerBatch, int], num_parts: int
    ) -> StepLoss:
        """Text cross-entropy over the step's targets, plus the weighted contrastive loss."""
        share, num_targets = batch
        losses, vectors = module(share)
        total = losses.sum() * num_parts / num_targets
        sums, counts = _by_task(losses, share.text.target_tasks, len(self.tasks))
        num_tokens = len(share.content_tokens) + len(share.text.tokens)
        columns = head_columns(share.text.targets, UnifiedVocabulary(self.text_vocab_size))
        num_flops = training_flops(self.config.model, share.content_sequences, 0)
        num_flops += training_flops(self.config.model, share.text_sequences, columns)
        if self.config.tokenizer.contrastive_weight:
            everyone = _gather_vectors(vectors)
            contrast = contrastive_loss(everyone, self.config.tokenizer.contrastive_temperature)
            # every rank computes the whole loss but differentiates its own vectors alone: their
            # gradient, not the value, is scaled to undo the mean that is taken over ranks
            scale = len(everyone) // len(vectors)
            contrast = scale * contrast - (scale - 1) * contrast.detach()
            total = total + self.config.tokenizer.contrastive_weight * contrast
            sums[-1], counts[-1] = contrast.detach(), 1
        return StepLoss(total, sums, counts, num_tokens, num_flops)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - a stage lives as long as the training
    def _order(self, epoch: int) -> IntArray:
        """The items' order in an epoch."""
        entropy = [self.config.train.seed, *self.name.encode(), epoch]
        rng = np.random.default_rng(np.random.SeedSequence(entropy))
        return rng.permutation(self.texts.num_items)


class RecommenderStage:
    """Stage 2: codes of the history -> codes of the next item, and the tasks beside it."""

    name = "recommender"
    tasks = TASKS

    def __init__(
        self,
        config: Config,
        texts: ItemTexts,
        text_vocab_size: int,
        histories: TokenFile,
        table: SidTable,
    ) -> None:
        self.config, self.text_vocab_size = config, text_vocab_size
        self.documents = Tasks(config, texts, histories, table, text_vocab_size)
        answers = (ANSWERS,) if config.recommender.scoring else ()
        sizes = (*table.codebook_sizes, *answers)
        self.vocabulary = UnifiedVocabulary(text_vocab_size, sizes)
        self.lr = config.recommender.lr
        tokens_per_step = config.recommender.tokens_per_step
        self.steps_per_epoch = -(-self.documents.tokens_per_epoch // tokens_per_step)
        self.num_steps = config.recommender.epochs * self.steps_per_epoch

    def build(self) -> StoreModel:
        """The LLM with both vocabularies; an untied text head nobody needs stays as it is."""
        model = _build_model(self.config, self.text_vocab_size, self.vocabulary.codebook_sizes)
        if not self.config.model.tie_text_head and not self.config.recommender.reconstruction:
            model.text_head.requires_grad_(False)
        if self.config.train.activation_checkpointing:
            for block in model.transformer.blocks:
                block.forward = functools.partial(_recomputed, block.forward)
        return model

    def batch(self, step: int, part: int, num_parts: int) -> RecommenderBatch:
        """This part's documents, and the number of targets in the whole step."""
        epoch, i = divmod(step, self.steps_per_epoch)
        keys = self._epoch(epoch)[i]
        if len(keys) < num_parts:
            raise InputError(
                f"recommender.tokens_per_step is too small: a step of {len(keys)} documents "
                f"cannot be shared by {num_parts} ranks and micro-batches"
            )
        share = pack(self.documents.share(keys, part, num_parts))
        counts = self.documents.num_targets(keys)
        return RecommenderBatch(share, PackedSequences(share.cu_seqlens), torch.from_numpy(counts))

    def loss(self, module: Callable[..., Any], batch: RecommenderBatch, num_parts: int) -> StepLoss:
        """Cross-entropy, every code and text token with the same weight, plus that of the answers.

        The answers' mean stands beside the mean of all others, 1 : 1.
        """
        share, sequences, num_targets = batch
        losses = module(share.tokens, sequences, share.targets)
        sums, counts = _by_task(losses, share.target_tasks, len(self.tasks))
        size = num_targets.new_full(num_targets.shape, int(num_targets[:-1].sum()))
        size[-1] = num_targets[-1]
        weights = num_parts / size.clamp(min=1).float()
        total = (losses * weights[share.target_tasks]).sum()
        columns = head_columns(share.targets, self.vocabulary)
        num_flops = training_flops(self.config.model, sequences, columns)
        return StepLoss(total, sums, counts, len(share.tokens), num_flops)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - a stage lives as long as the training
    def _epoch(self, epoch: int) -> list[IntArray]:
        """Keys of the documents of each step of an epoch."""
        return self.documents.plan(epoch, self.steps_per_epoch)


def initial_tokenizer_weights(config: Config, text_vocab_size: int) -> Iterator[tuple[str, Tensor]]:
    """What stage 1 starts from: the backbone, if there is one.

    The palette looks like text embeddings, and the dense tokens are pasted in at their size.

    Yields:
        Names of `DenseTokenizer`'s parameters and tensors, each read when its turn comes.
    """
    if not config.model.backbone:
        return
    text_rms = 0.0
    for name, tensor in Backbone(config.model.backbone).weights(text_vocab_size):
        if name == "text_embedding.weight":
            centre, spread = _scale(tensor)
            text_rms = float(tensor.float().square().mean().sqrt())
            generator = torch.Generator().manual_seed(config.train.seed)
            shape = (config.tokenizer.num_codes, len(centre))
            yield "palette.weight", centre + spread * torch.randn(shape, generator=generator)
        if name == "transformer.norm.weight":  # what comes out of it has the size of its weights
            norm_rms = tensor.float().square().mean().sqrt()
            yield "paste_gain.weight", (text_rms / norm_rms).view(1)
        yield f"model.{name}", tensor


def initial_recommender_weights(
    config: Config, tokenizer_weights: dict[str, Tensor], table: SidTable
) -> dict[str, Tensor]:
    """What stage 2 starts from: the LLM of stage 1, and code embeddings from the centroids.

    They have the scale of embeddings from scratch, or of the backbone's text embeddings. A
    backbone's final norm has a scale of its own too, so there the codes' head begins at 0: every
    code is as likely as the others.

    Returns:
        Tensors by the names of `StoreModel`; what is missing keeps its random initialisation.
    """
    prefix = "model."
    weights = {n.removeprefix(prefix): t for n, t in tokenizer_weights.items() if prefix in n}
    num_tokens = sum(table.codebook_sizes) + (ANSWERS if config.recommender.scoring else 0)
    centre, spread = torch.zeros(config.model.hidden_size), INIT_STD
    if config.model.backbone:
        centre, spread = _scale(weights["text_embedding.weight"])
        weights["code_head.weight"] = torch.zeros(num_tokens, len(centre))
    generator = torch.Generator().manual_seed(config.train.seed)
    if table.quantizer is not None and config.recommender.init_codes == "centroids":
        lifted = torch.from_numpy(table.quantizer.lift())  # (num_codes, codebook_size, hidden)
        centred = lifted - lifted.mean(1, keepdim=True)
        unit = (centred / centred.std()).flatten(0, 1)
    elif config.model.backbone:
        unit = torch.empty(0, config.model.hidden_size)
    else:
        return weights
    rest = num_tokens - len(unit)  # a suffix level and the answers have no centroids
    random = torch.randn(rest, unit.shape[1], generator=generator)
    weights["code_embedding.weight"] = centre + spread * torch.cat([unit, random])
    return weights


def _scale(embeddings: Tensor) -> tuple[Tensor, float]:
    """Where embeddings lie: their mean (hidden_size,), and how far from it, by component."""
    centre = embeddings.float().mean(0)
    return centre, float((embeddings.float() - centre).std())


def _build_model(
    config: Config, text_vocab_size: int, codebook_sizes: tuple[int, ...] = ()
) -> StoreModel:
    model = StoreModel(config.model, text_vocab_size, codebook_sizes)
    for head in (module for module in model.modules() if isinstance(module, Head)):
        head.is_fused = config.train.fused_loss
    return model


def _recomputed(forward: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Runs `forward` without keeping what is inside: the backward runs it again."""
    if not torch.is_grad_enabled():
        return forward(*inputs)
    # reentrant, because ZeRO-3 may let go of a weight only between recomputing and using it
    output: Tensor = checkpoint(forward, *inputs, use_reentrant=True)
    return output


def _by_task(losses: Tensor, task_ids: Tensor, num_tasks: int) -> tuple[Tensor, Tensor]:
    sums = torch.zeros(num_tasks, device=losses.device).index_add_(0, task_ids, losses.detach())
    return sums, torch.bincount(task_ids, minlength=num_tasks).float()


def _gather_vectors(vectors: Tensor) -> Tensor:
    """The vectors of all ranks, (num_ranks * num_items, ...); only this rank's carry a gradient."""
    if torch.distributed.get_world_size() == 1:
        return vectors
    shares = [torch.empty_like(vectors) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(shares, vectors.detach().contiguous())
    shares[torch.distributed.get_rank()] = vectors
    return torch.cat(shares)
