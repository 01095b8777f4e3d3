"""End-to-end recommendation: histories in, ranked items out, on the same weights for everyone.

    python benchmarks/decode.py                            # hidden 256, 4 layers, float32
    python benchmarks/decode.py --quick                    # the same, few repetitions
    python benchmarks/decode.py --cases model=smollm2      # SmolLM2-135M's shape, bfloat16
    python benchmarks/decode.py --cases levels=8           # a sparse catalogue, forced suffixes
    python benchmarks/decode.py --cases decoder=heads      # no pass of the model per beam
    python benchmarks/decode.py --cases .                  # every case
    python benchmarks/decode.py --run runs/ml100k          # a trained run

Providers:
    ours            the engine: prefill once, beams share the context; with the backend that "auto"
                    chooses: on a CPU the C++ beam step
    ours_cpp, ours_torch, ours_triton, ours_graph
                    the same engine with another backend, where that runs on the device
    torch_fallback  plain PyTorch: each beam has its own copy of the cache, reordered at each level
                    (store_engine/evaluation/plain_beam.py)
    transformers    the exported Llama in `generate`, constrained by transformers' prefix hook over
                    a trie of Python dicts (transformers_beam.py), if it is installed
    vllm            the exported folder in vLLM's beam search, held to the catalogue by our logits
                    processor (peers/vllm_beam.py), if it is installed: `make vllm` makes an
                    environment that has it. Its prefix cache is empty when a search begins
    flashrec        FlashRec, where it is installed, on a GPU: model=qwen3 and a beam that is half a
                    codebook wide; its scores are compared but for a number of each request
                    (peers/flashrec_beam.py)
    floor           the lower bound of a search by levels: the forward passes of `ours` alone,
                    prefill, then each level's beams, with the level's head; no trie, no search.
                    decoder=heads: prefill and the heads. Its h100_roofline_ms is by formula:
                    weights and contexts read once per pass, or the products; share_of_roofline of
                    the others is that of the GPU that ran them, by its data sheet
    ours_exact      every item of the catalogue scored, at batch 1; for heads of plain codes, all
                    items ranked in one scan
    ours_top10, ours_top10_evidence
                    with --run, where the run has item-item evidence: 10 items of the LLM alone, and
                    of both; all other providers leave the evidence out

All searches must return the same items with the same log-probabilities in float32; only then is
anything timed. In bfloat16 they must stay near the float32 result. The engine's prefix cache is
off: every repetition computes all of every history. (prefix_reuse.py has it on.)

decoder=heads is the same catalogue and the same transformer with a head of 128 units per level on
the last state. form=items is what configs/presets/ours.toml trains: one position per item, 128
clusters, then the item itself; its histories are as many items, a quarter of the tokens.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

# run as a script, only benchmarks/ is on the path, whose kernels.py must not hide a package's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.data_sheet import H100, data_sheet
from benchmarks.harness import Options, Report, measure_together, parse_options
from benchmarks.peers.searches import SHIFTED, Search, peer_searches
from benchmarks.search_bound import Load, search_bound_ms
from store_engine.catalog.item_slots import ItemSlots
from store_engine.config import DecodingConfig, ModelConfig
from store_engine.data.catalog import Catalog
from store_engine.decoding.backends import BackendName
from store_engine.decoding.engine import Engine
from store_engine.evaluation.plain_beam import PlainBeamSearch, Result, history_tokens
from store_engine.inference.cache_attention import TreeAttention
from store_engine.inference.decoding_model import DecodingModel, prepare_for_decoding
from store_engine.inference.kv_cache import KVCache
from store_engine.inference.prefill import prefill
from store_engine.inference.prefill_batch import PrefillBatch
from store_engine.kernels.trie_topk import Normalize
from store_engine.model.item_rows import ItemTokens
from store_engine.model.store_model import StoreModel
from store_engine.sid.item_tokens import slot_order

Dtype = Literal["float32", "bfloat16"]
BOS = 1
TOP = 10  # items wanted where evidence is added
NUM_CHECKED = 2  # requests of a batch whose items are compared


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
NUM_FEATURES, HEAD_SIZE, NUM_CLUSTERS = 64, 128, 128


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


def main() -> None:
    """Checks and times every case."""
    options = parse_options("decode", __doc__, add_options)
    report = Report("decode", options)
    table = DEFAULT_CASES + MORE_CASES if options.cases.pattern else DEFAULT_CASES
    for same, cases in groupby(
        wanted_cases(options, table), lambda c: replace(c, batch=0, history=(0, 0))
    ):
        engine = exact = make_engine(options, same, "float32")
        if same.dtype != "float32":
            engine = make_engine(options, same, same.dtype)
        searches = make_searches(engine, same.beam)
        truth = searches
        if engine is not exact:
            truth = make_searches(exact, same.beam, is_timed=False)
        for case in cases:
            print(f"{case.name}: checking, then timing", file=sys.stderr)
            histories = random_histories(engine, case)
            check(case, histories[:NUM_CHECKED], truth, searches)
            time_case(report, options, case, histories, engine, searches)
    report.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    """The option of this benchmark alone."""
    parser.add_argument("--run", metavar="DIR", help="decode a trained run, not random weights")


def wanted_cases(options: Options, cases: list[Case]) -> list[Case]:
    """The cases that --cases selects, with --run's model in the place of theirs."""
    if options.extra.run:
        cases = [replace(case, model=Path(options.extra.run).name) for case in cases]
    return [case for case in dict.fromkeys(cases) if options.wants(case.name)]


