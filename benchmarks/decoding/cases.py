"""The workloads of the decoding benchmark: models, catalogues and requests."""

from dataclasses import dataclass
from typing import Literal

from store_engine.config import ModelConfig
from store_engine.kernels.trie_topk import Normalize

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a model with random weights."""

    config: ModelConfig
    text_vocab_size: int


# fmt: off
SHAPES = {
    "tiny": Shape(ModelConfig(hidden_size=64, num_layers=1, num_heads=2, num_kv_heads=1,
                              head_dim=32, intermediate_size=64), 512),
    "256x4": Shape(ModelConfig(hidden_size=256, num_layers=4, num_heads=4, num_kv_heads=4,
                               head_dim=64, intermediate_size=768), 2048),
    "smollm2": Shape(ModelConfig(hidden_size=576, num_layers=30, num_heads=9, num_kv_heads=3,
                                 head_dim=64, intermediate_size=1536, rope_theta=100000.0,
                                 norm_eps=1e-5), 49152),
    "qwen3": Shape(ModelConfig(hidden_size=1024, num_layers=28, num_heads=16, num_kv_heads=8,
                               head_dim=128, intermediate_size=3072, rope_theta=1000000.0,
                               qk_norm=True), 151936),
}
# fmt: on


@dataclass(frozen=True)
class CatalogShape:
    """Items with uniform random codes."""

    num_items: int = 100_000
    num_levels: int = 4
    codebook_size: int = 256


SPARSE = CatalogShape(num_items=1_000_000, num_levels=8, codebook_size=2048)
Form = Literal["codes", "heads", "items"]


@dataclass(frozen=True)
class Case:
    """One workload."""

    model: str
    dtype: Dtype
    batch: int
    beam: int = 20
    history: tuple[int, int] = (20, 20)  # items, at least and at most
    catalog: CatalogShape = CatalogShape()
    normalize: Normalize = "codebook"
    form: Form = "codes"  # heads: of the same codes; items: read and written as wholes, by heads

    @property
    def name(self) -> str:
        """As it stands in the CSV."""
        low, high = self.history
        items = str(low) if low == high else f"{low}-{high}"
        name = f"model={self.model},dtype={self.dtype},batch={self.batch},beam={self.beam}"
        name += f",history={items}"
        if self.form != "codes":
            name += ",decoder=heads" + (",form=items" if self.form == "items" else "")
        if self.catalog == SPARSE:
            name += f",n=1e6,levels=8,codes=2048,normalize={self.normalize}"
        return name


DEFAULT_CASES = [
    Case("256x4", "float32", 4),
    Case("256x4", "float32", 16),
    Case("256x4", "bfloat16", 4),
    Case("256x4", "bfloat16", 16),
]
MORE_CASES = [
    Case("tiny", "float32", 2, 4, (3, 3), CatalogShape(1000, 4, 16)),  # to try the benchmark itself
    Case("tiny", "float32", 2, 4, (3, 3), CatalogShape(1000, 4, 16), form="heads"),
    Case("tiny", "float32", 2, 4, (3, 3), CatalogShape(1000, 4, 16), form="items"),
    *(Case("256x4", "bfloat16", n, form=form) for form in ("heads", "items") for n in (4, 16)),
    *(Case("smollm2", "bfloat16", n, form=form) for form in ("heads", "items") for n in (4, 16)),
    Case("256x4", "bfloat16", 1),
    Case("256x4", "bfloat16", 16, history=(5, 35)),
    Case("256x4", "bfloat16", 16, beam=50),
    Case("smollm2", "bfloat16", 4),
    Case("smollm2", "bfloat16", 16),
    Case("smollm2", "float32", 4),
    Case("qwen3", "bfloat16", 4, beam=128),
    Case("256x4", "bfloat16", 16, catalog=SPARSE, normalize="codebook"),
    Case("256x4", "bfloat16", 16, catalog=SPARSE, normalize="children"),
]
