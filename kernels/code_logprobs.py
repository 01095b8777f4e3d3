"""Log-probabilities of given codes: how items that are named are scored beside a beam search.

    logprob = logit of the code - log-sum-exp of its row

One program takes one code and walks its row. Memory-bound, on the logits. Ours.
"""

import torch
from torch import Tensor

from store_engine.kernels._checks import FLOATS, INTEGERS, check_tensor
from store_engine.kernels._dispatch import Backend, use_triton


def code_logprobs_ref(logits: Tensor, beams: Tensor, codes: Tensor, scores: Tensor) -> Tensor:
    """Defines the op, in plain PyTorch. Same arguments as `code_logprobs`."""
    logits, at = logits.float(), beams.long().clamp(min=0)
    log_sum = logits.logsumexp(2)
    log_sum = log_sum.masked_fill(~(logits.amax(2) < torch.inf), torch.nan)
    chosen = logits.gather(1, at[:, :, None].expand(-1, -1, logits.shape[2]))
    chosen = chosen.gather(2, codes.long()[:, :, None])[:, :, 0]
    logprobs = chosen - log_sum.gather(1, at)
    is_none = (beams < 0) | (log_sum.gather(1, at) == -torch.inf)
    return scores + logprobs.masked_fill(is_none, -torch.inf)


def code_logprobs(
    logits: Tensor, beams: Tensor, codes: Tensor, scores: Tensor, *, backend: Backend = "auto"
) -> Tensor:
    """Adds the log-probabilities of codes to scores.

    Args:
        logits: (batch, beam_width, codebook_size), float32, float16 or bfloat16; each row is
            contiguous.
        beams: (batch, num_codes) int32 or int64, the beam that each code follows; -1 for none.
        codes: (batch, num_codes) int32 or int64. One beyond the codebook, or a beam beyond the
            width, is the caller's error, which the kernel does not look for.
        scores: (batch, num_codes) float32.
        backend: See `_dispatch.choose_backend`.

    Returns:
        (batch, num_codes) float32: -inf for no beam, NaN where logits are NaN or +inf.

    Raises:
        ValueError: A shape, a stride or a device does not fit.
        TypeError: A dtype does not fit.
    """
    if logits.ndim != 3 or codes.ndim != 2 or 0 in logits.shape[1:]:
        raise ValueError(
            "logits must be (batch, beam_width, codebook_size) and codes (batch, num_codes), got "
            f"{tuple(logits.shape)} and {tuple(codes.shape)}"
        )
    shape, device = (len(logits), codes.shape[1]), logits.device
    check_tensor("logits", logits, logits.shape, FLOATS, device, is_contiguous=False)
    if logits.stride(2) != 1:
        raise ValueError(f"each row of logits must be contiguous, got strides {logits.stride()}")
    check_tensor("beams", beams, shape, INTEGERS, device)
    check_tensor("codes", codes, shape, INTEGERS, device)
    check_tensor("scores", scores, shape, (torch.float32,), device)
    if not use_triton(logits, backend) or not codes.numel():
        return code_logprobs_ref(logits, beams, codes, scores)
    from store_engine.kernels.triton.code_logprobs import launch_code_logprobs

    return launch_code_logprobs(logits, beams, codes, scores)
