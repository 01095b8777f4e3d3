import numpy as np
import pytest

from store_engine.collaborative.validation import choose_scale, dense_ndcg, sample
from store_engine.data.split import Examples


def test_the_sample_is_fixed_and_leaves_empty_histories_out():
    histories = [np.arange(user % 3, dtype=np.int32) for user in range(6000)]
    examples = Examples(histories, np.arange(6000, dtype=np.int32))
    got, again = sample(examples, 100, seed=1), sample(examples, 100, seed=1)
    assert len(got.targets) == 3000 and (got.targets == again.targets).all()
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


def test_the_scale_that_ranks_the_target_first():
    logprobs = np.array([[-1.0, -2.0, -3.0], [-1.0, -2.0, -np.inf], [-1.0, -1.0, -1.0]])
    evidence = np.array([[0.0, 0.0, 1.0], [0.0, 4.0, 0.0], [1.0, 0.0, 0.0]])
    is_target = np.array([[False, False, True], [False, True, False], [False] * 3])
    scale, found = choose_scale(logprobs, evidence, is_target, (0.0, 0.5, 3.0, 4.0))
    assert scale == 3.0 and found == pytest.approx(2 / 3)
    assert choose_scale(logprobs[2:], evidence[2:], is_target[2:], (0.5, 1.0)) == (0.5, 0.0)
