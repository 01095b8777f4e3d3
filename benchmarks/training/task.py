"""What a process of the training benchmark learns: a model's sizes and histories."""

import importlib.util
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from store_engine.config import DataConfig, ModelConfig
from store_engine.data.load import load_dataset
from store_engine.data.packing import Document, history_windows
from store_engine.model.unified_vocabulary import UnifiedVocabulary

TEXT_VOCAB_SIZE = 49152
CODEBOOK_SIZES = (256,) * 4
BOS = 1
MAX_ITEMS = 50
HAS_DEEPSPEED, HAS_TRANSFORMERS = (
    importlib.util.find_spec(name) is not None for name in ("deepspeed", "transformers")
)
PEERS = ("transformers", "transformers_bucketed")


def _model(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int) -> ModelConfig:
    return ModelConfig(
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=64,
        intermediate_size=intermediate,
        dropout=0.0,
    )


MODELS = {
    "hidden=64,layers=1": _model(64, 1, 1, 1, 64),  # to try the benchmark itself
    "hidden=256,layers=4": _model(256, 4, 4, 4, 768),
    # SmolLM2-135M has 30 layers; with fewer the head weighs more, which favours ours
    "hidden=576,layers=6": _model(576, 6, 9, 3, 1536),
    "hidden=576,layers=30": _model(576, 30, 9, 3, 1536),
}


@dataclass(frozen=True)
class Task:
    """What one process measures."""

    provider: str
    model: str
    dtype: str
    data: str  # folder, "" draws histories
    threads: int
    num_steps: int
    histories_per_step: int
    passes: int
    device: str = "cpu"
    is_alone: bool = False  # no peer is there to compare with

    @property
    def has_deepspeed(self) -> bool:
        """Whether DeepSpeed runs the steps, or plain PyTorch."""
        return HAS_DEEPSPEED

    @property
    def case(self) -> str:
        """The case's name."""
        data = "beauty" if self.data else "drawn"
        name = f"{self.model},{data}={self.num_steps}x{self.histories_per_step},{self.dtype}"
        return name if self.has_deepspeed else f"{name},engine=torch"


def vocabulary() -> UnifiedVocabulary:
    """Text and codes."""
    return UnifiedVocabulary(TEXT_VOCAB_SIZE, CODEBOOK_SIZES)


def draw_documents(task: Task) -> list[Document]:
    """Histories as stage 2 learns them: codes of at most 50 items, one document each."""
    rng = np.random.default_rng(0)
    count = task.num_steps * task.histories_per_step
    if task.data:
        fields = ("title", "categories")
        histories = load_dataset(DataConfig("files", task.data, text_fields=fields)).histories
        windows = history_windows(histories.offsets, MAX_ITEMS, None)
        num_items = np.array([end - begin for begin, end in windows])
        num_items = num_items[rng.permutation(len(num_items))[:count]]
    else:  # most are short, a few are long: quartiles 5, 6, 9, one in a hundred has 45
        num_items = np.minimum(4 + rng.lognormal(0.9, 1.2, count).astype(int), MAX_ITEMS)
    to_ids = vocabulary().to_ids
    documents = []
    for length in num_items:
        sids = rng.integers(0, CODEBOOK_SIZES, (length, len(CODEBOOK_SIZES)))
        codes = to_ids(sids).ravel()
        documents.append(Document(np.r_[BOS, codes[:-1]], codes, 0))
    return documents


def split_steps(task: Task, documents: list[Document]) -> list[list[Document]]:
    """The documents of each step: as many each, or sorted and cut to nearly equal tokens."""
    if task.provider != "transformers_bucketed":
        size = task.histories_per_step
        return [documents[i : i + size] for i in range(0, len(documents), size)]
    ordered = sorted(documents, key=lambda d: len(d.tokens))
    ends = np.cumsum([len(d.tokens) for d in ordered])
    cuts = np.searchsorted(ends, np.arange(1, task.num_steps) * ends[-1] / task.num_steps)
    return [ordered[a:b] for a, b in pairwise([0, *cuts.tolist(), len(ordered)])]
