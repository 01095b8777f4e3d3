"""The workloads of benchmarks/trie.py: catalogues, batches and beams."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from store_engine._C import ItemTrie

Sids = NDArray[np.int32]


@dataclass(frozen=True)
class Case:
    """One workload."""

    num_items: float
    codes: str
    beam: int = 20
    batch: int = 32
    num_levels: int = 4
    codebook_size: int = 256
    has_updates: bool = False

    @property
    def name(self) -> str:
        """As it stands in the CSV."""
        number = f"{self.num_items:.0e}".replace("e+0", "e")
        name = f"n={number},codes={self.codes},batch={self.batch},beam={self.beam}"
        if (self.num_levels, self.codebook_size) != (4, 256):
            name += f",levels={self.num_levels},codebook={self.codebook_size}"
        return name + (",updates" if self.has_updates else "")


CASES = [
    *(Case(n, codes) for n in (1e5, 1e6) for codes in ("uniform", "zipf")),
    Case(12101, "beauty"),
    Case(1e6, "uniform", has_updates=True),
]
CASES_ON_DEMAND = [
    *(
        Case(n, codes, beam)
        for n in (1e5, 1e6)
        for codes in ("uniform", "zipf")
        for beam in (50, 256)
    ),
    *(Case(1e7, codes, beam) for codes in ("uniform", "zipf") for beam in (20, 50, 256)),
    *(Case(12101, "beauty", beam) for beam in (50, 256)),
    Case(1e6, "uniform", 70, 2, 8, 2048),  # the shape of STATIC's paper
    Case(1e8, "uniform"),
]
QUICK_CASES = [Case(1e4, "zipf"), Case(1e4, "uniform", has_updates=True)]


def catalogue(case: Case, data: Path) -> tuple[Sids, list[int]]:
    """The SIDs of a case, in SID order, and their codebook sizes.

    Raises:
        FileNotFoundError: The published SIDs are not there.
    """
    size, shape = case.codebook_size, (int(case.num_items), case.num_levels)
    sizes = [size] * case.num_levels
    rng = np.random.default_rng(0)
    if case.codes == "beauty":
        path = data / "beauty" / "sids_letter.csv"
        sids = np.loadtxt(path, np.int32, delimiter=",", skiprows=1, usecols=range(1, 5))
    elif case.codes == "uniform":
        sids = rng.integers(0, size, shape, dtype=np.int32)
    else:  # drawn until enough of them differ
        weights = 1 / np.arange(1, size + 1) ** 1.1
        edges = np.cumsum(weights / weights.sum())
        sids = np.zeros((0, shape[1]), np.int32)
        while len(sids) < shape[0]:
            more = np.searchsorted(edges, rng.random(shape)).clip(0, size - 1).astype(np.int32)
            sids = in_order(np.concatenate([sids, more]), sizes)
            sids = sids[np.r_[True, (np.diff(sids, axis=0) != 0).any(1)]]
        sids = sids[np.sort(rng.choice(len(sids), shape[0], replace=False))]
    return in_order(sids, sizes), sizes


def in_order(sids: Sids, sizes: list[int]) -> Sids:
    """Rows in SID order."""
    trie = ItemTrie(np.ascontiguousarray(sids), sizes)
    return np.ascontiguousarray(sids[trie.leaf_rows(np.arange(trie.level_sizes[-1]))[1]])
