import numpy as np
import pytest

from benchmarks.peers.catalog_tokens import CatalogTokens

SIDS = np.array([[0, 1, 2], [3, 4, 5], [0, 1, 2]], dtype=np.int32)  # two items share one
FIRST, SECOND = (20, 27, 33), (23, 30, 36)  # behind 20 words, of levels of 6, 5 and 7 codes


@pytest.fixture
def catalog(make_engine):
    return CatalogTokens(make_engine(sids=SIDS), bos=1)


def test_a_history_is_bos_and_the_codes_of_its_items(catalog):
    assert catalog.num_levels == 3
    assert catalog.prompts([[1, 0], []]) == [[1, *SECOND, *FIRST], [1]]


def test_every_item_of_a_sid_is_found_until_there_are_enough(catalog):
    found, scores = [[FIRST, SECOND], [SECOND, FIRST]], [[-1.0, -2.0], [-0.5, -0.75]]
    rows, logprobs = catalog.items(found, scores, 2)
    assert rows.tolist() == [[0, 2], [1, 0]]
    assert logprobs.tolist() == [[-1.0, -1.0], [-0.5, -0.75]]


def test_what_is_no_item_is_left_out_and_what_is_missing_is_marked(catalog):
    rows, logprobs = catalog.items([[(20, 27, 34), SECOND], []], [[-1.0, -2.0], []], 2)
    assert rows.tolist() == [[1, -1], [-1, -1]]
    assert logprobs.tolist() == [[-2.0, -np.inf], [-np.inf, -np.inf]]
