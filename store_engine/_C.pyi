"""C++ core of store_engine. Source: csrc/store_engine/*.h; binding: csrc/bindings.cpp.

Arrays must have the dtype named and be C-contiguous: a TypeError says so, nothing is converted in
silence. Long work runs without the GIL: no other thread may write to its arguments meanwhile.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

_FloatOrBfloat16 = NDArray[np.float32] | NDArray[np.uint16]

class ItemTrie:
    """Prefix tree over the SIDs of a catalogue; immutable, so threads may share it.

    Node ids count per depth: the root is node 0 of depth 0, the nodes of depth `num_levels` are
    the leaves. The ids of one depth ascend with the SID prefix they stand for.
    """

    def __init__(
        self,
        sids: NDArray[np.int32],
        codebook_sizes: Sequence[int],
        *,
        mode: Literal["fast", "compact"] = "fast",
        num_threads: int = 1,
    ) -> None:
        """Builds the trie in O(num_items * num_levels).

        Args:
            sids: (num_items, num_levels) int32. Rows in any order; rows with the same SID are all
                kept. A row's position here is its catalogue row.
            codebook_sizes: One size per level, each in [1, 65536]; 1 to 16 levels.
            mode: "fast" stores uint32 child pointers; "compact" bit vectors wherever these are
                smaller, at some time per step. Results are the same.
            num_threads: Threads to build with, in [1, 1024].

        Raises:
            TypeError: `sids` is not int32 and C-contiguous.
            ValueError: A shape or size is wrong, or a code is outside its codebook (names the row).
        """

    @property
    def num_items(self) -> int: ...
    @property
    def num_levels(self) -> int: ...
    @property
    def codebook_sizes(self) -> tuple[int, ...]: ...
    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Number of nodes of depth 1, 2, ... num_levels; the last is the number of leaves."""
    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, in memory or in the mapped file."""
    def memory(self) -> dict[str, int]:
        """Returns what `nbytes` is made of.

        Returns:
            Bytes of "tokens", "children" (where each node's begin), "leaves" (where each leaf's
            rows begin), "rows" (0 if the catalogue was given in SID order, else 4 per item) and
            "positions" (as many as "rows" once a RowSet or an exclusion has needed them).
        """
    def level(self, level: int) -> tuple[NDArray[np.int64], NDArray[np.uint8] | NDArray[np.uint16]]:
        """Returns the step from depth `level` to the next, as arrays in CSR form.

        Args:
            level: In [0, num_levels).

        Returns:
            child_begin: (num_nodes + 1,) int64, a copy. The children of node j of depth `level` are
                the nodes child_begin[j] to child_begin[j + 1] - 1 of depth `level + 1`.
            tokens: (level_sizes[level],) uint8, or uint16 for a codebook above 256; a read-only
                view. The code of each node of depth `level + 1`, ascending under one parent.

        Raises:
            ValueError: There is no such level.
        """
    def leaf_rows(self, leaves: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the catalogue rows under each leaf.

        Args:
            leaves: (num_leaves,) int64 nodes of depth `num_levels`; -1 stands for none.

        Returns:
            offsets: (num_leaves + 1,) int64.
            rows: (offsets[-1],) int64; those of leaf i are rows[offsets[i]:offsets[i + 1]],
                ascending.

        Raises:
            TypeError: `leaves` is not int64 and C-contiguous.
            ValueError: An entry is neither a leaf nor -1.
        """
    def save(self, path: str | PathLike[str]) -> None:
        """Writes the trie to one file, atomically.

        Raises:
            OSError: The file cannot be written; an old file at `path` is then untouched.
        """
    @staticmethod
    def load(path: str | PathLike[str]) -> ItemTrie:
        """Maps a saved trie; processes that load the same file share its memory.

        The file must not be truncated while it is in use; replacing it through `save` is safe.

        Raises:
            OSError: The file cannot be read (FileNotFoundError: there is none).
            ValueError: It is not a trie file of this version, or it is damaged.
        """

