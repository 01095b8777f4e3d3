"""Triton kernel of `code_logprobs`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import device_guard
from store_engine.kernels.triton.online_softmax import add_tile, log_sum


# fmt: off
@triton.jit(do_not_specialize=["num_codes", "codebook_size", "stride_batch", "stride_beam"])
def _code_logprobs_kernel(
    logits_ptr, beams_ptr, codes_ptr, scores_ptr, logprobs_ptr, num_codes, codebook_size,
    stride_batch, stride_beam, BLOCK: tl.constexpr,
):
    """One code."""
    request = tl.program_id(0).to(tl.int64)
    at = request * num_codes + tl.program_id(1)
    beam = tl.load(beams_ptr + at).to(tl.int64)
    result = tl.full((), float("-inf"), tl.float32)
    if beam >= 0:
        logits_ptr += request * stride_batch + beam * stride_beam
        peak = tl.full((), float("-inf"), tl.float32)
        total = tl.full((), 0.0, tl.float32)
        for low in range(0, codebook_size, BLOCK):
            code = low + tl.arange(0, BLOCK)
            x = tl.load(logits_ptr + code, code < codebook_size, other=float("-inf"))
            peak, total = add_tile(peak, total, x.to(tl.float32))
        lse = log_sum(peak, total)
        chosen = tl.load(logits_ptr + tl.load(codes_ptr + at)).to(tl.float32)
        is_bad = (lse != lse) | (lse == float("inf"))
        nan = tl.full((), float("nan"), tl.float32)
        result = tl.load(scores_ptr + at) + tl.where(is_bad, nan, chosen - lse)
        if (peak == float("-inf")) & (total == 0.0):
            result = tl.full((), float("-inf"), tl.float32)
    tl.store(logprobs_ptr + at, result)
# fmt: on


def _launch_config(codebook_size: int) -> dict[str, int]:
    block = min(max(triton.next_power_of_2(codebook_size), 32), 1024)
    return {"BLOCK": block, "num_warps": min(max(block // 128, 1), 4)}


def launch_code_logprobs(logits: Tensor, beams: Tensor, codes: Tensor, scores: Tensor) -> Tensor:
    """Does what `code_logprobs` does, for arguments that it has checked; there are codes."""
    (batch, num_codes), codebook_size = codes.shape, logits.shape[2]
    logprobs = torch.empty_like(scores)
    with device_guard(logits):
        _code_logprobs_kernel[(batch, num_codes)](
            logits,
            beams,
            codes,
            scores,
            logprobs,
            num_codes,
            codebook_size,
            *logits.stride()[:2],
            **_launch_config(codebook_size),
        )
    return logprobs
