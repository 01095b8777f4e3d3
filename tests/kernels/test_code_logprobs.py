import pytest
import torch

from store_engine.kernels.code_logprobs import code_logprobs, code_logprobs_ref

BACKENDS = ["torch", "triton"]
INF = float("inf")


def make(batch, width, codebook_size, num_codes, dtype=torch.float32, device="cpu"):
    logits = torch.randn(batch, width, codebook_size, device=device).to(dtype)
    beams = torch.randint(-1, width, (batch, num_codes), device=device).int()
    codes = torch.randint(0, codebook_size, (batch, num_codes), device=device).int()
    return logits, beams, codes, torch.randn(batch, num_codes, device=device)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 63, 5), (2, 4, 1100, 3), (0, 2, 4, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_is_the_log_softmax(shape, dtype, backend, device):
    logits, beams, codes, scores = make(*shape, dtype, device)
    every = logits.float().log_softmax(2)
    got = code_logprobs(logits, beams, codes, scores, backend=backend)
    for b, i in ((b, i) for b in range(shape[0]) for i in range(shape[3])):
        beam, code = int(beams[b, i]), int(codes[b, i])
        want = scores[b, i] + every[b, beam, code] if beam >= 0 else torch.tensor(-INF)
        torch.testing.assert_close(got[b, i], want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_and_forbidden_logits(backend, device):
    logits = torch.zeros(1, 4, 3, device=device)
    logits[0, 0, 1], logits[0, 1, 2], logits[0, 2], logits[0, 3, 0] = torch.nan, INF, -INF, -INF
    beams = torch.tensor([[0, 1, 2, 3, 3]], device=device).int()
    codes = torch.tensor([[0, 0, 0, 0, 1]], device=device).int()
    got = code_logprobs(logits, beams, codes, torch.zeros(1, 5, device=device), backend=backend)
    assert got[0, :2].isnan().all()
    assert got[0, 2:4].eq(-INF).all()
    assert float(got[0, 4]) == pytest.approx(-0.6931472)


@pytest.mark.parametrize("backend", BACKENDS)
def test_shared_rows_and_rows_among_others(backend, device):
    logits, beams, codes, scores = make(2, 6, 20, 4, device=device)
    for given in (logits[:, :3], logits[:, :1].expand(-1, 3, -1)):
        own = beams.clamp(max=2)
        want = code_logprobs_ref(given.contiguous(), own, codes, scores)
        got = code_logprobs(given, own, codes, scores, backend=backend)
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"codes": torch.zeros(2).int()}, ValueError, r"codes \(batch, num_codes\)"),
        ({"logits": torch.zeros(2, 3, 8)[..., ::2]}, ValueError, "must be contiguous"),
        ({"beams": torch.zeros(2, 4).int()}, ValueError, r"beams must be \(2, 5\)"),
        ({"scores": torch.zeros(2, 5).half()}, TypeError, "scores must be torch.float32"),
    ],
    ids=["codes", "strides", "beams", "dtype"],
)
def test_rejects(change, error, message):
    args = dict(zip(("logits", "beams", "codes", "scores"), make(2, 3, 4, 5), strict=True))
    with pytest.raises(error, match=message):
        code_logprobs(**(args | change))
