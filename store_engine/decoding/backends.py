"""The steps of a search in three implementations; which one runs is resolved once, by name.

Each beam is a node of the trie; its candidates are the node's children that the request may be
given. A candidate's score is the beam's score plus the log-probability of the child's code. The
best `width` candidates of a request are its new beams, in descending score; of equal scores the
lower SID is first, so the result never depends on the backend, the threads or the batch.

`CppBackend` runs the C++ core's fused step, `TorchBackend` the same in tensor operations on any
device, `TritonBackend` the kernels of kernels/trie_topk.py and kernels/beam_attention.py. The
fourth name, "graph", is a search without steps: `graph_search` runs all levels at once, and takes
Triton's or PyTorch's steps only for what it does not do.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from store_engine import _C
from store_engine.catalog.item_filter import ItemFilter
from store_engine.catalog.trie_arrays import SearchTrie, TrieArrays, require_arrays
from store_engine.decoding.graphs.static_search import Best
from store_engine.errors import InputError
from store_engine.inference.cache_attention import TreeAttention, TritonTreeAttention
from store_engine.inference.kv_cache import KVCache
from store_engine.inference.numpy_view import as_numpy
from store_engine.kernels._dispatch import Backend as KernelBackend
from store_engine.kernels._dispatch import choose_backend
from store_engine.kernels.trie_topk import (
    MAX_TRITON_WIDTH,
    Beams,
    Level,
    Normalize,
    trie_topk,
    valid_beams,
)

BackendName = Literal["auto", "cpp", "torch", "triton", "graph"]

# below this a second thread costs more than it saves
_LOGITS_PER_THREAD = 1 << 14


@dataclass(frozen=True)
class SearchSpace:
    """What the requests of a batch may be given, and what scores mean; the same at every level.

    Args:
        trie: The catalogue; the C++ core alone searches a snapshot of a live one.
        item_filter: The items that each request may be given: results are those of a trie of these
            items alone, but for its node ids. None: all items.
        normalize: "codebook": a softmax runs over the level's codes, the model's likelihood.
            "children": over the codes that continue a prefix to an item that the request may be
            given.
    """

    trie: SearchTrie
    item_filter: ItemFilter | None = None
    normalize: Normalize = "codebook"

    @property
    def arrays(self) -> TrieArrays:
        """The trie as one that has arrays, which a snapshot has not."""
        return require_arrays(self.trie)


class Backend(ABC):
    """One implementation of the steps of a search."""

    reads_arrays: bool  # needs the arrays of a trie, which a catalogue that changed must make anew

    @abstractmethod
    def beam_step(
        self, space: SearchSpace, level: int, logits: Tensor, beams: Beams, width: int
    ) -> Beams:
        """Extends every beam by one code and keeps the best.

        Args:
            space: What may be found.
            level: Level of the code to append, from 0.
            logits: (batch, beam_width, codebook_size) of that level, any float dtype.
            beams: The beams so far; `root_beams` at level 0.
            width: Beams to keep.

        Returns:
            The best beams of each request: `width` of them, or all there are. A code whose
            log-probability is -inf is no candidate. A request with a valid beam whose logits hold
            NaN or +inf has no beams and is flagged in `is_bad`; it does not touch the others.
        """

    @abstractmethod
    def unique_leaves(self, space: SearchSpace, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Finds the SID below each node where a request may be given only one.

        Its codes are forced: under normalize="children" they have log-probability 0.

        Args:
            space: What may be found.
            level: Level of the nodes, less than num_levels.
            nodes: (batch, width) int64; -1 stands for none.

        Returns:
            leaves: (batch, width) int64, -1 where there are several or none.
            tokens: (batch, width) int64, the last code of each leaf's SID; -1 for none.
        """

    def tree_attention(self, cache: KVCache, ancestors: Tensor, begin: int) -> TreeAttention:
        """Makes the attention of a block of beams; see `TreeAttention`."""
        return TreeAttention(cache, ancestors, begin)