def make_engine(options: Options, case: Case, dtype: Dtype) -> Engine:
    """The engine of a case: the same weights in every dtype, and no prefix cache."""
    run_dir, device = options.extra.run, options.device
    if run_dir:
        return Engine.load(run_dir, device=device, dtype=dtype, prefix_cache_mib=0)
    return random_engine(case, device, dtype)


def random_engine(case: Case, device: str, dtype: Dtype) -> Engine:
    """A random catalogue, and a random model that is not indifferent."""
    shape, catalog = SHAPES[case.model], case.catalog
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    sizes = (catalog.codebook_size,) * catalog.num_levels
    sids = rng.integers(0, sizes[0], (catalog.num_items, len(sizes)), dtype=np.int32)
    if case.form == "items":
        labels = np.sort(rng.integers(0, NUM_CLUSTERS, catalog.num_items))
        index = np.arange(catalog.num_items) - np.searchsorted(labels, labels)
        sids = rng.permutation(np.column_stack([labels, index]).astype(np.int32))
        sizes = (NUM_CLUSTERS,)
    items = None
    if case.form != "codes":
        codes = sids[slot_order(sids)][:, : len(sizes)]
        is_whole = case.form == "items"
        items = ItemTokens(codes, NUM_FEATURES * is_whole, is_whole, HEAD_SIZE)
    model = StoreModel(shape.config, shape.text_vocab_size, sizes, items=items)
    torch.nn.init.normal_(model.code_head.weight, std=0.1)
    if model.item_rows is not None:
        torch.nn.init.normal_(model.item_rows.residual, std=0.1)
    ids = tuple(map(str, range(len(sids))))
    config = DecodingConfig(normalize=case.normalize, prefix_cache_mib=0)
    model = model.to(device, getattr(torch, dtype))
    return Engine(model, Catalog(ids, {"title": ids}), sids, bos=BOS, config=config)


def random_histories(engine: Engine, case: Case) -> list[list[int]]:
    """Catalogue rows of each request."""
    rng = np.random.default_rng(1)
    low, high = case.history
    lengths = rng.integers(low, high + 1, case.batch)
    return [rng.integers(0, engine.catalog.num_items, n).tolist() for n in lengths]


