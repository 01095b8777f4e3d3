"""What each stage starts from: a backbone, or the weights of the stage before."""

from collections.abc import Iterator

import torch
from torch import Tensor

from store_engine.config import Config
from store_engine.model.backbones.backbone import Backbone
from store_engine.model.transformer import INIT_STD
from store_engine.sid.item_features import ItemVectors
from store_engine.sid.item_tokens import code_sizes
from store_engine.sid.sid_table import SidTable
from store_engine.training.item_start import item_weights


def initial_tokenizer_weights(config: Config, text_vocab_size: int) -> Iterator[tuple[str, Tensor]]:
    """Reads what stage 1 starts from: the backbone, if there is one.

    The palette looks like text embeddings, and the dense tokens are pasted in at their size.

    Yields:
        Names of `DenseTokenizer`'s parameters and tensors, each read when its turn comes.
    """
    if not config.model.backbone:
        return
    text_rms = 0.0
    for name, tensor in Backbone(config.model.backbone).weights(text_vocab_size):
        if name == "text_embedding.weight":
            centre, spread = _scale(tensor)
            text_rms = float(tensor.float().square().mean().sqrt())
            generator = torch.Generator().manual_seed(config.train.seed)
            shape = (config.tokenizer.num_codes, len(centre))
            yield "palette.weight", centre + spread * torch.randn(shape, generator=generator)
        if name == "transformer.norm.weight":  # what comes out of it has the size of its weights
            norm_rms = tensor.float().square().mean().sqrt()
            gain = text_rms / norm_rms if norm_rms > 0 else torch.ones(())
            yield "paste_gain.weight", gain.view(1)
        yield f"model.{name}", tensor


def initial_recommender_weights(
    config: Config,
    tokenizer_weights: dict[str, Tensor],
    table: SidTable,
    num_labels: int = 0,
    vectors: ItemVectors | None = None,
) -> dict[str, Tensor]:
    """Makes what stage 2 starts from: the LLM of stage 1, and code embeddings from the centroids.

    They have the scale of embeddings from scratch, or of the backbone's text embeddings. A
    backbone's final norm has a scale of its own too, so there the codes' head begins at 0: every
    code is as likely as the others.

    Args:
        config: The run's config.
        tokenizer_weights: What stage 1 left.
        table: The items' codes, and the quantizer that made them.
        num_labels: Codes behind those of the items, which the tasks need for themselves.
        vectors: Of items that are their own last code.

    Returns:
        Tensors by the names of `StoreModel`; what is missing keeps its random initialisation.
    """
    prefix = "model."
    weights = {
        n.removeprefix(prefix): t for n, t in tokenizer_weights.items() if n.startswith(prefix)
    }
    if vectors is not None:
        return weights | item_weights(config, table, vectors, num_labels)
    num_codes = sum(code_sizes(table)) + num_labels
    centre, spread = torch.zeros(config.model.hidden_size), INIT_STD
    if config.model.backbone:
        centre, spread = _scale(weights["text_embedding.weight"])
        weights["code_head.weight"] = torch.zeros(num_codes, len(centre))
    generator = torch.Generator().manual_seed(config.train.seed)
    unit = torch.empty(0, config.model.hidden_size)
    # (num_codes, codebook_size, dim), where the codes have a place among the items' vectors
    lifted = table.quantizer.lift() if table.quantizer is not None else None
    is_from_centroids = lifted is not None and lifted.shape[2] == config.model.hidden_size
    if is_from_centroids and config.recommender.init_codes == "centroids":
        centroids = torch.from_numpy(lifted)
        unit = _with_unit_spread(centroids - centroids.mean(1, keepdim=True)).flatten(0, 1)
    elif not config.model.backbone:
        return weights
    rest = num_codes - len(unit)  # a suffix level and the labels have no centroids
    random = torch.randn(rest, config.model.hidden_size, generator=generator)
    weights["code_embedding.weight"] = centre + spread * torch.cat([unit, random])
    return weights


def _with_unit_spread(centred: Tensor) -> Tensor:
    """Scales (num_codes, codebook_size, hidden_size) to a standard deviation of 1.

    Centroids that do not differ (one code, one item, items with one text) say nothing: then there
    is nothing to scale, and no row is returned.
    """
    spread = centred.std() if centred.numel() > 1 else torch.zeros(())
    return centred / spread if spread > 0 else centred[:0]


def _scale(embeddings: Tensor) -> tuple[Tensor, float]:
    """Where embeddings lie: their mean (hidden_size,), and how far from it, by component."""
    centre = embeddings.float().mean(0)
    return centre, float((embeddings.float() - centre).std())