class CppBackend(Backend):
    """The C++ core's steps, on the CPU. It searches a catalogue that changes as it is."""

    reads_arrays = False

    def beam_step(
        self, space: SearchSpace, level: int, logits: Tensor, beams: Beams, width: int
    ) -> Beams:
        """Extends every beam by one code and keeps the best; see `Backend.beam_step`."""
        try:
            return self._step(space, level, logits, beams, width)
        except ValueError:  # the core refuses a batch with a bad request: go on without it
            is_bad, _ = valid_beams(logits, beams)
            if not bool(is_bad.any()):
                raise
        good = beams._replace(num_valid=beams.num_valid.masked_fill(is_bad, 0))
        found = self._step(space, level, logits, good, width)
        return found._replace(is_bad=beams.is_bad | is_bad)

    def _step(
        self, space: SearchSpace, level: int, logits: Tensor, beams: Beams, width: int
    ) -> Beams:
        device, dtype = logits.device, logits.dtype
        logits = logits.contiguous().cpu()
        arrays = _C.beam_step(
            space.trie.item_trie,
            level,
            as_numpy(logits if dtype == torch.bfloat16 else logits.float()),
            beams.scores.cpu().numpy(),
            beams.nodes.cpu().numpy(),
            beams.num_valid.cpu().numpy(),
            width,
            item_filter=space.item_filter.core if space.item_filter else None,
            normalize=space.normalize,
            num_threads=max(1, min(torch.get_num_threads(), logits.numel() // _LOGITS_PER_THREAD)),
        )
        scores, parents, tokens, nodes, num_valid = (
            torch.from_numpy(array).to(device) for array in arrays
        )
        return Beams(scores, parents, tokens, nodes, num_valid, beams.is_bad)

    def unique_leaves(self, space: SearchSpace, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Finds forced SIDs; see `Backend.unique_leaves`."""
        leaves, tokens = _C.unique_leaves(
            space.trie.item_trie,
            level,
            nodes.cpu().numpy(),
            item_filter=space.item_filter.core if space.item_filter else None,
        )
        return torch.from_numpy(leaves).to(nodes.device), torch.from_numpy(tokens).to(nodes.device)


class TorchBackend(Backend):
    """Tensor operations, on any device."""

    reads_arrays = True

    def beam_step(
        self, space: SearchSpace, level: int, logits: Tensor, beams: Beams, width: int
    ) -> Beams:
        """Extends every beam by one code and keeps the best; see `Backend.beam_step`."""
        return _trie_topk(space, level, logits, beams, width, "torch")

    def unique_leaves(self, space: SearchSpace, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Finds forced SIDs; see `Backend.unique_leaves`."""
        return (space.item_filter or space.arrays).unique_leaves(level, nodes)


class TritonBackend(TorchBackend):
    """Triton's kernels, on a GPU. Beams wider than the kernel's list take PyTorch's step."""

    def beam_step(
        self, space: SearchSpace, level: int, logits: Tensor, beams: Beams, width: int
    ) -> Beams:
        """Extends every beam by one code and keeps the best; see `Backend.beam_step`."""
        backend: KernelBackend = "triton" if width <= MAX_TRITON_WIDTH else "torch"
        return _trie_topk(space, level, logits, beams, width, backend)

    def tree_attention(self, cache: KVCache, ancestors: Tensor, begin: int) -> TreeAttention:
        """Makes the attention of a block of beams; see `TreeAttention`."""
        return TritonTreeAttention(cache, ancestors, begin)


class GraphBackend(Backend):
    """Whole batches by `graph_search`; the searches that it does not do take another's steps.

    Args:
        steps: The other backend.
    """

    reads_arrays = True

    def __init__(self, steps: Backend) -> None:
        self._steps = steps

    def beam_step(
        self, space: SearchSpace, level: int, logits: Tensor, beams: Beams, width: int
    ) -> Beams:
        """Extends every beam by one code and keeps the best; see `Backend.beam_step`."""
        return self._steps.beam_step(space, level, logits, beams, width)

    def unique_leaves(self, space: SearchSpace, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Finds forced SIDs; see `Backend.unique_leaves`."""
        return self._steps.unique_leaves(space, level, nodes)

    def tree_attention(self, cache: KVCache, ancestors: Tensor, begin: int) -> TreeAttention:
        """Makes the attention of a block of beams; see `TreeAttention`."""
        return self._steps.tree_attention(cache, ancestors, begin)


def resolve_backend(name: BackendName, device: torch.device) -> Backend:
    """Makes the backend of a name: "auto" takes `CppBackend` on a CPU, elsewhere `GraphBackend`.

    Raises:
        ValueError: There is no such backend.
        InputError: "triton" is asked for on a device on which it cannot run.
    """
    if name not in get_args(BackendName):
        raise ValueError(f"backend must be one of {get_args(BackendName)}, got {name!r}")
    if name == "graph" or (name == "auto" and device.type != "cpu"):
        has_triton = kernels_of_graphs(device) == "triton"
        return GraphBackend(TritonBackend() if has_triton else TorchBackend())
    try:
        choice = choose_backend(name, device, on_cpu="cpp")
    except RuntimeError as error:
        raise InputError(str(error)) from error
    classes: dict[str, type[CppBackend] | type[TorchBackend]]
    classes = {"cpp": CppBackend, "torch": TorchBackend, "triton": TritonBackend}
    return classes[choice]()


def kernels_of_graphs(device: torch.device) -> KernelBackend:
    """Returns the implementation of the kernels' ops in a graph: Triton's on CUDA, where it can."""
    if device.type != "cuda" or choose_backend("auto", device) != "triton":
        return "torch"
    return "triton"


class NonFiniteLogitsError(ValueError):
    """The model gave logits that are no distribution; names the requests.

    Args:
        requests: Indices of the requests, at least one.
        detail: What was seen.
        what: What the indices count: "request", or "history" of a caller's list.
    """

    def __init__(
        self, requests: Iterable[int], detail: str = "logits NaN or +inf", what: str = "request"
    ) -> None:
        self.requests, self.detail = tuple(requests), detail
        others = f" (and {len(self.requests) - 1} more)" if len(self.requests) > 1 else ""
        super().__init__(f"{what} {self.requests[0]}{others}: {detail}")


def check_beams(beams: Beams | Best) -> None:
    """Refuses beams of which a request is flagged as bad.

    Raises:
        NonFiniteLogitsError: A request is flagged in `beams.is_bad`.
    """
    if bool(beams.is_bad.any()):
        raise NonFiniteLogitsError(beams.is_bad.cpu().nonzero()[:, 0].tolist())


def _trie_topk(
    space: SearchSpace, level: int, logits: Tensor, beams: Beams, width: int, backend: KernelBackend
) -> Beams:
    """Runs the op of kernels/trie_topk.py; the arguments are those of `Backend.beam_step`."""
    trie, item_filter = space.arrays, space.item_filter
    allowed = item_filter.bits(level + 1) if item_filter else None
    step = Level(trie.child_begin[level], trie.token[level], allowed)
    return trie_topk(logits, beams, step, width, normalize=space.normalize, backend=backend)
