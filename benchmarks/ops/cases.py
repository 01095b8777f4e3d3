"""The table of kernels.py: every op at the shapes that matter.

Losses and attention have the shapes of METHOD's heads and of SmolLM2. The ops of a search on a GPU
have those of Qwen3-0.6B: 4 requests of 20 beams behind contexts of 512 tokens.
"""

import torch

from benchmarks.ops.attention_cases import attention_case, tree_case
from benchmarks.ops.layer_cases import norm_case, rope_case, swiglu_case
from benchmarks.ops.loss_cases import chunked_loss_case, loss_case, softmax_case
from benchmarks.ops.selection_cases import select_case, topk_case
from benchmarks.ops.workload import Case

BATCH, BEAMS, CONTEXT = 4, 20, 512


def all_cases(device: str, has_decode: bool) -> list[Case]:
    """All cases; without those of a search on a GPU unless `has_decode`."""
    cases = []
    for dtype in (torch.float32, torch.bfloat16):
        cases += [
            loss_case(64, 32, 256, 64, dtype, device),  # to try the benchmark itself
            loss_case(8192, 128, 2048, 2048, dtype, device),
            loss_case(8192, 128, 2048, 64, dtype, device),
            loss_case(8192, 576, 49152, 49152, dtype, device),
            loss_case(8192, 576, 49152, 256, dtype, device),
            *(softmax_case(kind, 8192, 2048, dtype, device) for kind in ("slice", "ranges")),
            attention_case(32, 20, 200, 64, dtype, device),
        ]
        if has_decode:
            cases += decode_cases(dtype, device)
    if has_decode:
        cases.append(topk_case(32, 20, 1_000_000, 256, device))
        cases.append(topk_case(8, 256, 1_000_000, 2048, device))
    return cases


def decode_cases(dtype: torch.dtype, device: str) -> list[Case]:
    """The ops of a search on a GPU, and the loss in chunks.

    The first of each op is small, to try the benchmark itself.
    """
    rows = BATCH * BEAMS
    return [
        norm_case(4, 64, dtype, device),
        norm_case(rows, 1024, dtype, device),
        swiglu_case(4, 96, dtype, device),
        swiglu_case(rows, 3072, dtype, device),
        rope_case(4, 2, 1, 32, dtype, device),
        rope_case(rows, 16, 8, 128, dtype, device),
        tree_case(2, 3, 40, 2, 1, dtype, device),
        tree_case(BATCH, BEAMS, CONTEXT, 16, 8, dtype, device),
        tree_case(1, BEAMS, CONTEXT, 16, 8, dtype, device),
        select_case(2, 3, 64, 16, dtype, device),
        select_case(BATCH, BEAMS, 1_000_000, 256, dtype, device),
        select_case(8, 256, 1_000_000, 2048, dtype, device),
        chunked_loss_case(64, 32, 256, dtype, device),
        chunked_loss_case(8192, 576, 49152, dtype, device),
    ]
