"""Token ids as callers give them."""

import operator
from collections.abc import Iterable


def check_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
    """Copies token ids into a list.

    Args:
        ids: Whole numbers of Python's, numpy's or torch's.
        vocab_size: Number of ids that there are.

    Raises:
        TypeError: An id is no whole number.
        ValueError: An id is not in the vocabulary.
    """
    checked = [operator.index(i) for i in ids]
    if checked and not 0 <= min(checked) <= max(checked) < vocab_size:
        raise ValueError(f"ids must be in [0, {vocab_size}), got {min(checked)} to {max(checked)}")
    return checked
