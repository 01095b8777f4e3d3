"""End-to-end recommendation: histories in, ranked items out, on the same weights for everyone.

    python benchmarks/decode.py                         # random weights, hidden 256, 4 layers
    python benchmarks/decode.py --run runs/ml100k       # a trained run
    python benchmarks/decode.py --cases history=20 --dtype bfloat16 --quick

Providers:
    ours            the engine: prefill once, beams share the context, C++ beam step
    ours_torch      the same engine with backend="torch": shared context, beam step in PyTorch
    torch_fallback  plain PyTorch, as it is written today: every beam has its own copy of the keys
                    and values, reordered at each level (plain_beam.py)
    transformers    the exported Llama in `generate`, beam search constrained by transformers' own
                    prefix_allowed_tokens_fn hook over a trie of Python dicts

transformers normalises over the whole vocabulary and would rank differently, so a processor first
restricts its scores to the level's codes. In float32 all must return the same items with the same
log-probabilities; only then is anything timed.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    PrefixConstrainedLogitsProcessor,
)

# run as a script, only benchmarks/ is on the path, whose kernels.py must not hide a package's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import Options, Report, measure_together, parse_options
from benchmarks.plain_beam import PlainBeamSearch
from store_engine.config import EvalConfig, ModelConfig
from store_engine.data.catalog import Catalog
from store_engine.decoding.beam_step import Backend
from store_engine.decoding.engine import Engine
from store_engine.integrations.huggingface import export_huggingface
from store_engine.integrations.logits_processor import code_offsets
from store_engine.model.store_model import StoreModel

Result = tuple[NDArray[np.int64], NDArray[np.float32]]  # rows and logprobs, (batch, k)
PAD = 0
BOS = 1
TEXT_VOCAB_SIZE = 2048


@dataclass(frozen=True)
class Case:
    """One workload."""

    batch: int
    beam: int
    history: tuple[int, int]  # items, at least and at most

    @property
    def name(self) -> str:
        """As it stands in the CSV."""
        low, high = self.history
        items = str(low) if low == high else f"{low}-{high}"
        return f"batch={self.batch},beam={self.beam},history={items}"


CASES = [
    Case(4, 20, (20, 20)),
    Case(16, 20, (20, 20)),
    Case(16, 20, (5, 35)),
    Case(16, 50, (20, 20)),
]
QUICK_CASES = CASES[:2]


def main() -> None:
    """Checks and times every case."""
    options = parse_options("decode", __doc__, add_options)
    dtype = getattr(torch, options.extra.dtype)
    make = partial(load_engine, options.extra.run) if options.extra.run else random_engine
    engine = make(torch.float32, options.device)
    providers = make_providers(engine)
    is_exact = dtype == torch.float32  # the check is always made in float32
    timed = providers if is_exact else make_providers(make(dtype, options.device))
    report = Report("decode", options)
    for case in QUICK_CASES if options.quick else CASES:
        if options.wants(case.name):
            print(f"{case.name}: checking, then timing", file=sys.stderr)
            histories = random_histories(engine, case)
            check(case, {name: run(histories, case.beam) for name, run in providers.items()})
            time_case(report, options, case, histories, timed)
    report.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark alone."""
    parser.add_argument("--run", metavar="DIR", help="decode a trained run, not random weights")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")


