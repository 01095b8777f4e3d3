"""Constrained beam search as it is written in plain PyTorch today: what `ours` is compared with.

The same model, the same heads and the same trie step in PyTorch as our engine. The difference is
the cache: after the prefill of the histories every beam gets its own copy of the keys and values,
each level appends to it by concatenation, and all of it is reordered by the beams' parents, as in
transformers' DynamicCache. Unequal histories are padded on the left.

It prefills each history once, where `generate` prefills every beam: the fastest form of this way.
With a head per level on the last state no beam is run, and the cache is that of the prefill.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from store_engine.catalog.trie_arrays import TrieArrays, require_arrays
from store_engine.decoding.backends import SearchSpace, TorchBackend
from store_engine.decoding.engine import Engine
from store_engine.kernels.trie_topk import root_beams
from store_engine.sid.item_tokens import slot_order

Result = tuple[NDArray[np.int64], NDArray[np.float32]]  # rows and logprobs, (batch, k)


class PlainBeamSearch:
    """Finds the best items of an engine's catalogue with the engine's model.

    Args:
        engine: Gives model, trie and SIDs; its own search is not used.
        bos: Token that every history begins with.
    """

    def __init__(self, engine: Engine, bos: int) -> None:
        self._model, self._trie, self._bos = engine.model, require_arrays(engine.trie), bos
        self._space = SearchSpace(self._trie, normalize=engine.config.normalize)
        self._item_tokens = history_tokens(engine)
        self._rows = self._slots = None
        if engine.model.item_rows is not None:
            with torch.inference_mode():
                self._rows = engine.model.item_rows()
            self._slots = self._slots_by_node(engine)

    def _slots_by_node(self, engine: Engine) -> Tensor:
        """(num_nodes, codebook_size) int64: the slot of every last code below a node, or -1."""
        sids = torch.from_numpy(engine.sids).long().to(engine.device)
        nodes = self._trie.find(sids[:, :-1])
        shape = self._trie.level_sizes[-2], self._trie.codebook_sizes[-1]
        slots = torch.full(shape, -1, dtype=torch.int64, device=engine.device)
        slots[nodes, sids[:, -1]] = item_slots(engine)
        return slots

    @torch.inference_mode()
    def __call__(self, histories: list[list[int]], beam: int) -> Result:
        """Recommends `beam` items per history of catalogue rows."""
        model, trie, batch = self._model, self._trie, len(histories)
        tokens, is_token = self._left_padded(histories)
        cache = BeamCache(is_token)
        state = self._forward(tokens, cache)
        if model.level_heads is not None:
            return self._by_heads(state, beam)
        logits = model.level_logits(state, 0)[:, None]
        beams = root_beams(batch, state.device)
        for level in range(trie.num_levels):
            before = beams.nodes.shape[1]
            beams = TorchBackend().beam_step(self._space, level, logits, beams, beam)
            if level + 1 == trie.num_levels:
                break
            first = before * torch.arange(batch, device=state.device)[:, None]
            cache.reorder((first + beams.parents.clamp(min=0)).flatten())
            code = beams.tokens.clamp(min=0).flatten()[:, None]
            state = self._forward(code + model.vocabulary.level_offsets[level], cache)
            logits = model.level_logits(state, level + 1).view(batch, beam, -1)
        return items(trie, beams.nodes, beams.scores, beam)

    def _by_heads(self, state: Tensor, beam: int) -> Result:
        """Every level from the last states (batch, hidden_size)."""
        model, trie, beams = self._model, self._trie, root_beams(len(state), state.device)
        assert model.level_heads is not None
        for level, head in enumerate(model.level_heads):
            if level < len(model.codebook_sizes):
                logits = model.level_logits(head(state), level)[:, None]
                logits = logits.expand(-1, beams.nodes.shape[1], -1)
            else:
                assert self._rows is not None
                assert self._slots is not None
                slots = self._slots[beams.nodes.clamp(min=0)]
                every = F.linear(head(state), self._rows.written)
                logits = every.gather(1, slots.clamp(min=0).flatten(1)).view(slots.shape)
                logits = logits.masked_fill(slots < 0, -torch.inf)
            beams = TorchBackend().beam_step(self._space, level, logits, beams, beam)
        return items(trie, beams.nodes, beams.scores, beam)

    def _left_padded(self, histories: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Tokens (batch, longest) and which of them are real."""
        device = self._item_tokens.device
        bos = torch.tensor([self._bos], device=device)
        asked = (torch.tensor(history, dtype=torch.int64, device=device) for history in histories)
        rows = [torch.cat([bos, self._item_tokens[history].flatten()]) for history in asked]
        longest = max(map(len, rows))
        tokens = torch.stack([F.pad(row, (longest - len(row), 0)) for row in rows])
        lengths = torch.tensor([[len(row)] for row in rows], device=device)
        return tokens, torch.arange(longest, device=device) >= longest - lengths

    def _forward(self, tokens: Tensor, cache: "BeamCache") -> Tensor:
        """Runs tokens (num_sequences, seq_len) -> (num_sequences, hidden_size), the last states."""
        positions = cache.start(tokens)
        hidden = self._model.transformer(
            self._model.embed(tokens.flatten(), self._rows), positions.flatten(), cache.attend
        )
        return hidden.view(*tokens.shape, -1)[:, -1]


