"""The sum of exponentials of a row that comes tile by tile, around the largest entry so far.

Source: Milakov & Gimelshein 2018, https://arxiv.org/abs/1805.02867
"""

import triton
import triton.language as tl


@triton.jit
def add_tile(peak, total, x):
    """The largest entry, from -inf, and the sum, from 0, with those of one more tile."""
    new_peak = tl.maximum(peak, tl.max(x))
    shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    return new_peak, total * tl.exp(peak - shift) + tl.sum(tl.exp(x - shift))


@triton.jit
def log_sum(peak, total):
    """Their logarithm. Without a peak the sum is 0, or NaN, which a maximum leaves out."""
    return tl.where(peak == float("-inf"), total, peak + tl.log(tl.where(total == 0, 1.0, total)))
