"""Given items scored beside a search of fixed shapes: `ForcedPaths` for a CUDA graph.

Every item has a column of its own behind the beams of each block, also where its prefix is a beam
or another item's: no shape may depend on that, and on a GPU a column more costs little.
"""

from torch import Tensor

from store_engine.catalog.resident.resident_rows import ResidentRows
from store_engine.kernels._dispatch import Backend
from store_engine.kernels.code_logprobs import code_logprobs
from store_engine.kernels.top_evidence import Candidates


class NamedPaths:
    """The log-probabilities of given items, found level by level.

    Args:
        named: The items, (batch, num_named).
        rows: Of the catalogue.
        nothing: (batch, num_named) float32 zeros.
        kernels: The implementation of the op.

    Attributes:
        places: (batch, num_named) int32, where the items stand; -1 for none.
        prefixes: (batch, num_named) int64, where each one's prefix stands in the table of places,
            when its last code is the item itself.
        scores: (batch, num_named) float32, the log-probabilities so far; of none any number.
    """

    def __init__(
        self, named: Candidates, rows: ResidentRows, nothing: Tensor, kernels: Backend
    ) -> None:
        self.places, self.scores, self._kernels = named.places, nothing, kernels
        self.prefixes = rows.prefix_of_place[named.places]
        self._codes = rows.codes[named.rows].permute(2, 0, 1).contiguous()

    def codes(self, level: int) -> Tensor:
        """The codes of a level, (batch, num_named) int32."""
        return self._codes[level]

    def add(self, level: int, logits: Tensor, columns: Tensor) -> None:
        """Adds the log-probabilities of a level's codes.

        Args:
            level: The level.
            logits: (batch, num_columns, codebook_size).
            columns: (batch, num_named) int32, the column of each item's prefix.
        """
        codes = self._codes[level]
        self.scores = code_logprobs(logits, columns, codes, self.scores, backend=self._kernels)
