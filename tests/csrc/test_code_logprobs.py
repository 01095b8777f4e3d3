"""Log-probabilities of given codes: the bits of a beam step, and what is refused."""

import numpy as np
import pytest
import torch

from store_engine._C import ItemTrie, beam_step, code_logprobs
from store_engine.kernels.code_logprobs import code_logprobs_ref


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("batch", "width", "size"), [(1, 1, 1), (3, 5, 63), (2, 4, 1000)])
def test_equals_the_definition(batch, width, size, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, width, size, generator=generator).to(dtype)
    logits[0, 0] = -torch.inf
    beams = torch.randint(-1, width, (batch, 9), generator=generator)
    beams[0, 0] = 0
    codes = torch.randint(0, size, (batch, 9), generator=generator)
    array = (logits.view(torch.uint16) if dtype == torch.bfloat16 else logits).numpy()
    found = code_logprobs(array, beams.numpy(), codes.numpy())
    want = code_logprobs_ref(logits, beams, codes, torch.zeros(batch, 9))
    np.testing.assert_allclose(found, want, atol=1e-5)
    again = code_logprobs(array, beams.numpy(), codes.numpy(), num_threads=3)
    assert again.tobytes() == found.tobytes()


def test_the_bits_of_a_beam_step():
    rng = np.random.default_rng(0)
    trie = ItemTrie(np.arange(40, dtype=np.int32)[:, None], [40])
    logits = rng.normal(size=(3, 1, 40)).astype(np.float32)
    zeros = np.zeros((3, 1), dtype=np.int64)
    step = beam_step(trie, 0, logits, zeros.astype(np.float32), zeros, zeros[:, 0] + 1, 40)
    found = code_logprobs(logits, np.zeros((3, 40), dtype=np.int64), step.tokens)
    assert found.tobytes() == step.scores.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_distribution(bad):
    logits = np.zeros((2, 2, 3), dtype=np.float32)
    logits[1, 0, 2] = bad
    zeros = np.zeros((2, 1), dtype=np.int64)
    assert np.isnan(code_logprobs(logits, zeros, zeros)).tolist() == [[False], [True]]
    assert not np.isnan(code_logprobs(logits, zeros + 1, zeros)).any()


@pytest.mark.parametrize(
    ("beam", "code", "message"),
    [(2, 0, "beam 2"), (-2, 0, "beam -2"), (0, 3, "code 3"), (0, -1, "-1")],
)
def test_refuses(beam, code, message):
    logits, one = np.zeros((1, 2, 3), dtype=np.float32), np.ones((1, 1), dtype=np.int64)
    with pytest.raises(ValueError, match=f"request 0: .*{message}.*out of range"):
        code_logprobs(logits, beam * one, code * one)
    with pytest.raises(ValueError, match="codes must have shape"):
        code_logprobs(logits, one, np.zeros((1, 2), dtype=np.int64))
    with pytest.raises(ValueError, match="beams must have shape"):
        code_logprobs(logits, np.zeros((2, 1), dtype=np.int64), one)
