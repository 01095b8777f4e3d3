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

from store_engine.config import Config
from store_engine.data.histories import Histories
from store_engine.data.packing import (
    Document,
    PackedBatch,
    deal,
    history_windows,
    pack,
    split_by_tokens,
)
from store_engine.model.attention import PackedSequences
from store_engine.model.backbone import Backbone
from store_engine.model.store_model import IGNORE, Head, StoreModel
from store_engine.model.transformer import INIT_STD
from store_engine.sid.dense_tokenizer import (
    DenseTokenizer,
    ItemTexts,
    TokenizerBatch,
    contrastive_loss,
    tokenizer_batch,
)
from store_engine.sid.sid_table import SidTable
from store_engine.training.throughput import head_columns, training_flops


class StepLoss(NamedTuple):
    """The loss of one rank's share of a step."""

    total: Tensor  # scalar; its mean over all shares is the step's loss
    sums: Tensor  # (num_tasks,) float32, detached
    counts: Tensor  # (num_tasks,) number of terms in each sum
    num_tokens: int  # real tokens that went through the model
    num_flops: float  # that forward and backward need


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
        self._num_targets = np.array(
            [
                sum(len(text) for _, _, text in texts.reconstructions(row))
                for row in range(texts.num_items)
            ]
        )

    def build(self) -> DenseTokenizer:
        """The LLM without semantic tokens, and the palette."""
        model = _build_model(self.config, self.text_vocab_size)
        return DenseTokenizer(model, self.config.tokenizer.num_codes)

    def batch(self, step: int, part: int, num_parts: int) -> tuple[TokenizerBatch, int]:
        """Texts of this part's items, and the number of targets in the whole step."""
        epoch, i = divmod(step, self.steps_per_epoch)
        order = _rng(self.config, self.name, epoch).permutation(self.texts.num_items)
        size = self.items_per_step - self.items_per_step % num_parts  # equal shares
        rows = order[i * self.items_per_step :][:size]
        share = tokenizer_batch(
            self.texts, rows[part::num_parts].tolist(), self.config.tokenizer.num_codes
        )
        return share, int(self._num_targets[rows].sum())

    def loss(
        self, module: Callable[..., Any], batch: tuple[TokenizerBatch, int], num_parts: int
    ) -> StepLoss:
        """Text cross-entropy over the step's targets, plus the weighted contrastive loss."""
        share, num_targets = batch
        losses, vectors = module(share)
        total = losses.sum() * num_parts / num_targets
        sums, counts = _by_task(losses, share.text.target_tasks, len(self.tasks))
        num_tokens = len(share.content_tokens) + len(share.text.tokens)
        columns = head_columns(share.text.targets, self.text_vocab_size, ())
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


