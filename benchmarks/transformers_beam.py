"""Constrained beam search of transformers: `generate`, its prefix hook and a trie of Python dicts.

transformers normalises over the whole vocabulary and would rank differently from our engine, so a
processor first restricts its scores to the codes of the level that is being generated.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    PrefixConstrainedLogitsProcessor,
)

from store_engine._C import ItemTrie
from store_engine.decoding.engine import Engine
from store_engine.evaluation.plain_beam import Result
from store_engine.integrations.huggingface import export_huggingface

PAD = 0


class TransformersBeamSearch:
    """`generate` on the weights that our engine exports.

    Args:
        engine: Gives the model and the catalogue.
        bos: Token that every history begins with.
    """

    def __init__(self, engine: Engine, bos: int) -> None:
        self._engine, self._bos = engine, bos
        trie = engine.trie.item_trie
        assert isinstance(trie, ItemTrie)  # a catalogue that did not change
        self._offsets = list(engine.model.vocabulary.level_offsets)
        self._llama: LlamaForCausalLM = export_huggingface(engine.model).to(engine.device)
        sids = engine.sids.astype(np.int64) + self._offsets
        self._tokens = torch.from_numpy(sids)
        self._items: dict[tuple[int, ...], list[int]] = {}
        self._dict_trie: dict[int, dict] = {}
        for row, sid in enumerate(sids.tolist()):
            self._items.setdefault(tuple(sid), []).append(row)
            node = self._dict_trie
            for token in sid:
                node = node.setdefault(token, {})

    def __call__(self, histories: list[list[int]], beam: int) -> Result:
        """Recommends `beam` items per history."""
        num_levels = len(self._offsets)
        prompts = [[self._bos, *self._tokens[history].flatten().tolist()] for history in histories]
        longest = max(map(len, prompts))
        padded = [[PAD] * (longest - len(p)) + p for p in prompts]
        mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]

        def allowed(batch_id: int, input_ids: Tensor) -> list[int]:
            node = self._dict_trie
            for token in input_ids[longest:].tolist():
                node = node[token]
            return list(node)

        sizes = self._engine.trie.codebook_sizes
        level_softmax = LevelSoftmax(self._offsets, sizes, longest)
        out = self._llama.generate(
            torch.tensor(padded, device=self._llama.device),
            attention_mask=torch.tensor(mask, device=self._llama.device),
            max_new_tokens=num_levels,
            num_beams=beam,
            num_return_sequences=beam,
            do_sample=False,
            length_penalty=0.0,
            early_stopping=False,
            top_k=None,
            top_p=None,
            pad_token_id=PAD,
            return_dict_in_generate=True,
            output_scores=True,
            # what generate makes of prefix_allowed_tokens_fn, but after the level's softmax
            logits_processor=LogitsProcessorList(
                [level_softmax, PrefixConstrainedLogitsProcessor(allowed, beam)]
            ),
        )
        sids = out.sequences[:, longest:].view(len(histories), beam, num_levels).tolist()
        scores = out.sequences_scores.view(len(histories), beam).float().cpu().numpy()
        return self._expand(sids, scores, beam)

    def _expand(self, sids: list[list[list[int]]], scores: NDArray[np.float32], k: int) -> Result:
        """All items of each SID, in row order, until there are k."""
        rows = np.full((len(sids), k), -1, dtype=np.int64)
        logprobs = np.full((len(sids), k), -np.inf, dtype=np.float32)
        for i, found in enumerate(sids):
            groups = [self._items[tuple(sid)] for sid in found]
            rows[i] = [row for group in groups for row in group][:k]
            logprobs[i] = scores[i].repeat([len(group) for group in groups])[:k]
        return rows, logprobs


class LevelSoftmax(LogitsProcessor):
    """Renormalises log-probabilities within the codes of the level that is being generated."""

    def __init__(self, offsets: list[int], sizes: list[int], prompt_length: int) -> None:
        self._offsets, self._sizes, self._prompt_length = offsets, sizes, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(num_sequences, vocab_size) -> the same, -inf outside the level."""
        level = input_ids.shape[1] - self._prompt_length
        codes = slice(self._offsets[level], self._offsets[level] + self._sizes[level])
        constrained = torch.full_like(scores, -torch.inf)
        constrained[:, codes] = scores[:, codes].log_softmax(-1)
        return constrained