class LiveTrie:
    """A catalogue that changes while others search it; threads may share it.

    Searches take a `snapshot()` and never wait for a change. `add` and `remove` are done when they
    return: a snapshot taken later has all of the call, one taken before nothing of it. Changes are
    kept beside the large trie, and merged into a new one by a thread whenever there are
    `max_changes`.
    """

    def __init__(
        self,
        sids: NDArray[np.int32],
        item_ids: NDArray[np.int64],
        codebook_sizes: Sequence[int],
        *,
        mode: Literal["fast", "compact"] = "fast",
        num_threads: int = 1,
        max_changes: int | None = None,
    ) -> None:
        """Builds the first trie.

        Args:
            sids: (num_items, num_levels) int32, in any order.
            item_ids: (num_items,) int64, any numbers, each once.
            codebook_sizes: As for ItemTrie, like `mode`.
            mode: The same.
            num_threads: Threads to build with, here and when changes are merged.
            max_changes: How many added and removed items there may be before they are merged; by
                default 1/64 of the items, at least 4096.

        Raises:
            TypeError: An array is not of the dtype above or not C-contiguous.
            ValueError: A shape, size or code is wrong, or an item id is there twice.
        """

    def add(self, sids: NDArray[np.int32], item_ids: NDArray[np.int64]) -> None:
        """Adds items, in O(log num_items) for each of them and of the changes not yet merged.

        Args:
            sids: (num_items, num_levels) int32.
            item_ids: (num_items,) int64.

        Raises:
            TypeError: An array is not of the dtype above or not C-contiguous.
            ValueError: A shape or code is wrong, or an item is in the catalogue already; then
                nothing was added. To give an item another SID, remove it first.
        """
    def remove(self, item_ids: NDArray[np.int64]) -> None:
        """Removes items, in O(num_items / 64) words and what `add` takes.

        Args:
            item_ids: (num_items,) int64.

        Raises:
            TypeError: `item_ids` is not int64 and C-contiguous.
            ValueError: An item is not in the catalogue; then nothing was removed.
        """
    def compact(self) -> None:
        """Merges all changes so far into a new trie, and returns when that is done."""
    def snapshot(self) -> Snapshot:
        """Returns the catalogue as it is now, in O(1)."""

