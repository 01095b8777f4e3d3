import numpy as np

from store_engine.collaborative.partners import Partners
from store_engine.config import EvidenceConfig


def test_partners_are_drawn_by_their_co_visits(histories):
    """Item 0 stands next to 1 twice as often as to 2; item 3 stands alone."""
    train = histories([0, 1], [1, 0], [0, 2], [3])
    partners = Partners(train, 4, EvidenceConfig(window=1, smoothing=0.0))
    drawn = partners.draw(np.zeros(3000, np.int64), np.random.default_rng(0))
    # 2 / sqrt(3 * 2) against 1 / sqrt(3 * 1)
    want = 2 / 6**0.5 / (2 / 6**0.5 + 1 / 3**0.5)
    assert set(drawn) == {1, 2}
    assert abs((drawn == 1).mean() - want) < 0.03
    both = partners.draw(np.array([3, 1, 2]), np.random.default_rng(0))
    assert both.tolist() == [3, 0, 0]


def test_without_pairs_everybody_is_alone(histories):
    partners = Partners(histories([0], [1]), 3, EvidenceConfig())
    assert partners.draw(np.arange(3), np.random.default_rng(0)).tolist() == [0, 1, 2]
