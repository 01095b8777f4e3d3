"""Between the stages: every item is encoded, and its vectors become codes."""

import numpy as np
import torch
from numpy.typing import NDArray

from store_engine.config import Config
from store_engine.sid.codebook_report import neighbours_share_prefix
from store_engine.sid.collisions import resolve_collisions
from store_engine.sid.dense_tokenizer import DenseTokenizer, ItemTexts, content_batch
from store_engine.sid.quantizers.kinds import QUANTIZERS
from store_engine.sid.quantizers.quantizer import FitSettings
from store_engine.sid.sid_table import SidTable
from store_engine.sid.sids_file import read_sids_of

_BATCH_ITEMS = 256


def encode_over_ranks(
    tokenizer: DenseTokenizer, texts: ItemTexts, num_codes: int, device: torch.device
) -> NDArray[np.float32] | None:
    """Encodes every item, batch after batch, each by another rank. Every rank calls it.

    The batches are those of `encode_catalog`, however many ranks there are: the result is the same
    to the last bit.

    Args:
        tokenizer: On `device`, with the weights of stage 1.
        texts: Token ids of the catalogue's texts.
        num_codes: Palette size.
        device: Where the process group communicates.

    Returns:
        On rank 0 the dense tokens (num_items, num_codes, hidden_size), else None.
    """
    rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    size = (_BATCH_ITEMS, num_codes, tokenizer.model.config.hidden_size)
    batches: list[torch.Tensor] = []
    tokenizer.eval()
    for first in range(0, texts.num_items, _BATCH_ITEMS * num_ranks):
        begin = first + _BATCH_ITEMS * rank
        rows = range(begin, min(begin + _BATCH_ITEMS, texts.num_items))
        own = torch.zeros(size, device=device)
        if rows:
            tokens, sequences, slots = content_batch(texts, rows, num_codes)
            with torch.no_grad():
                vectors = tokenizer.encode(
                    tokens.to(device), sequences.to(device), slots.to(device)
                )
            own[: len(rows)] = vectors
        parts = [torch.empty_like(own) for _ in range(num_ranks)] if rank == 0 else None
        torch.distributed.gather(own, parts)
        batches += [part.cpu() for part in parts or ()]
    return torch.cat(batches)[: texts.num_items].numpy() if rank == 0 else None


def make_sids(vectors: NDArray[np.float32], item_ids: tuple[str, ...], config: Config) -> SidTable:
    """Quantises the items' vectors and gives every item its SID.

    Raises:
        InputError: There are fewer items than codes, a vector is not finite, or the file of
            tokenizer.sids_file is wrong.
    """
    settings = config.tokenizer
    if settings.sids_file:
        codes = read_sids_of(config, item_ids)
        none = np.zeros((0, 0, 0), np.float32)  # distances, which a file has not
        size = settings.codebook_size
        return SidTable(*resolve_collisions(codes, size, none, settings.collisions), item_ids)
    fit_settings = FitSettings(
        settings.num_codes,
        settings.codebook_size,
        settings.pca_dim,
        settings.kmeans_iterations,
        config.train.seed,
    )
    quantizer = QUANTIZERS[settings.quantizer].fit(vectors, fit_settings)
    codes, distances = quantizer.encode(vectors), quantizer.distances(vectors)
    sids, sizes = resolve_collisions(codes, settings.codebook_size, distances, settings.collisions)
    shares = neighbours_share_prefix(vectors, sids, config.train.seed)
    return SidTable(sids, sizes, item_ids, quantizer, shares)
