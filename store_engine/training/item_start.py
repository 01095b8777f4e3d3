"""What items' rows, codes and heads start from: one space, for reading and for writing.

Then the untrained model already recommends what is near the last item: a row that is read passes
the layers nearly unchanged, and the product with the rows that are written is their likeness.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine.config import Config
from store_engine.model.transformer import INIT_STD
from store_engine.sid.item_features import ItemVectors
from store_engine.sid.item_tokens import code_sizes, slot_order
from store_engine.sid.quantizers.quantizer import principal_axes
from store_engine.sid.sid_table import SidTable

_RIDGE = 10.0  # of the regression from features to rows, in items


def item_weights(
    config: Config, table: SidTable, vectors: ItemVectors, num_labels: int = 0
) -> dict[str, Tensor]:
    """Makes the first weights of items that are their own last code.

    Args:
        config: The run's config.
        table: The items' SIDs.
        vectors: The space that these were cut from, and the items' features.
        num_labels: Rows of the code tables behind those of the items; they start at random.

    Returns:
        Tensors by the names of `StoreModel`: rows that equal the space exactly, made of the part
        that features can say and a residual; and every cluster's code at the middle of its items.
    """
    order = slot_order(table.sids)
    features = vectors.features[order]
    weights = {"item_rows.features": torch.from_numpy(features)}
    if config.recommender.init_codes == "normal":
        return weights
    rows = fit_to(vectors.space[order], config.model.hidden_size)
    gram = features.T @ features + _RIDGE * np.eye(features.shape[1], dtype=np.float32)
    projection = np.linalg.solve(gram.astype(np.float64), features.T @ rows).astype(np.float32)
    weights["item_rows.proj.weight"] = torch.from_numpy(projection.T.copy())
    weights["item_rows.residual"] = torch.from_numpy(rows - features @ projection)
    if not config.recommender.tie_items:
        weights["item_rows.written_residual"] = weights["item_rows.residual"].clone()
    generator = torch.Generator().manual_seed(config.train.seed)
    labels = INIT_STD * torch.randn(num_labels, rows.shape[1], generator=generator)
    codes = torch.from_numpy(_cluster_centres(rows, table.sids[order], code_sizes(table)))
    weights["code_head.weight"] = torch.cat([codes, labels])
    # an item that is read as one position starts as its row alone
    read = torch.zeros_like(codes) if config.recommender.history == "items" else codes
    weights["code_embedding.weight"] = torch.cat([read, labels])
    return weights


def fit_to(vectors: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Brings vectors (n, dim) to `size` components: zeros behind, or their principal components."""
    n, dim = vectors.shape
    if dim <= size:
        return np.hstack([vectors, np.zeros((n, size - dim), dtype=np.float32)])
    return vectors @ principal_axes(vectors, size).T


def _cluster_centres(
    rows: NDArray[np.float32], sids: NDArray[np.integer], sizes: tuple[int, ...]
) -> NDArray[np.float32]:
    """Per code the mean of its items, as long as they are on average: (sum(sizes), hidden_size)."""
    centres = []
    for level, size in enumerate(sizes):
        counts = np.bincount(sids[:, level], minlength=size).clip(1)[:, None]
        sums, lengths = np.zeros((size, rows.shape[1])), np.zeros((size, 1))
        np.add.at(sums, sids[:, level], rows)
        np.add.at(lengths, sids[:, level], np.linalg.norm(rows, axis=1, keepdims=True))
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres.append(sums / np.where(norms > 0, norms, 1.0) * lengths / counts)
    return np.concatenate(centres).astype(np.float32)
