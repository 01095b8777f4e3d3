"""A catalogue as engines for language models see it: items are sequences of tokens."""

from collections.abc import Iterable, Sequence

import numpy as np

from store_engine.decoding.engine import Engine
from store_engine.evaluation.plain_beam import Result

Path = tuple[int, ...]  # the tokens of a SID


class CatalogTokens:
    """The SIDs of an engine's catalogue as tokens of the model that it exports.

    Args:
        engine: Gives the catalogue; its items have not changed.
        bos: Token that every history begins with.
    """

    def __init__(self, engine: Engine, bos: int) -> None:
        self._bos = bos
        self._sids = engine.model.vocabulary.to_ids(engine.sids)
        self.num_levels = self._sids.shape[1]
        self._rows: dict[Path, list[int]] = {}
        for row, path in enumerate(self.paths()):
            self._rows.setdefault(path, []).append(row)

    def paths(self) -> list[Path]:
        """The tokens of every item, in row order."""
        return list(map(tuple, self._sids.tolist()))

    def prompts(self, histories: Iterable[list[int]]) -> list[list[int]]:
        """The tokens of histories of catalogue rows."""
        return [[self._bos, *self._sids[history].ravel().tolist()] for history in histories]

    def items(
        self, found: Sequence[Sequence[Path]], scores: Sequence[Sequence[float]], k: int
    ) -> Result:
        """The first k items of each request: all of a SID, in row order, until there are k.

        Args:
            found: Per request the tokens of its beams, best first; those of no item are left out.
            scores: The log-probability of each.
            k: Items wanted.

        Returns:
            Rows and log-probabilities (num_requests, k), -1 and -inf where there are no more.
        """
        rows = np.full((len(found), k), -1, dtype=np.int64)
        logprobs = np.full((len(found), k), -np.inf, dtype=np.float32)
        for i, (paths, of_paths) in enumerate(zip(found, scores, strict=True)):
            pairs = [
                (row, score)
                for path, score in zip(paths, of_paths, strict=True)
                for row in self._rows.get(path, ())
            ][:k]
            if pairs:
                rows[i, : len(pairs)], logprobs[i, : len(pairs)] = zip(*pairs, strict=True)
        return rows, logprobs
