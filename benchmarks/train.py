"""Training steps on real histories: ours beside transformers, same architecture, engine and dtype.

    python benchmarks/train.py --data FOLDER                 # FOLDER: Beauty's items and events
    python benchmarks/train.py --cases hidden=256 --quick    # histories as long as Beauty's, drawn
    python benchmarks/train.py --cases hidden=576,.*bfloat16 --threads 2 --passes 3
    python benchmarks/train.py --device cuda:1 --histories 512

Providers, each in a process of its own:
    ours                   packed histories, losses over each code's own level
    transformers           LlamaForCausalLM; histories padded to the longest of the batch, the loss
                           over the joint vocabulary of 49,152 text tokens and 4 x 256 codes
    transformers_bucketed  the same on sorted histories, so that a batch holds similar lengths

All learn the codes of the same histories, in as many steps, with the same DeepSpeed engine, AdamW
and threads; a step is everything from codes to updated weights. Checked before any timing: given
the same weights, histories and joint vocabulary, our loss equals LlamaForCausalLM's. Where
DeepSpeed is not installed all train in plain PyTorch, and the case's name says so; where
transformers is not, ours is alone and unchecked.

    tokens_per_s     real tokens, never padding
    extra_peak_mib   the peak memory, of the process or on the GPU, above weights, optimiser and its
                     gradients, which were there before: activations, logits, temporaries
    share_of_peak    useful FLOPs over the most that the device can do in bf16: of a known GPU its
                     data sheet's (MFU), else those of the largest products of the same process;
                     both as training itself logs them (store_engine/training/throughput.py)
"""

import argparse
import contextlib
import importlib.util
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

# run as a script, only benchmarks/ is on the path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import ROOT, Options, Quantiles, Report, parse_options
from benchmarks.memory import ExtraPeak
from store_engine.config import DataConfig, ModelConfig, TrainConfig
from store_engine.data.load import load_dataset
from store_engine.data.packing import Document, history_windows, pack
from store_engine.kernels.linear_cross_entropy import linear_cross_entropy
from store_engine.model.attention import PackedSequences
from store_engine.model.store_model import StoreModel
from store_engine.model.targets import Targets
from store_engine.model.unified_vocabulary import UnifiedVocabulary
from store_engine.training.host_batch import HostBatch
from store_engine.training.throughput import head_columns, peak_flops, training_flops

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
    def case(self) -> str:
        """The case's name."""
        data = "beauty" if self.data else "drawn"
        name = f"{self.model},{data}={self.num_steps}x{self.histories_per_step},{self.dtype}"
        return name if HAS_DEEPSPEED else f"{name},engine=torch"


# -------------------------------------------------------------------------------------- histories


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
    vocabulary = UnifiedVocabulary(TEXT_VOCAB_SIZE, CODEBOOK_SIZES)
    documents = []
    for length in num_items:
        sids = rng.integers(0, CODEBOOK_SIZES, (length, len(CODEBOOK_SIZES)))
        codes = vocabulary.to_ids(sids).ravel()
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


# ---------------------------------------------------------------------------------------- models