class RecommenderStage:
    """Stage 2: codes of the history -> codes of the next item, and item text -> its codes."""

    name = "recommender"
    tasks: tuple[str, ...] = ("next_item", "alignment")

    def __init__(
        self,
        config: Config,
        texts: ItemTexts,
        text_vocab_size: int,
        histories: Histories,
        table: SidTable,
    ) -> None:
        self.config, self.texts, self.text_vocab_size = config, texts, text_vocab_size
        self.histories, self.codebook_sizes = histories, table.codebook_sizes
        self.lr = config.recommender.lr
        offsets = np.r_[0, np.cumsum(table.codebook_sizes)[:-1]]
        self.item_tokens = table.sids.astype(np.int64) + offsets + text_vocab_size
        num_tokens = len(histories.rows) * table.sids.shape[1]
        num_tokens += round(config.recommender.alignment * self._alignment_tokens())
        self.steps_per_epoch = -(-num_tokens // config.recommender.tokens_per_step)
        self.num_steps = config.recommender.epochs * self.steps_per_epoch

    def build(self) -> StoreModel:
        """The LLM with both vocabularies; an untied text head stays as stage 1 left it."""
        model = _build_model(self.config, self.text_vocab_size, self.codebook_sizes)
        if not self.config.model.tie_text_head:
            model.text_head.requires_grad_(False)
        return model

    def batch(
        self, step: int, part: int, num_parts: int
    ) -> tuple[PackedBatch, PackedSequences, int]:
        """This part's documents, and the number of targets in the whole step."""
        epoch, i = divmod(step, self.steps_per_epoch)
        documents = [self._document(*key) for key in self._epoch(epoch)[i]]
        num_targets = sum(int((d.targets != IGNORE).sum()) for d in documents)
        share = pack(deal(documents, num_parts)[part])
        return share, PackedSequences(share.cu_seqlens), num_targets

    def loss(
        self,
        module: Callable[..., Any],
        batch: tuple[PackedBatch, PackedSequences, int],
        num_parts: int,
    ) -> StepLoss:
        """Cross-entropy of the codes, every target with the same weight."""
        share, sequences, num_targets = batch
        losses = module(share.tokens, sequences, share.targets)
        sums, counts = _by_task(losses, share.target_tasks, len(self.tasks))
        total = losses.sum() * num_parts / num_targets
        columns = head_columns(share.targets, self.text_vocab_size, self.codebook_sizes)
        num_flops = training_flops(self.config.model, sequences, columns)
        return StepLoss(total, sums, counts, len(share.tokens), num_flops)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - a stage lives as long as the training
    def _epoch(self, epoch: int) -> list[list[tuple[int, int, int]]]:
        """The documents of each step of an epoch: (task id, begin, end) or (task id, row, 0)."""
        rng = _rng(self.config, self.name, epoch)
        windows = history_windows(self.histories.offsets, self.config.data.max_history, rng)
        keys = [(0, begin, end) for begin, end in windows]
        keys += [(1, row, 0) for row in self._alignment_rows(rng)]
        keys = [keys[i] for i in rng.permutation(len(keys))]
        num_levels = len(self.codebook_sizes)
        lengths = [
            (end - begin) * num_levels
            if task_id == 0
            else len(self.texts.content(begin)) + num_levels - 1
            for task_id, begin, end in keys
        ]
        return [keys[s] for s in split_by_tokens(np.array(lengths), self.steps_per_epoch)]

    def _alignment_rows(self, rng: np.random.Generator) -> list[int]:
        """`alignment` passes over the items; a part of a pass is a random part of the items."""
        count = round(self.config.recommender.alignment * self.texts.num_items)
        passes = -(-count // self.texts.num_items)
        orders = [rng.permutation(self.texts.num_items) for _ in range(passes)]
        return np.concatenate(orders)[:count].tolist() if orders else []

    def _document(self, task_id: int, begin: int, end: int) -> Document:
        if task_id == 0:
            codes = self.item_tokens[self.histories.rows[begin:end]].ravel()
            tokens = np.r_[self.texts.bos_id, codes[:-1]]
            return Document(tokens, codes, task_id)
        content, codes = np.array(self.texts.content(begin)), self.item_tokens[begin]
        targets = np.r_[np.full(len(content) - 1, IGNORE), codes]
        return Document(np.r_[content, codes[:-1]], targets, task_id)

    def _alignment_tokens(self) -> int:
        return sum(
            len(self.texts.content(row)) + len(self.codebook_sizes) - 1
            for row in range(self.texts.num_items)
        )


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
    centre, spread = torch.zeros(config.model.hidden_size), INIT_STD
    if config.model.backbone:
        centre, spread = _scale(weights["text_embedding.weight"])
        weights["code_head.weight"] = torch.zeros(sum(table.codebook_sizes), len(centre))
    generator = torch.Generator().manual_seed(config.train.seed)
    if table.quantizer is not None and config.recommender.init_codes == "centroids":
        lifted = torch.from_numpy(table.quantizer.lift())  # (num_codes, codebook_size, hidden)
        centred = lifted - lifted.mean(1, keepdim=True)
        unit = (centred / centred.std()).flatten(0, 1)
    elif config.model.backbone:
        unit = torch.empty(0, config.model.hidden_size)
    else:
        return weights
    rest = sum(table.codebook_sizes) - len(unit)  # a suffix level has no centroids
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


def _rng(config: Config, stage: str, epoch: int) -> np.random.Generator:
    entropy = [config.train.seed, *stage.encode(), epoch]
    return np.random.default_rng(np.random.SeedSequence(entropy))
