"""Between the stages: every item is encoded, and its vectors become codes."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from store_engine.collaborative.item_space import item_space
from store_engine.config import Config
from store_engine.data.catalog import Catalog
from store_engine.data.split import Split
from store_engine.sid.clusters import check_vectors, item_sids, with_item_level
from store_engine.sid.codebook_report import neighbours_share_prefix
from store_engine.sid.collisions import resolve_collisions
from store_engine.sid.dense_tokenizer import DenseTokenizer, ItemTexts, content_batch
from store_engine.sid.item_features import ItemVectors, fit_features
from store_engine.sid.longer_table import extended
from store_engine.sid.quantizers.item_clusters import ItemClusters
from store_engine.sid.quantizers.kinds import QUANTIZERS
from store_engine.sid.quantizers.quantizer import FitSettings
from store_engine.sid.sid_table import SidTable
from store_engine.sid.sids_file import read_sids_of

_BATCH_ITEMS = 256


def encode_over_ranks(
    tokenizer: DenseTokenizer,
    texts: ItemTexts,
    num_codes: int,
    device: torch.device,
    begin_row: int = 0,
) -> NDArray[np.float32] | None:
    """Encodes items, batch after batch, each by another rank. Every rank calls it.

    The batches are those of `encode_catalog`, however many ranks there are: the result is the same
    to the last bit.

    Args:
        tokenizer: On `device`, with the weights of stage 1.
        texts: Token ids of the catalogue's texts.
        num_codes: Palette size.
        device: Where the process group communicates.
        begin_row: The first item; those of a run that this one goes on from have their SIDs.

    Returns:
        On rank 0 the dense tokens (num_items - begin_row, num_codes, hidden_size), else None.
    """
    rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    size = (_BATCH_ITEMS, num_codes, tokenizer.model.config.hidden_size)
    batches: list[torch.Tensor] = []
    tokenizer.eval()
    for first in range(begin_row, texts.num_items, _BATCH_ITEMS * num_ranks):
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
    if rank > 0:
        return None
    encoded = torch.cat(batches) if batches else torch.zeros(0, *size[1:])
    return encoded[: texts.num_items - begin_row].numpy()


class Discretised(NamedTuple):
    """What stage 2 starts from."""

    table: SidTable
    vectors: ItemVectors | None  # of items that are their own last code, but for known ones


def discretise(
    dense_tokens: NDArray[np.float32],
    catalog: Catalog,
    split: Split,
    config: Config,
    known: SidTable | None = None,
) -> Discretised:
    """Gives every item its SID.

    Args:
        dense_tokens: (num_items, num_codes, hidden_size), without the items of `known`.
        catalog: The items.
        split: Training events and validation users, from which the collaborative space is made.
        config: The run's config.
        known: SIDs of the first items, which stay what they are; others find their place there.

    Raises:
        InputError: There are fewer items than codes, a vector is not finite, or the file of
            tokenizer.sids_file is wrong.
    """
    if known is not None:
        table = extended(known, catalog.item_ids, dense_tokens, config)
        described = None if known.features is None else known.features(dense_tokens)
        new = None if described is None else ItemVectors(described[:, :-1], described)
        return Discretised(table, new)
    settings = config.tokenizer
    space, features = dense_tokens, None
    if settings.space == "collaborative":
        found = item_space(split.train, split.valid, catalog, config.evidence, config.train.seed)
        space = found.vectors[:, None]
    if settings.last_level == "code":
        return Discretised(make_sids(space, catalog.item_ids, config), None)
    check_vectors(dense_tokens)
    hidden_size = config.model.hidden_size
    features = fit_features(dense_tokens, hidden_size)
    rows = space[:, 0] if settings.space == "collaborative" else features(dense_tokens)[:, :-1]
    if settings.sids_file:
        sids, last_size = with_item_level(read_sids_of(config, catalog.item_ids))
        sizes = (*(settings.codebook_size,) * settings.num_codes, last_size)
    else:
        sids, sizes = item_sids(rows, settings.codebook_size, config.train.seed)
    shares = neighbours_share_prefix(rows[:, None], sids, config.train.seed)
    described = features(dense_tokens)
    # a new item has no place among co-visits: its cluster is found by its features
    clusters = ItemClusters.of(described[:, None], sids)
    table = SidTable(sids, sizes, catalog.item_ids, clusters, shares, features)
    return Discretised(table, ItemVectors(rows, described))


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