class BeamCache:
    """One copy of keys and values per sequence, (num_sequences, num_kv_heads, seq_len, head_dim).

    Args:
        is_token: (num_sequences, seq_len) bool, False for the padding of the prompts.
    """

    def __init__(self, is_token: Tensor) -> None:
        self._is_token = is_token
        self._has_padding = not bool(is_token.all())
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._num_sequences = 0
        self._mask: Tensor | None = None

    def start(self, tokens: Tensor) -> Tensor:
        """Prepares the attention of tokens (num_sequences, seq_len) -> their positions, int64."""
        self._num_sequences, seq_len = tokens.shape
        if self._layers:
            self._is_token = F.pad(self._is_token, (0, seq_len), value=True)
        is_token = self._is_token
        if self._has_padding:
            causal = is_token.new_ones(is_token.shape[1], is_token.shape[1]).tril()[-seq_len:]
            itself = torch.eye(is_token.shape[1], dtype=torch.bool, device=tokens.device)[-seq_len:]
            # padding sees itself: a row without any key would be NaN
            self._mask = ((causal & is_token[:, None]) | itself)[:, None]
        return (is_token.long().cumsum(1) - 1).clamp(min=0)[:, -seq_len:]

    def attend(self, layer_id: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Appends the keys and values, and attends to all of the sequence's own."""

        def by_sequence(x: Tensor) -> Tensor:  # -> (num_sequences, num_heads, seq_len, head_dim)
            return x.view(self._num_sequences, -1, *x.shape[1:]).transpose(1, 2)

        q, k, v = by_sequence(q), by_sequence(k), by_sequence(v)
        is_prompt = layer_id == len(self._layers)
        if is_prompt:
            self._layers.append((k, v))
        else:
            keys, values = self._layers[layer_id]
            k, v = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
            self._layers[layer_id] = (k, v)
        group = q.shape[1] // k.shape[1]
        out = F.scaled_dot_product_attention(
            q,
            k.repeat_interleave(group, dim=1),
            v.repeat_interleave(group, dim=1),
            attn_mask=self._mask,
            is_causal=is_prompt and self._mask is None,
        )
        return out.transpose(1, 2).flatten(0, 1)

    def reorder(self, sequences: Tensor) -> None:
        """Gives each new beam a copy of its parent's cache; (num_beams,) int64."""
        self._is_token = self._is_token[sequences]
        self._layers = [(k[sequences], v[sequences]) for k, v in self._layers]


def item_slots(engine: Engine) -> Tensor:
    """(num_items,) int64, the slot of each catalogue row, where items are tokens themselves."""
    return torch.from_numpy(slot_order(engine.sids).argsort()).to(engine.device)


def history_tokens(engine: Engine) -> Tensor:
    """(num_items, tokens_per_item) int64: what a history reads, whole items or codes alone.

    Raises:
        ValueError: The last code is the item itself, and histories are codes: not measured here.
    """
    model = engine.model
    if model.items is not None and model.items.have_rows and not model.items.are_read:
        raise ValueError("histories of codes whose last is the item itself are not measured")
    if model.items is not None and model.items.are_read:
        return model.vocabulary.item_offset + item_slots(engine)[:, None]
    return model.vocabulary.to_id_tensor(torch.from_numpy(engine.sids).long().to(engine.device))


def items(trie: TrieArrays, leaves: Tensor, scores: Tensor, k: int) -> Result:
    """The first k items of each request, from leaves and scores (batch, width), best first."""
    rows = np.full((len(leaves), k), -1, dtype=np.int64)
    logprobs = np.full((len(leaves), k), -np.inf, dtype=np.float32)
    for i, nodes in enumerate(leaves.cpu().numpy()):
        offsets, found = trie.item_trie.leaf_rows(nodes)
        num_found = min(k, len(found))
        rows[i, :num_found] = found[:k]
        logprobs[i, :num_found] = scores[i].cpu().numpy().repeat(np.diff(offsets))[:k]
    return rows, logprobs
