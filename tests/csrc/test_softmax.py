import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine._C import log_sum_exp, simd_targets


@pytest.mark.parametrize("target", ["auto", *simd_targets()])
@pytest.mark.parametrize("scale", [0.01, 2.0, 50.0, 1e4])
@pytest.mark.parametrize("vocab_size", [1, 2, 15, 16, 17, 63, 256, 1000, 2048, 65536])
def test_equals_float64(vocab_size, scale, target):
    logits = np.random.default_rng(0).normal(0, scale, (7, vocab_size)).astype(np.float32)
    want = torch.from_numpy(logits).double().logsumexp(-1).numpy()
    got = log_sum_exp(logits, target=target)
    np.testing.assert_allclose(got, want, rtol=1.5e-7, atol=5e-7)
    assert (got >= logits.max(1)).all()  # so that no log-probability is positive


@settings(deadline=None)
@given(st.integers(1, 600), st.integers(0, 2**32), st.sampled_from([0.5, 5.0, 100.0]))
def test_every_instruction_set_gives_the_same_bits(vocab_size, seed, scale):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (5, vocab_size)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.1] = -np.inf
    first, *others = [log_sum_exp(logits, target=target) for target in simd_targets()]
    for other in others:
        assert first.tobytes() == other.tobytes()


@pytest.mark.parametrize("target", simd_targets())
@pytest.mark.parametrize("vocab_size", [1, 16, 33])
def test_special_values(vocab_size, target):
    rows = np.full((4, vocab_size), -np.inf, np.float32)
    rows[1:, -1] = [3.0, np.nan, np.inf]
    got = log_sum_exp(rows, target=target)
    assert got[:2].tolist() == [-np.inf, 3.0]
    assert np.isnan(got[2:]).all()


def test_the_baseline_is_always_there():
    assert simd_targets()[-1] == "baseline"


def test_rejects():
    with pytest.raises(ValueError, match="2-D"):
        log_sum_exp(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"one of simd_targets\(\), got 'mmx'"):
        log_sum_exp(np.zeros((1, 3), np.float32), target="mmx")
    with pytest.raises(TypeError):
        log_sum_exp(np.zeros((1, 3)))