class Snapshot:
    """The catalogue of a LiveTrie at one moment; immutable. It is searched like an ItemTrie.

    Results are those of a trie built anew from its items, but for its node ids and rows, which are
    the snapshot's own.
    """

    @property
    def num_items(self) -> int: ...
    @property
    def num_levels(self) -> int: ...
    @property
    def num_changes(self) -> int:
        """Added and removed items that are not yet merged."""
    @property
    def codebook_sizes(self) -> tuple[int, ...]: ...
    @property
    def level_sizes(self) -> tuple[int, ...]:
        """As for ItemTrie; nodes that lead to removed items alone are counted too."""
    @property
    def nbytes(self) -> int:
        """Bytes of all arrays; most are shared with other snapshots."""
    def leaf_rows(self, leaves: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the rows under each leaf, as ItemTrie.leaf_rows does, but by item id."""
    def rows_of(self, item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the row of each item, (num_items,) int64; -1 for one that is not there."""
    def item_ids(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the item id of each row, (num_rows,) int64.

        Raises:
            ValueError: There is no such row.
        """
    def items(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Returns all items: sids (num_items, num_levels) and item_ids, by SID, then item id."""

class RowSet:
    """A set of the rows of one trie or snapshot, such as the items in stock; immutable.

    Build it once, give it a name, and let any number of requests share it. It takes one bit per
    item, and one per trie node as soon as an ItemFilter uses it. `a & b`, `a | b` and `~a` are new
    sets. All methods: O(num_items / 64), unless they say otherwise.
    """

    @staticmethod
    def from_rows(trie: ItemTrie | Snapshot, rows: NDArray[np.int64]) -> RowSet:
        """Returns the set of some rows.

        Args:
            trie: The catalogue that the rows are of.
            rows: (num_rows,) int64, in any order, repeats allowed.

        Raises:
            TypeError: `rows` is not int64 and C-contiguous.
            ValueError: `trie` has no such row.
        """
    def __and__(self, other: RowSet) -> RowSet: ...
    def __or__(self, other: RowSet) -> RowSet: ...
    def __invert__(self) -> RowSet: ...
    @property
    def count(self) -> int:
        """Number of rows in the set."""
    @property
    def nbytes(self) -> int: ...
    def rows(self) -> NDArray[np.int64]:
        """Returns the rows in the set, (count,) int64, ascending. O(num_items)."""

class ItemFilter:
    """Which items each request of a batch may be given; immutable."""

    def __init__(
        self,
        trie: ItemTrie | Snapshot,
        batch: int,
        *,
        allow: RowSet | Sequence[RowSet | None] | None = None,
        exclude: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    ) -> None:
        """Finds the trie nodes with nothing allowed below them, for all steps of one decode.

        O(num_items) for a RowSet that was in no filter yet; else O(log num_items) per excluded row.

        Args:
            trie: The catalogue.
            batch: Number of requests.
            allow: The rows that may be given: one set for all requests, or one per request; None
                allows everything. What must not be given is allowed as `~denied`.
            exclude: (offsets, rows), int64 both: request i may not be given
                rows[offsets[i]:offsets[i + 1]], in any order, repeats allowed; `offsets` is
                (batch + 1,). For what one request alone must not see, such as its history.

        Raises:
            TypeError: An array is not int64 and C-contiguous.
            ValueError: A shape is wrong, a row does not exist, or a set is of another trie or
                snapshot.
        """

    @property
    def num_allowed(self) -> NDArray[np.int64]:
        """(batch,) int64, how many items each request may be given."""
    def leaf_rows(self, leaves: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the allowed rows under each leaf, as ItemTrie.leaf_rows returns all.

        Args:
            leaves: (batch, width) int64 nodes of depth `num_levels`; -1 stands for none.

        Returns:
            offsets: (batch * width + 1,) int64.
            rows: (offsets[-1],) int64; those of slot j of request i begin at
                offsets[i * width + j].

        Raises:
            TypeError: `leaves` is not int64 and C-contiguous.
            ValueError: An entry is neither a leaf nor -1, or the shape is wrong.
        """

class BeamStep(NamedTuple):
    """The best children of each request, best first.

    Slots from `num_valid` on hold score -inf and parent, token and node -1.
    """

    scores: NDArray[np.float32]
    """(batch, width) float32, the beam's score + log p(code)."""
    parents: NDArray[np.int64]
    """(batch, width) int64, the slot of the beam that was extended."""
    tokens: NDArray[np.int64]
    """(batch, width) int64, the code that was added."""
    nodes: NDArray[np.int64]
    """(batch, width) int64, node ids of depth `level + 1`."""
    num_valid: NDArray[np.int64]
    """(batch,) int64."""

def beam_step(
    trie: ItemTrie | Snapshot,
    level: int,
    logits: NDArray[np.float32] | NDArray[np.uint16],
    scores: NDArray[np.float32],
    nodes: NDArray[np.int64],
    num_valid: NDArray[np.int64],
    width: int,
    *,
    item_filter: ItemFilter | None = None,
    normalize: Literal["codebook", "children"] = "codebook",
    num_threads: int = 1,
) -> BeamStep:
    """Extends beams of depth `level` by one code and keeps the best `width` per request.

    score = scores + (logits - logsumexp(logits)), in float32. Ties go to the lower node id, that
    is the lower SID. The result is the same bits for any batch, thread count and machine. A code
    whose logit is -inf is never chosen. Where fewer than `width` children can be reached, fewer
    come back.

    Args:
        trie: The items that exist.
        level: Depth of the beams, in [0, num_levels).
        logits: (batch, beam_width, codebook_sizes[level]) float32; or bfloat16 as its bits, uint16
            (`logits.view(torch.uint16).numpy()`), which is widened exactly.
        scores: (batch, beam_width) float32, in any order. For the first step: zeros.
        nodes: (batch, beam_width) int64 nodes of depth `level`. For the first step: zeros.
        num_valid: (batch,) int64; slots from num_valid on are not read.
        width: How many to keep, at least 1; it may exceed beam_width and the codebook.
        item_filter: What each request may be given: the result is that of a trie of these items
            alone, but for its node ids. A prefix that leads to none of them takes no beam's place,
            so that `width` allowed SIDs come back if there are as many. None allows everything.
        normalize: "codebook": log-probabilities over the whole codebook, the model's likelihood.
            "children": over the children of the node only; an only child then costs nothing.
        num_threads: Threads to share the requests among, in [1, 1024].

    Raises:
        TypeError: An array is not of the dtype above or not C-contiguous.
        ValueError: A shape or range is wrong, a valid beam holds NaN or +inf, or `item_filter` is
            of another trie or snapshot.
    """

def only_leaves(
    trie: ItemTrie | Snapshot,
    level: int,
    nodes: NDArray[np.int64],
    *,
    item_filter: ItemFilter | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Finds the SID below each node where there is only one that may be given.

    Its other codes are forced: under normalize="children" they have log-probability 0. Items that
    share a SID are one leaf. Per level and node O(1), or where a filter or removed items have a
    part, at most the bits of its children: the walk down ends at the second child.

    Args:
        trie: The items that exist.
        level: Depth of the nodes, in [0, num_levels).
        nodes: (batch, width) int64 nodes of depth `level`; -1 stands for none.
        item_filter: What each request may be given. None allows everything.

    Returns:
        leaves: (batch, width) int64 nodes of depth `num_levels`; -1 where several may be given, or
            none.
        tokens: (batch, width) int64, the last code of each leaf's SID; -1 for none.

    Raises:
        TypeError: `nodes` is not int64 and C-contiguous.
        ValueError: A shape or range is wrong, or `item_filter` is of another trie or snapshot, or
            another batch.
    """

def log_sum_exp(logits: NDArray[np.float32], *, target: str = "auto") -> NDArray[np.float32]:
    """Returns what beam_step(normalize="codebook") subtracts from each row.

    Args:
        logits: (num_rows, vocab_size) float32.
        target: One of simd_targets(); all give the same bits. "auto" is the fastest.

    Returns:
        (num_rows,) float32; NaN for a row that holds NaN or +inf, -inf for one of -inf only.

    Raises:
        TypeError: `logits` is not float32 and C-contiguous.
        ValueError: `logits` is not 2-D, or this machine has no such target.
    """

def simd_targets() -> tuple[str, ...]:
    """Returns the instruction sets the vector kernels can use here, fastest first.

    The first is used. The environment variable STORE_ENGINE_SIMD (baseline, avx2 or avx512), read
    once, sets an upper limit; results are the same bits under all.

    Raises:
        ValueError: STORE_ENGINE_SIMD names what this machine does not have.
    """

class CachedAttention:
    """Attention of new tokens to a cache of keys and values, which they first join.

    The cache, `qkv` and `out` are float32, or all uint16, the bits of bfloat16; all arithmetic is
    float32. A token of a history sees its request's slots up to its own; a beam sees the context of
    its request and the slots that it lists. See csrc/store_engine/cached_attention.h.
    """

    def __init__(
        self,
        cache: _FloatOrBfloat16,
        num_heads: int,
        begins: NDArray[np.int64],
        first_slots: NDArray[np.int64],
        num_context: NDArray[np.int64],
        ancestors: NDArray[np.int64] | None = None,
        *,
        num_threads: int = 1,
    ) -> None:
        """Checks what the calls for all layers share.

        Args:
            cache: (num_layers, 2, batch, num_slots, num_kv_heads, head_dim), keys, then values;
                written to by the calls.
            num_heads: Query heads, a multiple of num_kv_heads.
            begins: (batch + 1,) ascending from 0, first token of each request.
            first_slots: (batch,) slot of each request's first token; the others follow it.
            num_context: (batch,) slots that all tokens of the request see. Without `ancestors`
                equal to `first_slots`: a token sees these and the tokens before it.
            ancestors: (num_tokens, depth), depth in [1, 16], further slots that each token sees,
                its own included.
            num_threads: In [1, 1024], of the OpenMP runtime that the process has loaded.

        Raises:
            TypeError: A dtype or layout is wrong.
            ValueError: A shape is wrong, a slot is outside the cache, or it is read-only.
        """
    def __call__(
        self,
        layer: int,
        qkv: _FloatOrBfloat16,
        cosine: NDArray[np.float32],
        sine: NDArray[np.float32],
        out: _FloatOrBfloat16,
        *,
        q_norm: NDArray[np.float32] | None = None,
        k_norm: NDArray[np.float32] | None = None,
        norm_eps: float = 1e-6,
    ) -> None:
        """Writes the tokens' keys and values into the cache, attends, and fills `out`.

        Args:
            layer: Of the cache.
            qkv: (num_tokens, (num_heads + 2 * num_kv_heads) * head_dim), projected.
            cosine: (num_tokens, head_dim / 2), of RoPE's angles.
            sine: The same.
            out: (num_tokens, num_heads * head_dim); or (batch, ...) for each request's last token
                alone.
            q_norm: (head_dim,) weights of an RMSNorm of each query head, before RoPE.
            k_norm: The same of each key head.
            norm_eps: Of these norms.

        Raises:
            TypeError: A dtype or layout is wrong.
            ValueError: A shape is wrong.
        """

def rms_norm(
    x: _FloatOrBfloat16,
    weight: NDArray[np.float32],
    out: _FloatOrBfloat16,
    eps: float,
    *,
    num_threads: int = 1,
) -> None:
    """Normalises rows: out = x / sqrt(mean(x^2) + eps) * weight, computed in float32.

    Args:
        x: (num_rows, size) float32, or uint16, the bits of bfloat16.
        weight: (size,).
        out: As `x`, written to.
        eps: Added to the mean.
        num_threads: In [1, 1024].

    Raises:
        TypeError: A dtype or layout is wrong.
        ValueError: A shape is wrong.
    """
