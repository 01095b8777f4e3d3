"""Whether all providers find the same beams: before that nothing is timed."""

import numpy as np

from benchmarks.constraining.cases import Case, Sids
from benchmarks.constraining.decode import Logits, decode
from benchmarks.constraining.ours import Ours, RandomFilter
from benchmarks.constraining.provider import Provider
from store_engine._C import ItemTrie

ATOL = 1e-4  # of a log-probability


def check(case: Case, logits: Logits, providers: dict[str, Provider]) -> None:
    """Refuses to go on unless all providers find what ours does.

    Scores must be equal rank by rank to ATOL, and so must the SIDs, but where two neighbours are
    closer than that. Beams that do not exist have score -inf and are not compared.

    Raises:
        AssertionError: They do not.
    """
    scores, sids, _ = decode(providers["ours"], logits, case)
    is_clear = scores.isfinite()
    is_close = scores.diff(dim=1).abs() <= 2 * ATOL
    is_clear[:, 1:] &= ~is_close
    is_clear[:, :-1] &= ~is_close
    is_clear[:, -1] = False  # its other neighbour is not known
    for name, provider in providers.items():
        if name != "unconstrained":
            other_scores, other_sids, _ = decode(provider, logits, case)
            error = (other_scores - scores).abs().nan_to_num(0).max().item()
            assert error < ATOL, f"{case.name}: {name} differs from ours by {error:.2e}"
            is_same = (other_sids == sids).all(2) | ~is_clear
            assert is_same.all(), f"{case.name}: {name} finds other SIDs than ours"


def check_filtered(
    case: Case, logits: Logits, item_filter: RandomFilter, sids: Sids, sizes: list[int]
) -> None:
    """Refuses to go on unless the filter gives what tries of the items left give.

    Raises:
        AssertionError: It does not.
    """
    got = decode(Ours(item_filter.trie, 1, item_filter.make()), logits, case)
    for request in range(min(4, case.batch)):  # the others are alike
        left = np.ascontiguousarray(sids[item_filter.rows_left(request)])
        want = decode(Ours(ItemTrie(left, sizes), 1), logits, case)
        for a, b in zip(got[:2], want[:2], strict=True):
            assert a[request].equal(b[request]), (
                f"{case.name}: the filter changes request {request}"
            )