def random_engine(dtype: torch.dtype, device: str) -> Engine:
    """100,000 items with 4 uniform codes of 256, and a random model that is not indifferent."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    sizes = (256,) * 4
    sids = rng.integers(0, 256, (100_000, 4), dtype=np.int32)
    config = ModelConfig(
        hidden_size=256, num_heads=4, num_kv_heads=4, head_dim=64, intermediate_size=768
    )
    model = StoreModel(config, TEXT_VOCAB_SIZE, sizes)
    torch.nn.init.normal_(model.code_head.weight, std=0.1)
    ids = tuple(map(str, range(len(sids))))
    catalog = Catalog(ids, {"title": ids})
    return Engine(
        model.to(device, dtype), catalog, sids, bos=BOS, config=EvalConfig(exclude_history=False)
    )


def load_engine(run_dir: str, dtype: torch.dtype, device: str) -> Engine:
    """The engine of a trained run."""
    return Engine.load(run_dir, dtype=dtype, device=device)


def random_histories(engine: Engine, case: Case) -> list[list[int]]:
    """Catalogue rows of each request."""
    rng = np.random.default_rng(1)
    low, high = case.history
    lengths = rng.integers(low, high + 1, case.batch)
    return [rng.integers(0, engine.catalog.num_items, n).tolist() for n in lengths]


def make_providers(engine: Engine) -> dict[str, Callable[[list[list[int]], int], Result]]:
    """Each provider as a function of histories and beam width; all return `beam` items."""

    def recommend(backend: Backend, histories: list[list[int]], beam: int) -> Result:
        return engine.recommend_rows(
            histories, beam, beam_width=beam, exclude_history=False, backend=backend
        )

    return {
        "ours": partial(recommend, "auto"),
        "ours_torch": partial(recommend, "torch"),
        "torch_fallback": PlainBeamSearch(engine, BOS),
        "transformers": TransformersBeamSearch(engine),
    }


class TransformersBeamSearch:
    """`generate` on the exported weights, constrained by its hook and a trie of Python dicts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        trie = engine.trie.item_trie
        self._offsets = code_offsets(trie, engine.model.text_vocab_size)
        self._llama: LlamaForCausalLM = export_huggingface(engine.model).to(engine.device)
        sids = engine.sids.astype(np.int64) + self._offsets
        self._tokens = torch.from_numpy(sids)
        self._items: dict[tuple[int, ...], list[int]] = {}
        self._dict_trie: dict[int, dict] = {}
        for row, sid in enumerate(sids.tolist()):
            self._items.setdefault(tuple(sid), []).append(row)
            node = self._dict_trie
            for token in sid:
                node = node.setdefault(token, {})

    def __call__(self, histories: list[list[int]], beam: int) -> Result:
        """Recommends `beam` items per history."""
        num_levels = len(self._offsets)
        prompts = [[BOS, *self._tokens[history].flatten().tolist()] for history in histories]
        longest = max(map(len, prompts))
        padded = [[PAD] * (longest - len(p)) + p for p in prompts]
        mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]

        def allowed(batch_id: int, input_ids: Tensor) -> list[int]:
            node = self._dict_trie
            for token in input_ids[longest:].tolist():
                node = node[token]
            return list(node)

        sizes = self._engine.trie.codebook_sizes
        level_softmax = LevelSoftmax(self._offsets, sizes, longest)
        out = self._llama.generate(
            torch.tensor(padded, device=self._llama.device),
            attention_mask=torch.tensor(mask, device=self._llama.device),
            max_new_tokens=num_levels,
            num_beams=beam,
            num_return_sequences=beam,
            do_sample=False,
            length_penalty=0.0,
            early_stopping=False,
            top_k=None,
            top_p=None,
            pad_token_id=PAD,
            return_dict_in_generate=True,
            output_scores=True,
            # what generate makes of prefix_allowed_tokens_fn, but after the level's softmax
            logits_processor=LogitsProcessorList(
                [level_softmax, PrefixConstrainedLogitsProcessor(allowed, beam)]
            ),
        )
        sids = out.sequences[:, longest:].view(len(histories), beam, num_levels).tolist()
        scores = out.sequences_scores.view(len(histories), beam).float().cpu().numpy()
        return self._expand(sids, scores, beam)

    def _expand(self, sids: list[list[list[int]]], scores: NDArray[np.float32], k: int) -> Result:
        """All items of each SID, in row order, until there are k."""
        rows = np.full((len(sids), k), -1, dtype=np.int64)
        logprobs = np.full((len(sids), k), -np.inf, dtype=np.float32)
        for i, found in enumerate(sids):
            groups = [self._items[tuple(sid)] for sid in found]
            rows[i] = [row for group in groups for row in group][:k]
            logprobs[i] = scores[i].repeat([len(group) for group in groups])[:k]
        return rows, logprobs


class LevelSoftmax(LogitsProcessor):
    """Renormalises log-probabilities within the codes of the level that is being generated."""

    def __init__(self, offsets: list[int], sizes: list[int], prompt_length: int) -> None:
        self._offsets, self._sizes, self._prompt_length = offsets, sizes, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(num_sequences, vocab_size) -> the same, -inf outside the level."""
        level = input_ids.shape[1] - self._prompt_length
        codes = slice(self._offsets[level], self._offsets[level] + self._sizes[level])
        constrained = torch.full_like(scores, -torch.inf)
        constrained[:, codes] = scores[:, codes].log_softmax(-1)
        return constrained


def check(case: Case, results: dict[str, Result], atol: float = 1e-3) -> None:
    """Refuses to go on unless all providers agree.

    Log-probabilities must be equal rank by rank to `atol`, and so must the items, but where two
    neighbours are closer than that.

    Raises:
        AssertionError: They do not.
    """
    rows, logprobs = results["ours"]
    gap = np.abs(np.diff(logprobs, axis=1)) > 2 * atol
    edge = np.ones((len(rows), 1), dtype=bool)
    is_clear = np.hstack([edge, gap]) & np.hstack([gap, ~edge])
    for name, (other_rows, other_logprobs) in results.items():
        error = np.abs(other_logprobs - logprobs).max()
        assert error < atol, f"{case.name}: {name} differs from ours by {error:.2e}"
        same = (rows == other_rows) | ~is_clear
        assert same.all(), f"{case.name}: {name} returns other items than ours"
    assert is_clear.mean() > 0.5, "the scores are too close to compare items"


def time_case(
    report: Report,
    options: Options,
    case: Case,
    histories: list[list[int]],
    providers: dict[str, Callable[[list[list[int]], int], Result]],
) -> None:
    """Adds latency, requests per second and the ratios of one case."""
    dtype = options.extra.dtype
    runs = {name: partial(run, histories, case.beam) for name, run in providers.items()}
    for name, latency in measure_together(runs, options).items():
        report.add(name, case.name, "latency_ms", "ms", latency, dtype)
        rate = 1e3 * case.batch / latency.p50
        report.add(name, case.name, "requests_per_s", "1/s", rate, dtype)
    for name in providers:
        if name != "ours":
            report.add_ratio("ours", name, case.name, "latency_ms")


if __name__ == "__main__":
    main()
