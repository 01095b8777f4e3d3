"""C++ core of store_engine. Sources: csrc/store_engine; bindings: csrc/bindings.

Arrays must have the dtype named here, be aligned and C-contiguous, and integers must be integers:
anything else is a TypeError, nothing is converted. A shape, size or index that is out of range is a
ValueError that names it. These two are not repeated below. An object whose `__init__` was never run
is refused with a TypeError too.

Long work runs without the GIL: no other thread may write to its arguments meanwhile. Threads may
share all objects. In a child of fork() all of this works as in the parent.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

_Mode = Literal["fast", "compact"]
_Int64 = NDArray[np.int64]
_Float32 = NDArray[np.float32]
_FloatOrBfloat16 = _Float32 | NDArray[np.uint16]  # bfloat16 as its bits: NumPy does not know it

class _Trie:
    """What an ItemTrie and a Snapshot have in common: a search takes either.

    Nodes are numbered per level, in the order of their SID prefixes. The root is node 0 of level 0;
    the nodes of level `num_levels` are the leaves, one for each SID.
    """

    @property
    def num_items(self) -> int: ...
    @property
    def num_levels(self) -> int: ...
    @property
    def codebook_sizes(self) -> tuple[int, ...]: ...
    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Numbers of nodes of level 1, 2, ... num_levels; also of those with only removed items."""
    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, in memory or mapped; snapshots of one catalogue share most."""
    def leaf_rows(self, leaves: _Int64) -> tuple[_Int64, _Int64]:
        """Returns the rows of the items under leaves (num_leaves,); -1 stands for none.

        Returns:
            (offsets, rows): the rows of leaf i are rows[offsets[i]:offsets[i + 1]], ascending, or
            in a Snapshot by ascending item id.
        """

class ItemTrie(_Trie):
    """Prefix tree over the SIDs of a catalogue; immutable."""

    def __init__(
        self,
        sids: NDArray[np.int32],
        codebook_sizes: Sequence[int],
        *,
        mode: _Mode = "fast",
        num_threads: int = 1,
    ) -> None:
        """Builds the trie in O(num_items * num_levels).

        Args:
            sids: (num_items, num_levels), in any order, repeats allowed; the i-th item is row i.
            codebook_sizes: One size per level, each in [1, 65536]; 1 to 16 levels.
            mode: "fast", or "compact" for fewer bytes and slower steps. Results are the same.
            num_threads: Threads to build with, in [1, 1024].

        Raises:
            ValueError: A code is outside its codebook; the message names the row.
        """

    def memory(self) -> dict[str, int]:
        """Returns the bytes that `nbytes` adds up.

        They are those of "tokens", "children" (where the children of each node begin), "leaves"
        (where the rows of each leaf begin), "rows" (0 if the catalogue was given in SID order, else
        4 per item) and "positions" (as "rows" once a RowSet or an exclusion has needed them).
        """
    def level(self, level: int) -> tuple[_Int64, NDArray[np.uint8] | NDArray[np.uint16]]:
        """Returns the step from a level in [0, num_levels) to the next, as arrays in CSR form.

        Returns:
            child_begin: (num_nodes + 1,), a copy. The children of node j of `level` are the nodes
                child_begin[j] to child_begin[j + 1] - 1 of `level + 1`.
            tokens: (level_sizes[level],), a read-only view, uint16 for a codebook above 256. The
                code of each node of `level + 1`, ascending under one parent.
        """
    def save(self, path: str | PathLike[str]) -> None:
        """Writes the trie to one file.

        `path` is the old file or the new one at any moment, after a power cut too.

        Raises:
            OSError: The file cannot be written.
        """
    @staticmethod
    def load(path: str | PathLike[str]) -> ItemTrie:
        """Maps a saved trie; processes that load the same file share its memory.

        The file must not be truncated while it is in use; to replace it through `save` is safe.

        Raises:
            OSError: The file cannot be read (FileNotFoundError: there is none).
            ValueError: It is not a trie file of this version, or it is damaged.
        """

class Snapshot(_Trie):
    """The catalogue of a LiveTrie at one moment; immutable.

    A search finds what it finds in a trie that is built from the same items, but node ids and rows
    are the snapshot's own.
    """

    @property
    def num_changes(self) -> int:
        """Number of added and removed items that are not yet merged."""
    def rows_of(self, item_ids: _Int64) -> _Int64:
        """Returns the row of each item, (num_items,) int64; -1 if the item is not there."""
    def item_ids(self, rows: _Int64) -> _Int64:
        """Returns the item id of each row, (num_rows,) int64."""
    def items(self) -> tuple[NDArray[np.int32], _Int64]:
        """Returns all items: sids (num_items, num_levels) and item_ids, by SID, then item id."""
    def compacted(self) -> tuple[ItemTrie, _Int64]:
        """Returns all items in one trie, for readers of a trie's arrays, and their ids.

        Row r of the trie is the item item_ids[r]; item_ids (num_items,) ascend, a read-only view.
        The first call builds the trie in O(num_items * log(num_items)) with the LiveTrie's `mode`
        and threads; later calls return the same one. The snapshot keeps it in memory.
        """

class LiveTrie:
    """A catalogue that changes while others search it.

    Searches take a `snapshot()` and never wait for a change. `add` and `remove` are done when they
    return: a snapshot taken later has all of the call, one taken before has nothing of it. Changes
    are kept beside the large trie until a thread merges them. A child of fork() goes on with the
    catalogue as it was, and merges again what was being merged.
    """

    def __init__(
        self,
        sids: NDArray[np.int32],
        item_ids: _Int64,
        codebook_sizes: Sequence[int],
        *,
        mode: _Mode = "fast",
        num_threads: int = 1,
        max_changes: int | None = None,
    ) -> None:
        """Builds the first trie.

        Args:
            sids: (num_items, num_levels), in any order.
            item_ids: (num_items,), any numbers, each once.
            codebook_sizes: As for ItemTrie, like `mode` and `num_threads`.
            mode: The mode of the first trie and of merged ones.
            num_threads: Threads to build and to merge with.
            max_changes: Number of changes to merge at; None: 1/64 of the items, at least 4096.

        Raises:
            ValueError: A code is outside its codebook, or an item id is there twice.
        """

    def add(self, sids: NDArray[np.int32], item_ids: _Int64) -> None:
        """Adds items with sids (num_items, num_levels), in O(log num_items) per unmerged item.

        Raises:
            ValueError: A code is wrong, or an item is there already; then nothing was added.
        """
    def remove(self, item_ids: _Int64) -> None:
        """Removes items, in O(num_items / 64) words and the time that `add` takes.

        Raises:
            ValueError: An item is not in the catalogue; then nothing was removed.
        """
    def compact(self) -> None:
        """Merges all changes so far into a new trie, and returns when that is done."""
    def snapshot(self) -> Snapshot:
        """Returns the catalogue as it is now, in O(1)."""

class RowSet:
    """A set of the rows of one trie or snapshot, such as the items in stock; immutable.

    Any number of requests may share it. It takes one bit per item, and one per trie node as soon as
    an ItemFilter uses it. `a & b`, `a | b` and `~a` are new sets, made in O(num_items / 64).
    """

    @staticmethod
    def from_rows(trie: ItemTrie | Snapshot, rows: _Int64) -> RowSet:
        """Returns the set of some rows of a catalogue, in any order, repeats allowed."""
    def __and__(self, other: RowSet) -> RowSet: ...
    def __or__(self, other: RowSet) -> RowSet: ...
    def __invert__(self) -> RowSet: ...
    @property
    def count(self) -> int:
        """Number of rows in the set."""
    @property
    def nbytes(self) -> int: ...
    def rows(self) -> _Int64:
        """Returns the rows in the set, (count,), ascending, in O(num_items)."""

class ItemFilter:
    """Which items each request of a batch may get; immutable."""

    def __init__(
        self,
        trie: ItemTrie | Snapshot,
        batch: int,
        *,
        allow: RowSet | Sequence[RowSet | None] | None = None,
        exclude: tuple[_Int64, _Int64] | None = None,
    ) -> None:
        """Finds the trie nodes with nothing allowed below them, for all steps of one decode.

        O(log num_items) per excluded row, and O(num_items) for a RowSet that was in no filter yet.

        Args:
            trie: The catalogue.
            batch: Number of requests, at most 2^20.
            allow: The rows that all requests may get, or one set per request; None: everything.
            exclude: (offsets, rows): request i does not get rows[offsets[i]:offsets[i + 1]], such
                as its history, in any order, repeats allowed; `offsets` is (batch + 1,).

        Raises:
            ValueError: A row does not exist, or a set is of another trie or snapshot.
        """

    @property
    def num_allowed(self) -> _Int64:
        """(batch,) int64, the number of items that each request may get."""
    def leaf_rows(self, leaves: _Int64) -> tuple[_Int64, _Int64]:
        """Returns the allowed rows under leaves (batch, width), as a trie's leaf_rows returns all.

        Those of slot j of request i begin at offsets[i * width + j].
        """

class BeamStep(NamedTuple):
    """The best children of each request, best first.

    Slots from `num_valid` on hold score -inf and parent, token and node -1.
    """

    scores: _Float32  # (batch, width), the score of the beam + log p(code)
    parents: _Int64  # (batch, width), the slot of the beam that was extended
    tokens: _Int64  # (batch, width), the code that was added
    nodes: _Int64  # (batch, width), nodes of `level + 1`
    num_valid: _Int64  # (batch,)

def beam_step(
    trie: ItemTrie | Snapshot,
    level: int,
    logits: _FloatOrBfloat16,
    scores: _Float32,
    nodes: _Int64,
    num_valid: _Int64,
    width: int,
    *,
    item_filter: ItemFilter | None = None,
    normalize: Literal["codebook", "children"] = "codebook",
    num_threads: int = 1,
) -> BeamStep:
    """Extends the beams of a level by one code and keeps the best `width` per request.

    score = scores + (logits - logsumexp(logits)), in float32. Ties go to the lower node id, that
    is the lower SID. The result is the same bits for any batch, thread count and machine. A code
    whose logit is -inf is never chosen. If fewer than `width` children exist, fewer come back.

    Args:
        trie: The items that exist.
        level: Level of the beams, in [0, num_levels).
        logits: (batch, beam_width, codebook_sizes[level]); bfloat16 is widened exactly.
        scores: (batch, beam_width) float32, in any order. For the first step: zeros.
        nodes: (batch, beam_width) int64 nodes of `level`. For the first step: zeros.
        num_valid: (batch,) int64; slots from num_valid on are not read.
        width: Number of children to keep, in [1, 2^20], and batch * width at most 2^27.
        item_filter: The items that each request may get; None allows everything. The result is that
            of a trie of these items alone, but for its node ids: a prefix that leads to none of
            them takes no beam's place, so `width` allowed SIDs come back if there are as many.
        normalize: "codebook" for the model's log-probabilities over the whole codebook, or
            "children" for those over the node's children; an only child then costs nothing.
        num_threads: Threads to share the requests among, in [1, 1024].

    Raises:
        ValueError: A valid beam holds NaN or +inf, or `item_filter` is of another trie or snapshot.
    """

def code_logprobs(
    logits: _FloatOrBfloat16, beams: _Int64, codes: _Int64, *, num_threads: int = 1
) -> _Float32:
    """Computes the log-probabilities of given codes, each behind one of its request's beams.

    The same bits as those that `beam_step` adds with normalize="codebook", for paths that are
    walked whether they are among the best or not.

    Args:
        logits: (batch, beam_width, codebook_size); bfloat16 is widened exactly.
        beams: (batch, num_codes), the slot of the beam that each code follows; -1 for none.
        codes: (batch, num_codes), in [0, codebook_size).
        num_threads: Threads to share the requests among, in [1, 1024].

    Returns:
        (batch, num_codes) float32: -inf for no beam, NaN where a beam's logits hold NaN or +inf.
    """

def prefixes_beside(
    parents: _Int64, tokens: _Int64, places: _Int64, codes: _Int64
) -> tuple[_Int64, _Int64, _Int64]:
    """Finds the prefixes that given paths need beside the beams of a level, each once.

    A prefix is its parent, which is a place in the block of the level before, and its last code.

    Args:
        parents: (batch, width), of each beam; negative for none.
        tokens: (batch, width), the last code of each; negative for none.
        places: (batch, num_paths), the parent of each path's prefix; negative for no path.
        codes: (batch, num_paths), its last code.

    Returns:
        codes: (batch, num_new) int64 of the prefixes that no beam is, in the order of the paths,
            for as many columns as the request with the most needs; -1 for none.
        parents: (batch, num_new) int64; 0 for none.
        places: (batch, num_paths) int64, where each path's prefix is in the block of the beams and
            of these behind them; -1 for no path.
    """

def unique_leaves(
    trie: ItemTrie | Snapshot,
    level: int,
    nodes: _Int64,
    *,
    item_filter: ItemFilter | None = None,
) -> tuple[_Int64, _Int64]:
    """Finds the SID below each node where there is only one that a request may get.

    Its other codes are forced: under normalize="children" they have log-probability 0. Items that
    share a SID are one leaf. Takes O(1) per level and node; with a filter or removed items, at most
    a look at the bits of the node's children.

    Args:
        trie: The items that exist.
        level: Level of the nodes, in [0, num_levels).
        nodes: (batch, width) int64 nodes of `level`; -1 stands for none.
        item_filter: The items that each request may get. None allows everything.

    Returns:
        leaves: (batch, width) int64 leaves; -1 where there are several or none.
        tokens: (batch, width) int64, the last code of each leaf's SID; -1 for none.

    Raises:
        ValueError: `item_filter` is of another trie, snapshot or batch.
    """

def next_codes(
    trie: ItemTrie | Snapshot, tokens: _Int64, first_code: int, *, num_threads: int = 1
) -> tuple[NDArray[np.bool_], _Int64]:
    """Finds the codes that may follow each of a batch of token sequences, from their ends alone.

    A token id below `first_code` is text; from there on come the codes of level 0, then those of
    level 1, and so on. After text or a whole SID the next item begins; after the first codes of an
    SID its next one follows. Codes that do not stand in this order lead to no item.

    Args:
        trie: The items that exist.
        tokens: (batch, width) the last tokens of each sequence; num_levels - 1 of them are enough.
            A shorter sequence is filled up on the left with any text token, or -1.
        first_code: Number of text tokens, in [0, 2^40].
        num_threads: Threads to share the sequences among, in [1, 1024].

    Returns:
        is_allowed: (batch, sum(codebook_sizes)) bool: column i stands for token first_code + i. No
            other token may follow.
        levels: (batch,) int64, the level of the next code, also where none may follow.
    """

def rank_items(
    trie: ItemTrie | Snapshot,
    level_logprobs: Sequence[_Float32],
    k: int,
    *,
    item_filter: ItemFilter | None = None,
    num_threads: int = 1,
) -> tuple[_Int64, _Float32]:
    """Ranks all items where the codes of a SID are independent of each other.

    The score of an item is the sum over the levels of its code's log-probability, in float32, the
    first level first. Ties go to the lower SID, then to the lower row (in a Snapshot, item id). An
    item that scores -inf is never found. The result is the same bits for any batch, thread count
    and machine. Takes O(nodes) at worst; subtrees that cannot lead to the best are left out.

    Args:
        trie: The items that exist.
        level_logprobs: Per level, (batch, codebook_sizes[level]), at most 2^20 requests.
        k: Number of items to find, in [1, 2^20], and batch * k at most 2^27.
        item_filter: The items that each request may get. None allows everything.
        num_threads: Threads to share the requests among, in [1, 1024].

    Returns:
        rows: (batch, k) int64 rows of the trie, best first; -1 where there are no more.
        scores: (batch, k) float32; -inf there.

    Raises:
        ValueError: A log-probability is NaN or +inf, or `item_filter` is of another trie, snapshot
            or batch.

    Source: RPG, https://arxiv.org/abs/2506.05781.
    """

def simd_targets() -> tuple[str, ...]:
    """Returns the instruction sets that the vector kernels can use here, fastest first.

    The first is used. The environment variable STORE_ENGINE_SIMD, read once, sets an upper limit.

    Raises:
        ValueError: STORE_ENGINE_SIMD names no instruction set of this machine. Call this early, to
            find that out before other work.
    """

class CachedAttention:
    """Attention of new tokens to a cache of keys and values, which they first join.

    The cache, `qkv` and `out` have one dtype; all arithmetic is float32. A token of a history sees
    its request's slots up to its own; a beam sees the context of its request and the slots that it
    lists. See csrc/store_engine/model/cached_attention.h.
    """

    def __init__(
        self,
        cache: _FloatOrBfloat16,
        num_heads: int,
        begins: _Int64,
        first_slots: _Int64,
        num_context: _Int64,
        ancestors: _Int64 | None = None,
        *,
        num_threads: int = 1,
    ) -> None:
        """Checks what the calls for all layers share.

        Args:
            cache: (num_layers, 2, batch, num_slots, num_kv_heads, head_dim), keys, then values.
            num_heads: Number of query heads, a multiple of num_kv_heads, at most 65536.
            begins: (batch + 1,) ascending from 0, the first token of each request.
            first_slots: (batch,) slot of each request's first token; the others follow it.
            num_context: (batch,) number of slots that all tokens of the request see; `first_slots`
                without `ancestors`: a token then sees these and the tokens before it.
            ancestors: (num_tokens, depth), depth in [1, 16], further slots it sees, its own too.
            num_threads: In [1, 1024], of the OpenMP runtime that the process has loaded.
        """
    def __call__(
        self,
        layer: int,
        qkv: _FloatOrBfloat16,
        cosine: _Float32,
        sine: _Float32,
        out: _FloatOrBfloat16,
        *,
        last_only: bool = False,
        q_norm: _Float32 | None = None,
        k_norm: _Float32 | None = None,
        norm_eps: float = 1e-6,
    ) -> None:
        """Writes the tokens' keys and values into the cache, attends, and fills `out`.

        Args:
            layer: Layer of the cache.
            qkv: (num_tokens, (num_heads + 2 * num_kv_heads) * head_dim), projected.
            cosine: (num_tokens, head_dim / 2), the cosines of RoPE's angles.
            sine: (num_tokens, head_dim / 2), their sines.
            out: (num_tokens, num_heads * head_dim); (batch, ...) if `last_only`.
            last_only: Compute the result of each request's last token alone.
            q_norm: (head_dim,) weights of an RMSNorm of each query head, before RoPE.
            k_norm: (head_dim,) weights of the same norm of each key head.
            norm_eps: The number that these norms add to the mean, not negative.
        """

def rms_norm(
    x: _FloatOrBfloat16,
    weight: _Float32,
    out: _FloatOrBfloat16,
    eps: float,
    *,
    num_threads: int = 1,
) -> None:
    """Normalises rows: out = x / sqrt(mean(x^2) + eps) * weight, computed in float32.

    Args:
        x: (num_rows, size).
        weight: (size,).
        out: (num_rows, size) with the dtype of `x`, written to.
        eps: The number added to the mean, not negative.
        num_threads: In [1, 1024].
    """

def item_logits(
    states: _FloatOrBfloat16,
    rows: _FloatOrBfloat16,
    slots: NDArray[np.int32],
    prefixes: _Int64,
    out: _Float32,
    *,
    num_threads: int = 1,
) -> None:
    """Computes the logits of the items under each beam's prefix: dot products with their rows.

    For a last level whose code is the item itself. `states` and `rows` have one dtype; sums are in
    float32, and the same bits for any batch, thread count and place of a row.

    Args:
        states: (batch, width, hidden_size), or (batch, 1, hidden_size): one for all beams of a
            request.
        rows: (num_slots, hidden_size), the item matrix, neighbours in the trie best side by side.
        slots: (num_prefixes, fanout) int32, the row of the item with each last code under each
            prefix; -1 stands for none.
        prefixes: (batch, width) int64, the prefix of each beam; -1 stands for no beam.
        out: (batch, width, fanout), written to: -inf where there is no item, all 0 for no beam.
        num_threads: Threads to share the beams among, in [1, 1024].
    """

class Evidence:
    """What the histories alone say of the next item: a sparse item-item matrix; immutable.

    The evidence of item j after a history is the sum over its last `num_recent` events, latest
    first, of decay^n * matrix[row of event n, j], in float32 and in that order: the same bits for
    any batch and thread count. An event of a row that the matrix does not have (-1, or an item
    added since) weighs nothing, but keeps its place.
    """

    def __init__(self, indptr: _Int64, indices: NDArray[np.int32], data: _Float32) -> None:
        """Checks a square matrix in CSR form once, in O(num_entries).

        `indices` and `data` are kept, not copied: they must not be written to or resized.

        Args:
            indptr: (num_items + 1,), where the entries of each row begin.
            indices: (num_entries,) columns, in any order; of an item that a row has twice both
                entries count.
            data: (num_entries,), finite.
        """
    @property
    def num_items(self) -> int: ...
    @property
    def num_entries(self) -> int: ...
    def top(
        self,
        history_rows: _Int64,
        offsets: _Int64,
        decay: float,
        num_recent: int,
        k: int,
        *,
        item_filter: ItemFilter | None = None,
        num_threads: int = 1,
    ) -> tuple[_Int64, _Float32]:
        """Finds the items with the most evidence; only those that have an entry at some event.

        O(entries of the events) per request, whatever the number of items. Ties go to the lower
        row.

        Args:
            history_rows: Rows of the matrix, all requests' one behind the other, oldest first.
            offsets: (batch + 1,), history i is history_rows[offsets[i]:offsets[i + 1]].
            decay: Weight of an event, of that of the next one, in [0, 1].
            num_recent: Events that count, at least 1.
            k: Number of items to find, in [1, 2^20], and batch * k at most 2^27.
            item_filter: The items that each request may get. Those of an ItemTrie are the matrix's
                by their rows, those of a Snapshot by their ids.
            num_threads: Threads to share the requests among, in [1, 1024].

        Returns:
            rows: (batch, k) int64 rows of the matrix, best first; -1 where there are no more.
            scores: (batch, k) float32; -inf there.
        """
    def score(
        self,
        history_rows: _Int64,
        offsets: _Int64,
        decay: float,
        num_recent: int,
        rows: _Int64,
        *,
        num_threads: int = 1,
    ) -> _Float32:
        """Returns the evidence of given items.

        Args:
            history_rows: As for `top`, like `offsets`, `decay`, `num_recent` and `num_threads`.
            offsets: (batch + 1,).
            decay: In [0, 1].
            num_recent: At least 1.
            rows: (batch, width); what is no row of the matrix, such as -1, scores 0.
            num_threads: In [1, 1024].

        Returns:
            (batch, width) float32.
        """
    def sum_terms(
        self,
        history_rows: _Int64,
        offsets: _Int64,
        num_recent: int,
        rows: _Int64,
        halfs: NDArray[np.uint16],
        decays: _Float32,
        *,
        num_threads: int = 1,
    ) -> _Float32:
        """Sums other votes at the matrix's entries for given items, of several terms at once.

        Sums are as those of `score`, each term with its own votes and decay.

        Args:
            history_rows: As for `top`, like `offsets`, `num_recent` and `num_threads`.
            offsets: (batch + 1,).
            num_recent: At least 1.
            rows: (batch, width); what is no row of the matrix, such as -1, gets 0.
            halfs: (num_entries, num_terms), the bits of float16 votes that are not negative.
            decays: (num_terms,), of 1 to 64 terms.
            num_threads: In [1, 1024].

        Returns:
            (batch, width, num_terms) float32.
        """

def best_of_sum(
    rows: _Int64,
    logprobs: _Float32,
    evidence: _Float32,
    sids: NDArray[np.int32],
    k: int,
    *,
    num_threads: int = 1,
) -> tuple[_Int64, _Float32, _Float32]:
    """Takes the k best of each request's candidates by log-probability plus evidence.

    Of equal sums the lower SID is better, then the lower row. A row that comes again is the one
    that came first.

    Args:
        rows: (batch, width) rows of `sids`; negative for none.
        logprobs: (batch, width); -inf for none.
        evidence: (batch, width).
        sids: (num_items, num_levels).
        k: Wanted, in [1, 2^20], and batch * k at most 2^27.
        num_threads: Threads to share the requests among, in [1, 1024].

    Returns:
        rows, logprobs, evidence: (batch, k) int64, float32 and float32, best first; -1, -inf and 0
            where there are no more.

    Raises:
        ValueError: A sum is NaN.
    """
