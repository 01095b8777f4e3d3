"""From a layer's q, k and v to attention's inputs: head norms, RoPE, and the write to the cache.

    normed = head / sqrt(mean(head^2) + eps) * weight     of q and k, where there is a weight
    first  = normed[:half] * cos - normed[half:] * sin    RoPE of the pairs (i, i + head_dim / 2)
    second = normed[half:] * cos + normed[:half] * sin

All in float32, rounded once; v goes to the cache as it is. One program takes one token and a few
heads. Memory-bound: q, k and v are read, q and a token's slot of the cache written. No backward: it
serves decoding. liger-kernel's RoPE rotates q and k of a padded batch in place and knows neither
head norms nor a cache, so this one is ours.
Source: Su et al. 2021 (RoPE), https://arxiv.org/abs/2104.09864.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from store_engine.kernels._checks import FLOATS, check_tensor
from store_engine.kernels._dispatch import Backend, use_triton


def qk_rope_cache_ref(
    qkv: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    cosine: Tensor,
    sine: Tensor,
    positions: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    eps: float,
    num_heads: int,
) -> Tensor:
    """Defines the op, in plain PyTorch. Same arguments as `qk_rope_cache`."""
    num_kv_heads, head_dim = keys.shape[1:]
    cosine, sine = cosine[positions], sine[positions]
    heads = qkv.unflatten(1, (num_heads + 2 * num_kv_heads, head_dim))
    q, k, v = heads.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    _write(keys, _norm_rotate(k, k_weight, cosine, sine, eps), slots)
    _write(values, v, slots)
    return _norm_rotate(q, q_weight, cosine, sine, eps)


def _norm_rotate(
    heads: Tensor, weight: Tensor | None, cosine: Tensor, sine: Tensor, eps: float
) -> Tensor:
    x = heads.float()
    if weight is not None:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()
    first, second = x.chunk(2, dim=-1)
    cosine, sine = cosine[:, None], sine[:, None]
    rotated = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return rotated.to(heads.dtype)


def _write(cache: Tensor, rows: Tensor, slots: Tensor) -> None:
    """cache[slots] = rows, where slots >= 0."""
    spare = F.pad(cache, (0, 0, 0, 0, 0, 1))  # one more slot takes what is not written
    at = slots.long().masked_fill(slots < 0, len(cache))
    cache.copy_(spare.index_copy_(0, at, rows)[:-1])


def qk_rope_cache(
    qkv: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    cosine: Tensor,
    sine: Tensor,
    positions: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    eps: float,
    num_heads: int,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Normalises and rotates q and k, and writes k and v to their tokens' slots.

    Args:
        qkv: (num_rows, (num_heads + 2 * num_kv_heads) * head_dim), float32, float16 or bfloat16,
            contiguous: the heads of q, of k, of v.
        q_weight: (head_dim,), of the RMSNorm of each head of q; None: there is none.
        k_weight: Likewise of k.
        cosine: (num_positions, head_dim / 2) float32, of RoPE's angles at each position.
        sine: Likewise.
        positions: (num_rows,) int32, each token's. One beyond the angles is the caller's error,
            which the kernel does not look for.
        slots: (num_rows,) int32, distinct, each token's slot; -1: its k and v are not written. One
            beyond the cache is the caller's error, which the kernel does not look for.
        keys: (num_slots, num_kv_heads, head_dim), the dtype of `qkv`, contiguous; written in place.
        values: Likewise.
        eps: Of both norms.
        num_heads: Of q.
        backend: See `_dispatch.choose_backend`.

    Returns:
        q: (num_rows, num_heads, head_dim), the dtype of `qkv`.

    Raises:
        ValueError: A shape, a stride or a device does not fit.
        TypeError: A dtype does not fit.
    """
    if keys.ndim != 3 or keys.shape[2] % 2:
        raise ValueError(
            f"keys must be (num_slots, num_kv_heads, even head_dim), got {tuple(keys.shape)}"
        )
    num_rows, device = len(qkv), qkv.device
    num_kv_heads, head_dim = keys.shape[1:]
    check_tensor("qkv", qkv, (num_rows, (num_heads + 2 * num_kv_heads) * head_dim), FLOATS, device)
    for name, weight in (("q_weight", q_weight), ("k_weight", k_weight)):
        if weight is not None:
            check_tensor(name, weight, (head_dim,), FLOATS, device)
    for name, angle in (("cosine", cosine), ("sine", sine)):
        check_tensor(name, angle, (len(cosine), head_dim // 2), (torch.float32,), device)
    for name, index in (("positions", positions), ("slots", slots)):
        check_tensor(name, index, (num_rows,), (torch.int32,), device)
    for name, cache in (("keys", keys), ("values", values)):
        check_tensor(name, cache, keys.shape, (qkv.dtype,), device)
    rope = cosine, sine, positions
    args = qkv, q_weight, k_weight, *rope, slots, keys, values, eps, num_heads
    if not use_triton(qkv, backend):
        return qk_rope_cache_ref(*args)
    from store_engine.kernels.triton.qk_rope_cache import launch_qk_rope_cache

    return launch_qk_rope_cache(*args)
