from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from store_engine._C import ItemFilter, ItemTrie, beam_step


def decode(trie, logits, width, item_filter, normalize):
    """All steps of a decode: what each returns, and per request and beam the rows found."""
    batch = len(logits[0])
    scores, nodes = np.zeros((batch, 1), np.float32), np.zeros((batch, 1), np.int64)
    num_valid = np.ones(batch, np.int64)
    steps = []
    for level, of_level in enumerate(logits):
        beams = (np.ascontiguousarray(of_level[:, : scores.shape[1]]), scores, nodes, num_valid)
        steps.append(
            beam_step(trie, level, *beams, width, item_filter=item_filter, normalize=normalize)
        )
        scores, _, _, nodes, num_valid = steps[-1]
    offsets, rows = (item_filter or ItemFilter(trie, batch)).leaf_rows(nodes)
    slots = [rows[a:b].tolist() for a, b in pairwise(offsets)]
    return steps, [slots[i * width : (i + 1) * width] for i in range(batch)]


def _random_logits(rng, shape):
    """Either all different, or with many ties."""
    values = rng.normal(0, 3, shape) if rng.integers(2) else rng.integers(0, 2, shape)
    return values.astype(np.float32)


def _assert_searches_as_fresh_tries(trie, item_filter, catalogues, rng, key_of=np.asarray):
    """Request i of a random decode is that of a trie built from catalogues[i] = (keys, sids).

    key_of turns the rows that are found into keys; equal scores and parents are the same bits.
    """
    width = int(rng.choice([1, 5, 40]))
    normalize = str(rng.choice(["codebook", "children"]))
    shapes = [(len(catalogues), width, size) for size in trie.codebook_sizes]
    logits = [_random_logits(rng, shape) for shape in shapes]
    steps, found = decode(trie, logits, width, item_filter, normalize)
    for i, (keys, sids) in enumerate(catalogues):
        alone = [of_level[i : i + 1] for of_level in logits]
        fresh = ItemTrie(np.ascontiguousarray(sids), list(trie.codebook_sizes))
        want, want_rows = decode(fresh, alone, width, None, normalize)
        for a, b in zip(steps, want, strict=True):
            for x, y in zip((*a[:3], a.num_valid), (*b[:3], b.num_valid), strict=True):
                assert x[i : i + 1].tobytes() == y.tobytes()
        got = [key_of(np.array(slot, dtype=np.int64)).tolist() for slot in found[i]]
        assert got == [keys[slot].tolist() for slot in want_rows[0]]
        assert steps[-1].num_valid[i] == min(width, len(np.unique(sids, axis=0)))


@pytest.fixture(scope="session")
def assert_searches_as_fresh_tries() -> Callable[..., None]:
    return _assert_searches_as_fresh_tries