class PaddedLlama(nn.Module):
    """LlamaForCausalLM of our model's sizes and weights, on padded batches; its head is tied."""

    def __init__(self, ours: StoreModel) -> None:
        super().__init__()
        from store_engine.integrations.huggingface import export_huggingface

        self.llama = export_huggingface(ours)
        self.llama.config.tie_word_embeddings = True
        self.llama.lm_head.weight = self.llama.model.embed_tokens.weight

    def forward(self, tokens: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        """Its own mean loss over the joint vocabulary."""
        out = self.llama(tokens, attention_mask=mask, labels=targets, shift_labels=targets)
        loss: Tensor = out.loss
        return loss


class PackedStoreModel(nn.Module):
    """Our model; with plain targets one softmax over the joint vocabulary, as transformers does."""

    def __init__(self, model: StoreModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, sequences: PackedSequences, targets: Targets | Tensor
    ) -> Tensor:
        """The mean loss."""
        if not isinstance(targets, Tensor):
            losses: Tensor = self.model(tokens, sequences, targets)
            return losses.mean()
        hidden = self.model.hidden_states(self.model.embed(tokens), sequences)
        weight = torch.cat([self.model.text_head.weight, self.model.code_head.weight])
        return linear_cross_entropy(hidden, weight, targets)


def build_model(task: Task) -> StoreModel:
    """Our model with its code head tied, as the peer's is."""
    torch.manual_seed(0)
    model = StoreModel(MODELS[task.model], TEXT_VOCAB_SIZE, CODEBOOK_SIZES)
    model.code_head.weight = model.code_embedding.weight
    return model.to(task.device, getattr(torch, task.dtype))


def packed_batch(documents: list[Document], device: str, is_joint: bool = False) -> tuple[Any, ...]:
    """What `PackedStoreModel` reads."""
    batch = pack(documents)
    vocabulary = UnifiedVocabulary(TEXT_VOCAB_SIZE, CODEBOOK_SIZES)
    targets = batch.targets if is_joint else Targets.of(batch.targets, vocabulary)
    parts = (batch.tokens, PackedSequences(batch.cu_seqlens), targets)
    moved: tuple[Any, ...] = HostBatch(parts, torch.device(device)).to_device()
    return moved


def padded_batch(documents: list[Document], device: str) -> tuple[Any, ...]:
    """What `PaddedLlama` reads."""

    def pad(arrays: list[Any], value: int) -> Tensor:
        tensors = [torch.from_numpy(x) for x in arrays]
        padded = nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
        return padded.to(device)

    tokens = pad([d.tokens for d in documents], 0)
    mask = pad([np.ones_like(d.tokens) for d in documents], 0)
    return tokens, mask, pad([d.targets for d in documents], -100)


def check_losses(task: Task) -> None:
    """Raises AssertionError unless our loss over the joint vocabulary is the peer's."""
    documents = draw_documents(task)[:8]
    model = build_model(task)
    with torch.no_grad():
        ours = PackedStoreModel(model)(*packed_batch(documents, task.device, is_joint=True))
        theirs = PaddedLlama(model).to(task.device)(*padded_batch(documents, task.device))
    atol = 1e-4 if task.dtype == "float32" else 2e-2
    torch.testing.assert_close(ours.float(), theirs.float(), atol=atol, rtol=0)


# ------------------------------------------------------------------------------------ measurement


def useful_flops(task: Task, documents: list[Document]) -> float:
    """FLOPs of one pass that no implementation of our loss can do without."""
    batch = pack(documents)
    vocabulary = UnifiedVocabulary(TEXT_VOCAB_SIZE, CODEBOOK_SIZES)
    columns = head_columns(Targets.of(batch.targets, vocabulary), vocabulary)
    return training_flops(MODELS[task.model], PackedSequences(batch.cu_seqlens), columns)


class PlainEngine:
    """What DeepSpeed's engine does for one process, in plain PyTorch."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module.train()
        self._optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)

    def __call__(self, *batch: Any) -> Tensor:
        """The loss."""
        loss: Tensor = self._module(*batch)
        return loss

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients."""
        loss.backward()

    def step(self) -> None:
        """Clips the gradients, updates the weights and drops the gradients."""
        nn.utils.clip_grad_norm_(self._module.parameters(), TrainConfig().grad_clip)
        self._optimizer.step()
        self._optimizer.zero_grad()


@contextlib.contextmanager
def engine_of(task: Task, module: nn.Module) -> Iterator[Any]:
    """DeepSpeed's engine, or the plain one where DeepSpeed is not installed."""
    if not HAS_DEEPSPEED:
        yield PlainEngine(module)
        return
    # DeepSpeed takes a GPU where there is one, unless this says otherwise
    os.environ["DS_ACCELERATOR"] = torch.device(task.device).type
    from store_engine.training.distributed.deepspeed_setup import initialize, read_ds_config
    from store_engine.training.distributed.process_group import process_group

    train = TrainConfig(dtype=task.dtype)  # type: ignore[arg-type]
    with process_group():
        engine = initialize(
            module, read_ds_config(ROOT / "configs" / "zero0.json", train), train, lr=1e-4
        )
        engine.train()
        yield engine


class Measured(NamedTuple):
    """What a process reports."""

    durations: list[float]  # seconds of each pass over the histories
    extra_peak_mib: float
    num_tokens: int  # of a pass
    num_positions: int  # of a pass, padding included
    flops: float  # useful ones of a pass
    peak_flops: float  # bf16 products of the device, per second


def see_one_gpu(device: str) -> str:
    """Hides all GPUs but one from this process: DeepSpeed takes the first that it sees.

    Args:
        device: "cpu", "cuda" or "cuda:N", the number of a GPU that is visible.

    Returns:
        The device's name from now on.
    """
    place = torch.device(device)
    if place.index is None:
        return device
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[place.index] if visible else str(place.index)
    return place.type


def measure(task: Task) -> Measured:
    """Trains in this process, which has used no GPU yet."""
    task = replace(task, device=see_one_gpu(task.device))
    torch.set_num_threads(task.threads)
    if task.provider == "ours" and not task.is_alone:  # once for the case
        check_losses(task)
    documents = draw_documents(task)
    steps = split_steps(task, documents)
    module: nn.Module = PackedStoreModel(build_model(task))
    make_batch: Callable[[list[Document], str], tuple[Any, ...]] = packed_batch
    if task.provider != "ours":
        module, make_batch = PaddedLlama(build_model(task)).to(task.device), padded_batch
    with engine_of(task, module) as engine:

        def step(documents: list[Document]) -> None:
            loss = engine(*make_batch(documents, task.device))
            engine.backward(loss)
            engine.step()
            if not np.isfinite(loss.item()):  # waits for the device
                raise FloatingPointError(f"loss {loss.item()}")

        step(documents[:1])  # makes the optimiser's state
        memory = ExtraPeak(task.device)
        step(steps[0])  # warms up
        durations = []
        for _ in range(task.passes):
            began = time.perf_counter()
            for part in steps:
                step(part)
            durations.append(time.perf_counter() - began)
        return Measured(
            durations,
            memory.mib(),
            sum(len(d.tokens) for d in documents),
            sum(len(part) * max(len(d.tokens) for d in part) for part in steps),
            useful_flops(task, documents),
            peak_flops(torch.bfloat16, torch.device(task.device)),
        )


# ------------------------------------------------------------------------------------------ main


def run_case(task: Task, report: Report) -> None:
    """Measures every provider of a case, each in a fresh process."""
    case, medians, peaks = task.case, {}, {}
    peers = () if task.is_alone else PEERS
    for provider in (*peers, "ours"):
        print(f"{case}: {provider}", file=sys.stderr)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            got = pool.apply(measure, (replace(task, provider=provider),))
        rates = got.num_tokens / np.array(got.durations)
        rate = Quantiles(*np.quantile(rates, (0.2, 0.5, 0.8)).tolist())
        medians[provider], peaks[provider] = rate.p50, got.extra_peak_mib
        report.add(provider, case, "tokens_per_s", "1/s", rate, task.dtype)
        report.add(provider, case, "extra_peak_mib", "MiB", got.extra_peak_mib, task.dtype)
        if provider == "ours":
            share = rate.p50 / got.num_tokens * got.flops / got.peak_flops
            report.add("floor", case, "bf16_gflops", "GFLOP/s", got.peak_flops / 1e9, task.dtype)
            report.add(provider, case, "share_of_peak", "", share, task.dtype)
        else:
            real = got.num_tokens / got.num_positions
            report.add(provider, case, "share_of_real_tokens", "", real, task.dtype)
    for other in peers:
        ratio, memory = medians["ours"] / medians[other], peaks["ours"] / peaks[other]
        report.add("ours", case, f"ratio_vs_{other}", "x", ratio, task.dtype)
        report.add("ours", case, f"memory_vs_{other}", "x", memory, task.dtype)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that only this benchmark has."""
    parser.add_argument("--data", default="", metavar="FOLDER", help="Beauty's, else drawn ones")
    parser.add_argument("--steps", type=int, default=4, help="per pass")
    parser.add_argument("--histories", type=int, default=64, help="per step")
    parser.add_argument("--passes", type=int, default=2, help="over all histories, timed")
    parser.add_argument("--alone", action="store_true", help="time ours alone, unchecked")


def main() -> None:
    """Runs what the command line asks for."""
    options: Options = parse_options("train", __doc__, add_options)
    extra = options.extra
    sizes: tuple[int, int, int] = (extra.steps, extra.histories, extra.passes)
    if options.quick:
        sizes = (2, 8, 1)
    is_alone = extra.alone or not HAS_TRANSFORMERS
    rest = (options.threads, *sizes, options.device, is_alone)
    report = Report("train", options)
    for model in MODELS:
        # not worth the time, unless it is asked for
        is_left_out = "layers=30" in model if options.quick else "hidden=64" in model
        for dtype in ("bfloat16", "float32"):
            task = Task("", model, dtype, extra.data, *rest)
            if options.wants(task.case) and not (is_left_out and not options.cases.pattern):
                run_case(task, report)
    report.finish()


if __name__ == "__main__":
    main()
