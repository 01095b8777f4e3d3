"""The documents of stage 2: four tasks, mixed by how often an epoch passes over each one's data.

    next_item       token-to-token  <bos> c11..c1n c21..c2n ..., every position a target
    alignment       text-to-token   item text c1..cn, the codes are targets
    reconstruction  token-to-text   <bos> c1..cn item text <eos>, the text is the target
    scoring         click-through   <bos> history codes, a candidate's codes, <eos> -> YES or NO

An epoch passes once over the training histories, `recommender.alignment` and `.reconstruction`
times over the catalogue, and asks `recommender.scoring` questions per user. A question's candidate
is the event that came next or, as often, an item drawn at random; YES and NO are a level of codes
of their own, so that the softmax over them is the binary cross-entropy; <eos> stands for <answer>.

Everything is a function of the seed and the epoch, planned by lengths alone.
"""

import numpy as np
from numpy.typing import NDArray

from store_engine.config import Config
from store_engine.data.packing import Document, IntArray, fill_rows, history_windows
from store_engine.files.token_file import TokenFile
from store_engine.model.store_model import IGNORE
from store_engine.model.unified_vocabulary import UnifiedVocabulary
from store_engine.sid.dense_tokenizer import ItemTexts
from store_engine.sid.sid_table import SidTable

TASKS: tuple[str, ...] = ("next_item", "alignment", "reconstruction", "scoring")
_NEXT_ITEM, _ALIGNMENT, _RECONSTRUCTION, _SCORING = range(4)
ANSWERS = 2  # codes of the answer level: 0 = NO, 1 = YES


