import numpy as np
import pytest

from store_engine.collaborative.validation import dense_ndcg, sample
from store_engine.data.split import Examples


def test_the_sample_is_fixed_and_leaves_empty_histories_out():
    histories = [np.arange(user % 3, dtype=np.int32) for user in range(18_000)]
    examples = Examples(histories, np.arange(18_000, dtype=np.int32))
    got, again = sample(examples, 100, seed=1), sample(examples, 100, seed=1)
    assert len(got.targets) == 10_000 and (got.targets == again.targets).all()
    assert all(len(history) for history in got.histories)
    assert (got.targets % 3 != 0).all()
    assert len(sample(examples, 10**6, seed=1).targets) == 2000


@pytest.mark.parametrize(
    ("target", "exclude", "want"),
    [(2, True, 1.0), (2, False, 1 / np.log2(3)), (1, True, 0.0), (0, True, 1 / np.log2(3.5))],
    ids=["best", "behind the seen", "seen", "half of a tie"],
)
def test_ndcg_by_hand(target, exclude, want):
    scores = np.array([[1, 9, 5, 1]], dtype=np.float32)
    examples = Examples([np.array([1], dtype=np.int32)], np.array([target], dtype=np.int32))
    got = dense_ndcg(lambda users: scores[users].copy(), examples, 4, exclude_history=exclude)
    assert got == pytest.approx(want)