def recommend(
    engine: Engine, backend: BackendName, histories: list[list[int]], beam: int
) -> Result:
    """The engine's search of the model alone: `beam` items."""
    return engine.recommend_rows(
        histories, beam, beam_width=beam, exclude_history=False, backend=backend, evidence=False
    )


def other_backends(device: torch.device) -> list[BackendName]:
    """The backends that run on the device, but for the one that "auto" is there."""
    is_cuda = device.type == "cuda"
    names: tuple[BackendName, ...] = get_args(BackendName)
    left_out = ("auto",) if is_cuda else ("auto", "cpp", "triton", "graph")
    return [backend for backend in names if backend not in left_out]


def make_searches(engine: Engine, beam: int, *, is_timed: bool = True) -> dict[str, Search]:
    """Each search as a function of histories and that beam width; all return `beam` items.

    What is not to be timed need not be all: engines of others are left out.
    """
    searches: dict[str, Search] = {"ours": partial(recommend, engine, "auto")}
    for backend in other_backends(engine.device):
        searches[f"ours_{backend}"] = partial(recommend, engine, backend)
    searches["torch_fallback"] = PlainBeamSearch(engine, BOS)
    return searches | peer_searches(engine, BOS, beam, can_start=is_timed)


def make_lower_bound(engine: Engine, histories: list[list[int]], beam: int) -> Callable[[], object]:
    """The forward passes that a search by levels cannot do without, everything else prepared."""
    model, trie, batch = prepare_for_decoding(engine.model), engine.trie, len(histories)
    rows = [np.array(history) for history in histories]
    contexts = PrefillBatch.from_histories(rows, history_tokens(engine), BOS)
    if model.has_heads:
        return make_heads_bound(model, engine, contexts, beam)
    widths = [min(beam, size) for size in trie.level_sizes[1:-1]]
    cache = KVCache(model.config, engine.device, model.dtype)
    cache.start(contexts.lengths, sum(widths))
    lengths, num_seen = cache.device_lengths, 0
    blocks = []
    for level, width in enumerate(widths):
        num_seen += width
        codes = torch.zeros(batch * width, dtype=torch.int64, device=engine.device)
        positions = (lengths + level).repeat_interleave(width)
        itself = torch.arange(num_seen - width, num_seen, device=engine.device)
        ancestors = itself[:, None].expand(-1, level + 1)
        ancestors = ancestors.expand(batch, -1, -1)
        attend = TreeAttention(cache, ancestors, begin=num_seen - width)
        blocks.append((codes, positions, attend))

    @torch.inference_mode()
    def run() -> None:
        model.level_logits(prefill(model, cache, contexts), 0)
        for level, (codes, positions, attend) in enumerate(blocks, 1):
            hidden = model.transformer(model.embed_codes(codes, level - 1), positions, attend)
            model.level_logits(hidden, level)

    return run


def make_heads_bound(
    model: DecodingModel, engine: Engine, contexts: PrefillBatch, beam: int
) -> Callable[[], object]:
    """The same, where every level is read from the last state: prefill and the heads."""
    trie, sids = engine.trie, engine.sids
    assert engine.model.items is not None
    if engine.model.items.have_rows or engine.model.items.are_read:
        model = model.with_slots(ItemSlots.of(engine.model, sids, trie.codebook_sizes[-1])[0])
    prefixes = torch.from_numpy(sids[:beam, 0]).long().to(engine.device)
    prefixes = prefixes.expand(len(contexts.lengths), -1)
    cache = KVCache(model.config, engine.device, model.dtype)
    cache.start(contexts.lengths, 0)

    @torch.inference_mode()
    def run() -> None:
        state = prefill(model, cache, contexts)
        for level in range(trie.num_levels):
            model.logits(model.head_states(state, level)[:, None], level, prefixes)

    return run


