"""The prefixes that paths need beside the beams: against the definition in PyTorch."""

import numpy as np
import pytest
import torch

from store_engine._C import prefixes_beside
from store_engine.decoding.forced_paths import prefixes_beside_ref
from store_engine.kernels.trie_topk import Beams


@pytest.mark.parametrize(("width", "num_paths"), [(1, 1), (7, 0), (0, 7), (5, 12), (40, 9)])
def test_equals_the_definition(width, num_paths):
    rng = np.random.default_rng(width)
    for _ in range(20):
        # the beams of a level are different prefixes; some requests have fewer
        pairs = np.stack([rng.permutation(60)[:width] for _ in range(4)])
        parents, tokens = pairs // 6, pairs % 6
        is_none = rng.random(pairs.shape) < 0.2
        parents[is_none] = tokens[is_none] = -1
        places = rng.integers(-1, 10, (4, num_paths))
        codes = rng.integers(0, 6, (4, num_paths))
        found = prefixes_beside(parents, tokens, places, codes)
        fields = dict.fromkeys(Beams._fields)
        beams = Beams(
            **fields | {"parents": torch.from_numpy(parents), "tokens": torch.from_numpy(tokens)}
        )
        new, want = prefixes_beside_ref(beams, torch.from_numpy(places), torch.from_numpy(codes))
        np.testing.assert_array_equal(found[0], new.codes)
        np.testing.assert_array_equal(found[1], new.parents)
        np.testing.assert_array_equal(found[2], want)


def test_refuses():
    one = np.zeros((1, 1), dtype=np.int64)
    two = np.zeros((1, 2), dtype=np.int64)
    with pytest.raises(ValueError, match="tokens must have shape"):
        prefixes_beside(one, two, one, one)
    with pytest.raises(ValueError, match="places must have shape"):
        prefixes_beside(one, one, np.zeros((2, 1), dtype=np.int64), one)
    with pytest.raises(ValueError, match="codes must have shape"):
        prefixes_beside(one, one, one, two)
    with pytest.raises(ValueError, match="parents must be 2-D"):
        prefixes_beside(one[0], one, one, one)
    with pytest.raises(ValueError, match="places must be 2-D"):
        prefixes_beside(one, one, one[0], one)
