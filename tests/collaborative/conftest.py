from collections.abc import Callable

import numpy as np
import pytest

from store_engine.data.histories import Histories


@pytest.fixture
def histories() -> Callable[..., Histories]:
    """Makes histories of lists of rows, one list a user."""

    def make(*sequences: list[int]) -> Histories:
        offsets = np.cumsum([0, *map(len, sequences)]).astype(np.int64)
        rows = np.array([row for sequence in sequences for row in sequence], dtype=np.int32)
        return Histories(tuple(f"u{i}" for i in range(len(sequences))), rows, offsets)

    return make