def check(
    case: Case,
    histories: list[list[int]],
    truth: dict[str, Search],
    searches: dict[str, Search],
    atol: float = 1e-3,
) -> None:
    """Refuses to go on unless all searches agree.

    In float32, log-probabilities must be equal rank by rank to `atol`, and so must the items, but
    where two neighbours are closer than that. In bfloat16 a beam may go another way where two
    prefixes are close, so most items must be those of float32, and no search may be off by more
    than twice what plain PyTorch is.

    Raises:
        AssertionError: They do not agree.
    """
    results = {name: run(histories, case.beam) for name, run in truth.items()}
    rows, logprobs = results["ours"]
    gap = np.abs(np.diff(logprobs, axis=1)) > 2 * atol
    edge = np.ones((len(rows), 1), dtype=bool)
    is_clear = np.hstack([edge, gap]) & np.hstack([gap, ~edge])
    assert is_clear.mean() > 0.5, "the scores are too close to compare items"
    for name, (other_rows, other_logprobs) in results.items():
        error = np.abs(other_logprobs - logprobs).max()
        assert error < atol, f"{case.name}: {name} differs from ours by {error:.2e}"
        same = (rows == other_rows) | ~is_clear
        assert same.all(), f"{case.name}: {name} returns other items than ours"
    if searches is not truth:
        errors = {}
        for name, run in searches.items():
            other_rows, other_logprobs = run(histories, case.beam)
            is_same = other_rows[:, :, None] == rows[:, None]  # (batch, theirs, ours)
            assert is_same.any(2).mean() > 0.5, f"{case.name}: {name} returns other items"
            difference = other_logprobs[:, :, None] - logprobs[:, None]
            if name in SHIFTED:
                matched = np.where(is_same, difference, np.nan)
                difference -= np.nanmedian(matched, axis=(1, 2), keepdims=True)
            errors[name] = np.abs(difference[is_same]).max()
        for name, error in errors.items():
            assert error < 2 * errors["torch_fallback"] + 0.05, f"{case.name}: {name}: {errors}"


def time_case(
    report: Report,
    options: Options,
    case: Case,
    histories: list[list[int]],
    engine: Engine,
    searches: dict[str, Search],
) -> None:
    """Adds latency, requests per second and the ratios of one case."""
    runs: dict[str, Callable[[], object]] = {
        name: partial(search, histories, case.beam) for name, search in searches.items()
    }
    if case.normalize == "codebook":  # otherwise the number of passes depends on the items found
        runs["floor"] = make_lower_bound(engine, histories, case.beam)
    if case.batch == 1 or case.form == "heads":  # heads: all items ranked in one scan
        runs["ours_exact"] = partial(
            engine.recommend_rows,
            histories,
            case.beam,
            exclude_history=False,
            exact=True,
            evidence=False,
        )
    if engine._evidence is not None:  # of a run
        for name, evidence in (("ours_top10", False), ("ours_top10_evidence", True)):
            runs[name] = partial(
                engine.recommend_rows, histories, TOP, beam_width=case.beam, evidence=evidence
            )
    sheet = data_sheet(options.device)
    num_tokens = 1 + history_tokens(engine).shape[1] * sum(case.history) / 2
    load = Load(case.batch, case.beam, num_tokens)
    for name, latency in measure_together(runs, options).items():
        report.add(name, case.name, "latency_ms", "ms", latency, case.dtype)
        rate = 1e3 * case.batch / latency.p50
        report.add(name, case.name, "requests_per_s", "1/s", rate, case.dtype)
        if sheet is not None:
            share = search_bound_ms(engine, load, sheet) / latency.p50
            report.add(name, case.name, "share_of_roofline", "", share, case.dtype)
    bound = search_bound_ms(engine, load, H100)
    report.add("floor", case.name, "h100_roofline_ms", "ms", bound, case.dtype)
    for name in runs:
        if name != "ours":
            report.add_ratio("ours", name, case.name, "latency_ms")
    if "ours_top10_evidence" in runs:
        report.add_ratio("ours_top10", "ours_top10_evidence", case.name, "latency_ms")


if __name__ == "__main__":
    main()
