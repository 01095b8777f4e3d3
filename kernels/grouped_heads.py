"""Grouped-query attention's layout: the query heads that share a key head become query rows.

So each key is read once for its whole group, and keys and values are never expanded.
"""

from torch import Tensor


def fold_heads(q: Tensor, num_kv_heads: int) -> Tensor:
    """Lays the query heads of a group out as rows.

    Args:
        q: (batch, length, num_heads, head_dim).
        num_kv_heads: Key heads, a divisor of num_heads.

    Returns:
        (batch, num_kv_heads, group * length, head_dim); within a group the first head's rows first.
    """
    group = q.shape[2] // num_kv_heads
    return q.unflatten(2, (num_kv_heads, group)).permute(0, 2, 3, 1, 4).flatten(2, 3)


def unfold_heads(out: Tensor, length: int) -> Tensor:
    """Undoes `fold_heads`.

    Args:
        out: (batch, num_kv_heads, group * length, head_dim).
        length: Queries of each head.

    Returns:
        (batch, length, num_heads, head_dim).
    """
    group = out.shape[2] // length
    return out.unflatten(2, (group, length)).permute(0, 3, 1, 2, 4).flatten(2, 3)
