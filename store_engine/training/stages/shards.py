"""Whether the steps of both stages are large enough for all ranks."""

import torch

from store_engine.config import Config
from store_engine.runs.open_run import RunData
from store_engine.sid.clusters import num_cluster_levels
from store_engine.sid.item_features import FeatureMap
from store_engine.sid.sid_table import SidTable
from store_engine.training.stages.recommender import RecommenderStage
from store_engine.training.stages.tokenizer import TokenizerStage


def check_shards(config: Config, data: RunData, stage: TokenizerStage, num_shards: int) -> None:
    """Refuses, before anything is trained, steps too small for all ranks and micro-batches.

    Args:
        config: The run's config.
        data: The run's data.
        stage: Stage 1; what stage 2 will be is estimated.
        num_shards: Ranks times micro-batches.

    Raises:
        InputError: A step of either stage is.
    """
    stage.check_shards(num_shards)
    settings, num_items = config.tokenizer, data.catalog.num_items
    # what an item's SID will be is not known yet, but how long: it decides what a step holds
    num_levels, features = settings.num_codes + (settings.collisions == "suffix"), None
    if settings.last_level == "item":
        num_clusters = num_cluster_levels(num_items, settings.codebook_size)
        num_levels = (settings.num_codes if settings.sids_file else num_clusters) + 1
        features = FeatureMap(torch.zeros(1).numpy(), torch.zeros(1, 1).numpy())
    sids = torch.zeros(num_items, num_levels, dtype=torch.int32).numpy()
    sizes = (settings.codebook_size,) * num_levels
    table = SidTable(sids, sizes, data.catalog.item_ids, features=features)
    planned = RecommenderStage(
        config, data.texts, len(data.vocabulary), data.train, table, data.train_shown
    )
    planned.check_shards(num_shards)
