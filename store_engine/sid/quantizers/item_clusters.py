"""Balanced clusters of items: what finds the cluster of an item that comes later."""

from dataclasses import dataclass
from typing import ClassVar, Self

from store_engine.files.npz import ArrayForm
from store_engine.sid.clusters import assign_new, item_sids, prefix_centres
from store_engine.sid.kmeans import Vectors, nearest
from store_engine.sid.quantizers.quantizer import Codes, FitSettings, Quantizer, check_fit


@dataclass(frozen=True)
class ItemClusters(Quantizer):
    """The last clusters of `item_sids`: their codes and centres. The item's own code is no part."""

    prefixes: Codes  # (num_clusters, num_levels - 1)
    centres: Vectors  # (num_clusters, num_vectors * dim)

    prefix = "clusters_"
    forms: ClassVar = {"prefixes": ArrayForm("iu", 2, True), "centres": ArrayForm("f", 2, True)}

    def __post_init__(self) -> None:
        """Checks that the arrays fit each other.

        Raises:
            ValueError: They do not.
        """
        if len(self.prefixes) != len(self.centres):
            raise ValueError("prefixes and centres do not fit each other")
        if not 0 <= self.prefixes.min() <= self.prefixes.max() < 1 << 16:
            raise ValueError("a prefix holds what is no code")

    @classmethod
    def fit(cls, vectors: Vectors, settings: FitSettings) -> Self:
        """Clusters the items; `num_codes`, `pca_dim` and `iterations` are not heeded."""
        check_fit(vectors, settings._replace(codebook_size=1))
        joined = vectors.reshape(len(vectors), -1)
        return cls.of(vectors, item_sids(joined, settings.codebook_size, settings.seed)[0])

    @classmethod
    def of(cls, vectors: Vectors, sids: Codes) -> Self:
        """Takes the clusters of SIDs that there are.

        Args:
            vectors: (num_items, num_vectors, dim) float32, what the SIDs were made of.
            sids: (num_items, num_levels) int32, of `item_sids`.
        """
        return cls(*prefix_centres(vectors.reshape(len(vectors), -1), sids))

    def encode(self, vectors: Vectors) -> Codes:
        """Finds the nearest cluster, with or without room: (num_items, num_levels - 1) int32."""
        return self.nearest(vectors)[0]

    def nearest(self, vectors: Vectors) -> tuple[Codes, Vectors]:
        """Finds the nearest cluster of each item, with or without room.

        Returns:
            Codes (num_items, num_levels - 1) int32, and squared distances (num_items,).
        """
        distances, clusters = nearest(vectors.reshape(len(vectors), -1), self.centres, 1)
        return self.prefixes[clusters[:, 0]], distances[:, 0]

    def new_sids(self, vectors: Vectors, sids: Codes, last_size: int) -> Codes:
        """Gives SIDs to new items, in the nearest cluster that has room; see `assign_new`."""
        joined = vectors.reshape(len(vectors), -1)
        return assign_new(joined, self.prefixes, self.centres, sids, last_size)