class Tasks:
    """Plans and builds stage 2's documents.

    A document's key is four numbers: its task; then, of histories, the first event and the one
    after the last, of items, the row and 0; then a question's candidate, or -1.

    Args:
        config: The run's config.
        texts: The catalogue's texts.
        histories: What may be learnt from, one document of catalogue rows per user.
        table: The catalogue's SIDs.
        text_vocab_size: Number of text tokens; codes come behind them.
    """

    def __init__(
        self,
        config: Config,
        texts: ItemTexts,
        histories: TokenFile,
        table: SidTable,
        text_vocab_size: int,
    ) -> None:
        self.config, self.texts, self.histories = config, texts, histories
        vocabulary = UnifiedVocabulary(text_vocab_size, table.codebook_sizes)
        self.item_tokens = vocabulary.to_ids(table.sids)  # (num_items, num_levels)
        self.num_levels = vocabulary.num_levels
        self.no_token = len(vocabulary)  # YES is the next one
        self.tokens_per_epoch = int(self._lengths(self._keys(0)).sum())

    def plan(self, epoch: int, num_steps: int) -> list[IntArray]:
        """Keys of the documents of each of an epoch's steps, (num_documents, 4)."""
        keys = self._keys(epoch)
        keys = keys[self._rng(epoch, "order").permutation(len(keys))]
        rows = fill_rows(self._lengths(keys), num_steps)
        return [keys[rows[i]] for i in self._rng(epoch, "steps").permutation(num_steps)]

    def share(self, keys: IntArray, part: int, num_parts: int) -> list[Document]:
        """The documents of one part of a step, which is dealt out by tokens."""
        own = fill_rows(self._lengths(keys), num_parts)[part]
        return [self._document(*key) for key in keys[own].tolist()]

    def num_targets(self, keys: IntArray) -> IntArray:
        """Targets of each task among the documents of `keys`: (num_tasks,)."""
        task, begin, end = keys[:, 0], keys[:, 1], keys[:, 2]
        item = np.where(_is_item(task), begin, 0)
        each = np.select(
            [task == _NEXT_ITEM, task == _ALIGNMENT, task == _RECONSTRUCTION],
            [(end - begin) * self.num_levels, self.num_levels, self.texts.content_lengths[item]],
            1,
        )
        return np.bincount(task, each, len(TASKS)).astype(np.int64)

    def _keys(self, epoch: int) -> IntArray:
        settings = self.config.recommender
        max_history = self.config.data.max_history
        windows = history_windows(self.histories.offsets, max_history, self._rng(epoch, "windows"))
        keys = [np.insert(windows, [0, 2], [_NEXT_ITEM, -1], axis=1)]
        for task, passes in (
            (_ALIGNMENT, settings.alignment),
            (_RECONSTRUCTION, settings.reconstruction),
        ):
            rows = self._passes(self.texts.num_items, passes, self._rng(epoch, TASKS[task]))
            keys.append(_columns(task, rows, 0, -1))
        keys.append(self._questions(settings.scoring, self._rng(epoch, "scoring")))
        return np.concatenate(keys)

    def _passes(self, count: int, passes: float, rng: np.random.Generator) -> IntArray:
        """`passes` passes over `count` things; a part of a pass is a random part of them."""
        num_chosen = round(passes * count)
        orders = [rng.permutation(count) for _ in range(-(-num_chosen // count))]
        return np.concatenate([*orders, np.empty(0, np.int64)])[:num_chosen].astype(np.int64)

    def _questions(self, passes: float, rng: np.random.Generator) -> IntArray:
        """Keys of the scoring task: per user a moment of the history, and a candidate."""
        offsets, rows = self.histories.offsets, self.histories.tokens
        users = np.flatnonzero(np.diff(offsets) > 1)
        if not passes or not len(users):
            return np.empty((0, 4), np.int64)
        asked = users[self._passes(len(users), passes, rng)]
        moment = rng.integers(offsets[asked] + 1, offsets[asked + 1])  # the event that came next
        begin = np.maximum(offsets[asked], moment - self.config.data.max_history)
        came = np.asarray(rows[moment], dtype=np.int64)
        drawn = (came + rng.integers(1, self.texts.num_items, len(asked))) % self.texts.num_items
        candidate = np.where(rng.random(len(asked)) < 0.5, came, drawn)
        return _columns(_SCORING, begin, moment, candidate)

    def _lengths(self, keys: IntArray) -> IntArray:
        """Tokens of each document."""
        task, begin, end = keys[:, 0], keys[:, 1], keys[:, 2]
        content = self.texts.content_lengths[np.where(_is_item(task), begin, 0)]
        codes = (end - begin) * self.num_levels
        lengths: IntArray = np.select(
            [task == _NEXT_ITEM, task == _ALIGNMENT, task == _RECONSTRUCTION],
            [codes, content + self.num_levels - 1, content + self.num_levels],
            codes + self.num_levels + 2,
        )
        return lengths

    def _document(self, task: int, begin: int, end: int, candidate: int) -> Document:
        if task == _NEXT_ITEM:
            codes = self._codes(begin, end)
            return Document(np.r_[self.texts.bos_id, codes[:-1]], codes, task)
        if task == _SCORING:
            history, ids = self.histories.tokens[begin:end], (self.texts.bos_id, self.texts.eos_id)
            tokens = question(self.item_tokens, history, candidate, *ids)
            targets = np.full(len(tokens), IGNORE)
            targets[-1] = self.no_token + (candidate == self.histories.tokens[end])
            return Document(tokens, targets, task)
        content, codes = np.array(self.texts.content(begin)), self.item_tokens[begin]
        if task == _ALIGNMENT:
            targets = np.r_[np.full(len(content) - 1, IGNORE), codes]
            return Document(np.r_[content, codes[:-1]], targets, task)
        text = np.r_[content[1:], self.texts.eos_id]  # without <bos>
        targets = np.r_[np.full(len(codes), IGNORE), text]
        return Document(np.r_[self.texts.bos_id, codes, text[:-1]], targets, task)

    def _codes(self, begin: int, end: int) -> IntArray:
        codes: IntArray = self.item_tokens[self.histories.tokens[begin:end]].ravel()
        return codes

    def _rng(self, epoch: int, purpose: str) -> np.random.Generator:
        entropy = [self.config.train.seed, *b"recommender", epoch, *purpose.encode()]
        return np.random.default_rng(np.random.SeedSequence(entropy))


def question(
    item_tokens: IntArray, history: NDArray[np.int32], candidate: int, bos_id: int, eos_id: int
) -> IntArray:
    """Tokens of a scoring question; the answer follows the last.

    Args:
        item_tokens: (num_items, num_levels) unified ids of the codes.
        history: Catalogue rows, oldest first.
        candidate: The row that is asked about.
        bos_id: Begins it.
        eos_id: Asks for the answer.
    """
    return np.r_[bos_id, item_tokens[history].ravel(), item_tokens[candidate], eos_id]


def _is_item(task: IntArray) -> NDArray[np.bool_]:
    return (task == _ALIGNMENT) | (task == _RECONSTRUCTION)


def _columns(task: int, *columns: IntArray | int) -> IntArray:
    return np.stack(np.broadcast_arrays(np.int64(task), *columns), axis=1).reshape(-1, 4)
