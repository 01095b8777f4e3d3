"""SASRec with a full softmax: the learned baseline that every result stands beside.

A causal transformer reads the items of a history and every state predicts the next item, by a
softmax over the whole catalogue (the binary loss of the first paper costs a third of the recall).
One table of rows is read at both ends. It may start from a given space: rows of unit length and a
last RMSNorm make the first logits sqrt(hidden_size) = 11 times a cosine, so that the untrained
model already says "near the last item".

Source: Kang and McAuley, ICDM 2018 (arXiv 1808.09781); the softmax as in Klenitskiy and Vasilev,
RecSys 2023 (arXiv 2309.07602).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.quality.early_stopping import EarlyStopping
from store_engine.data.histories import Histories

_BETAS = (0.9, 0.98)
_WARMUP_STEPS = 100


@dataclass(frozen=True)
class SASRecConfig:
    """Sizes and training of a SASRec; the defaults are those of the tables.

    Args:
        hidden_size: Width of the rows and the states.
        num_layers: Transformer blocks.
        num_heads: Attention heads of a block.
        dropout: Of the input, and of what a block adds.
        max_history: Events of a history that are read, the last ones.
        num_negatives: Items drawn at random that a batch's targets compete with; 0 for all items.
        lr: Of AdamW, after 100 steps of warm-up.
        weight_decay: Of AdamW.
        users_per_batch: A batch holds as many events as this many users have on average.
        max_epochs: Passes over the training events.
        patience: Epochs without a better validation after which training ends.
        seed: Of weights, order and dropout.
    """

    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 2
    dropout: float = 0.3
    max_history: int = 50
    num_negatives: int = 0
    lr: float = 1e-3
    weight_decay: float = 0.01
    users_per_batch: int = 256
    max_epochs: int = 60
    patience: int = 4
    seed: int = 0


class Block(nn.Module):
    """One pre-norm block: causal attention, then an MLP; it begins as the identity, nearly."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self._num_heads, self._dropout = config.num_heads, nn.Dropout(config.dropout)
        self.attention_norm, self.mlp_norm = nn.RMSNorm(size), nn.RMSNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
        for linear in (self.qkv, self.out, self.up, self.down):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        for linear in (self.out, self.down):  # rows have unit length: what is added must be small
            nn.init.normal_(linear.weight, std=0.002)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (batch, seq_len, hidden_size) to the same shape."""
        batch, length, size = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self._num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self._dropout(self.out(attended.transpose(1, 2).reshape(batch, length, size)))
        out: Tensor = x + self._dropout(self.down(F.gelu(self.up(self.mlp_norm(x)))))
        return out


class SASRec(nn.Module):
    """The model; its rows start from `space`, or at random.

    Args:
        num_items: Size of the catalogue.
        config: Its sizes.
        space: (num_items, hidden_size) the items' first rows, or None.

    Raises:
        ValueError: `space` has another shape.
    """

    def __init__(
        self, num_items: int, config: SASRecConfig, space: NDArray[np.float32] | None = None
    ) -> None:
        super().__init__()
        shape = (num_items, config.hidden_size)
        if space is not None and space.shape != shape:
            raise ValueError(f"space must be {shape}, got {space.shape}")
        start = torch.randn(shape) / config.hidden_size**0.5
        self.items = nn.Parameter(start if space is None else torch.from_numpy(space).clone())
        self.positions = nn.Parameter(torch.zeros(config.max_history, config.hidden_size))
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.num_layers)))
        self.norm, self._dropout = nn.RMSNorm(config.hidden_size), nn.Dropout(config.dropout)

    def forward(self, rows: Tensor) -> Tensor:
        """Computes the state after every event.

        Args:
            rows: (batch, seq_len) int64 catalogue rows, oldest first; what follows a history's end
                is of no effect on the states before.

        Returns:
            (batch, seq_len, hidden_size); a state @ items.T gives the logits of the next item.
        """
        x = F.embedding(rows, self.items) + self.positions[: rows.shape[1]]
        states: Tensor = self.norm(self.blocks(self._dropout(x)))
        return states

    @torch.no_grad()
    def log_probabilities(self, histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """Computes (num_histories, num_items) log-probabilities of the next item."""
        rows, lengths = _padded([h[-len(self.positions) :] for h in histories])
        last = self(rows)[torch.arange(len(rows)), lengths - 1]
        logprobs: NDArray[np.float32] = (last @ self.items.T).log_softmax(-1).numpy()
        return logprobs


def train(
    model: SASRec,
    events: Histories,
    config: SASRecConfig,
    validate: Callable[[SASRec], float],
    log: Callable[[str], None] = print,
) -> int:
    """Trains until the validation gets no better, and leaves the best weights in the model.

    Args:
        model: Trained in place.
        events: The training events.
        config: How.
        validate: Measures the model, higher is better.
        log: Takes one line per epoch.

    Returns:
        The epoch, from 1, whose weights were kept; 0 for those at the start.
    """
    rng = np.random.default_rng(config.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), config.lr, betas=_BETAS, weight_decay=config.weight_decay
    )
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-3, 1.0, _WARMUP_STEPS)
    stopping, score = EarlyStopping(model, config.patience), validate(model.eval())
    stopping.should_stop(0, score)
    log(f"epoch 0: validation {score:.4f}")
    for epoch in range(1, config.max_epochs + 1):
        began, losses = time.perf_counter(), []
        model.train()
        for batch in _batches(events, config, rng):
            loss = _loss(model, batch, config.num_negatives)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            warm_up.step()
            losses.append(loss.item())
        score, seconds = validate(model.eval()), time.perf_counter() - began
        log(f"epoch {epoch}: loss {np.mean(losses):.4f}, validation {score:.4f}, {seconds:.0f} s")
        if stopping.should_stop(epoch, score):
            break
    stopping.restore()
    return stopping.best_epoch


def _batches(
    events: Histories, config: SASRecConfig, rng: np.random.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Draws an epoch's windows of at most max_history + 1 events, padded, and their lengths.

    A long history is cut at places that differ from epoch to epoch; batches hold windows of like
    length and as many events each, so that every event weighs the same.
    """
    size = config.max_history + 1
    windows = []
    for user in range(events.num_users):
        history = events[user]
        first = int(rng.integers(1, size)) if len(history) > size else size - 1
        # a window begins with the last target of the one before
        for end in range(first, len(history) + size - 2, size - 1):
            windows.append(history[max(0, end - size + 1) : end + 1])
    windows = [windows[i] for i in rng.permutation(len(windows)) if len(windows[i]) > 1]
    windows.sort(key=len)  # stable: windows of one length stay shuffled
    lengths = np.array([len(window) for window in windows])
    per_batch = config.users_per_batch * events.num_events / events.num_users
    ends = np.flatnonzero(np.diff(lengths.cumsum() // per_batch)) + 1
    cuts = np.r_[0, ends, len(windows)].tolist()
    batches = [_padded(windows[a:b]) for a, b in pairwise(cuts) if a < b]
    return [batches[i] for i in rng.permutation(len(batches))]


def _loss(model: SASRec, batch: tuple[Tensor, Tensor], num_negatives: int) -> Tensor:
    """Cross-entropy of every event but the first, over all items or those of a draw."""
    rows, lengths = batch
    is_target = torch.arange(1, rows.shape[1]) < lengths[:, None]
    states, targets = model(rows[:, :-1])[is_target], rows[:, 1:][is_target]
    if not num_negatives:
        return F.cross_entropy(states @ model.items.T, targets)
    drawn = torch.randint(len(model.items), (num_negatives,))
    others = (states @ model.items[drawn].T).masked_fill(drawn == targets[:, None], -torch.inf)
    own = (states * model.items[targets]).sum(-1, keepdim=True)
    return F.cross_entropy(torch.cat([own, others], 1), torch.zeros_like(targets))


def _padded(histories: Sequence[NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
    """(num_histories, longest) int64 rows with zeros behind, and the lengths."""
    lengths = torch.tensor([len(history) for history in histories])
    rows = torch.zeros(len(histories), int(lengths.max()), dtype=torch.int64)
    rows[torch.arange(rows.shape[1]) < lengths[:, None]] = torch.from_numpy(
        np.concatenate(histories).astype(np.int64)
    )
    return rows, lengths
