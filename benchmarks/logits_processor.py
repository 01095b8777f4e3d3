"""transformers.generate inside a catalogue at beam 20: ours against the prefix hook.

    python benchmarks/logits_processor.py
    python benchmarks/logits_processor.py --quick --cases batch=8

latency_ms is end to end: beam search over a Llama that was exported, its forward passes included.

    dict_hook    transformers' own `prefix_allowed_tokens_fn` over the usual trie of Python dicts,
                 called for every beam at every step
    processor    `logits_processor=[TrieLogitsProcessor(engine)]`: the same search of transformers
    beam_search  `custom_generate=TrieBeamSearch(engine)`: the same result, each prompt computed
                 once instead of once a beam

constraint_ms is what hook and processor take of it, at the four steps, without forward passes. All
must write SIDs of the catalogue alone, and ours must give the items and scores of our engine.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PrefixConstrainedLogitsProcessor, PreTrainedModel

# run as a script, only benchmarks/ is on the path, whose kernels.py must not hide a package's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring.harness import Options, Report, measure_together, parse_options
from benchmarks.peers.dict_trie import DictTrie
from store_engine.config import DecodingConfig, ModelConfig
from store_engine.data.catalog import Catalog
from store_engine.decoding.engine import Engine
from store_engine.integrations.huggingface import export_huggingface
from store_engine.integrations.logits_processor import TrieLogitsProcessor
from store_engine.integrations.trie_beam_search import TrieBeamSearch
from store_engine.model.store_model import StoreModel

BEAM, HISTORY, TEXT, BOS = 20, 20, 4096, 1  # as configs/beauty.toml
SIZES = (256,) * 4
NUM_ITEMS = 12_000  # as many as Beauty has
BATCHES = (1, 8, 32)


def make_engine() -> Engine:
    """A random model with a random catalogue without repeated SIDs."""
    torch.manual_seed(0)
    # of configs/presets/ours.toml; those of TIGER and STORE are as small
    config = ModelConfig(
        hidden_size=128,
        num_layers=2,
        num_heads=2,
        num_kv_heads=2,
        head_dim=64,
        intermediate_size=256,
    )
    model = StoreModel(config, TEXT, SIZES).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:  # far from indifferent
            torch.nn.init.normal_(parameter, std=0.1)
    rng = np.random.default_rng(0)
    sids = np.unique(rng.integers(0, SIZES[0], (NUM_ITEMS, 4), np.int32), axis=0)
    ids = tuple(map(str, range(len(sids))))
    options = DecodingConfig(beam_width=BEAM, prefix_cache_mib=0)
    return Engine(model, Catalog(ids, {"title": ids}), sids, bos=BOS, config=options)


def dict_hook(tokens: Tensor, prompt_size: int) -> Callable[[int, Tensor], list[int]]:
    """What people write for transformers."""
    trie = DictTrie(tokens.tolist())

    def allowed(batch_id: int, input_ids: Tensor) -> list[int]:
        return trie.following(input_ids[prompt_size:])

    return allowed


def generate(model: PreTrainedModel, prompts: Tensor, **constraint: Any) -> Any:
    """Beam search of transformers, all beams returned."""
    return model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=len(SIZES),
        num_beams=BEAM,
        num_return_sequences=BEAM,
        do_sample=False,
        length_penalty=0.0,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **constraint,
    )


def check(
    engine: Engine, histories: list[list[int]], tokens: Tensor, found: dict[str, Any]
) -> None:
    """Refuses to time what is wrong."""
    known = set(map(tuple, tokens.tolist()))
    rows, scores = engine.recommend_rows(histories, BEAM)
    for name, out in found.items():
        written = out.sequences[:, -len(SIZES) :]
        if not all(tuple(sid) in known for sid in written.tolist()):
            raise RuntimeError(f"{name} wrote a SID that is not in the catalogue")
        if name != "dict_hook":  # it ranks by a softmax over the whole vocabulary
            want = tokens[torch.from_numpy(rows)].flatten(0, 1)
            torch.testing.assert_close(written, want)
            theirs = out.sequences_scores.view(len(histories), BEAM)
            torch.testing.assert_close(theirs, torch.from_numpy(scores), atol=1e-3, rtol=1e-3)


def constraints(
    engine: Engine, hook: Callable[[int, Tensor], list[int]], sequences: Tensor
) -> dict[str, Callable[[], object]]:
    """The logits processors at every step of a decode that wrote `sequences`, and no model."""
    scores = torch.randn(len(sequences), len(engine.model.vocabulary))
    steps = [sequences[:, : sequences.shape[1] - left] for left in range(len(SIZES), 0, -1)]
    processors = {
        "processor": TrieLogitsProcessor(engine),
        "dict_hook": PrefixConstrainedLogitsProcessor(hook, BEAM),
    }
    return {
        name: functools.partial(lambda run: [run(ids, scores) for ids in steps], processor)
        for name, processor in processors.items()
    }


def measure_case(batch: int, options: Options, report: Report) -> None:
    """Measures one batch size."""
    case, engine = f"batch={batch}", make_engine()
    model = export_huggingface(engine.model, bos=BOS)
    tokens = torch.from_numpy(engine.model.vocabulary.to_ids(engine.sids))
    rng = np.random.default_rng(1)
    histories = rng.integers(0, len(tokens), (batch, HISTORY)).tolist()
    prompts = torch.tensor([[BOS, *tokens[h].flatten().tolist()] for h in histories])
    hook = dict_hook(tokens, prompts.shape[1])
    ways: dict[str, dict[str, Any]] = {
        "beam_search": {"custom_generate": TrieBeamSearch(engine)},
        "processor": {"logits_processor": [TrieLogitsProcessor(engine)]},
        "dict_hook": {"prefix_allowed_tokens_fn": hook},
    }
    runs = {name: functools.partial(generate, model, prompts, **w) for name, w in ways.items()}
    found = {name: run() for name, run in runs.items()}
    check(engine, histories, tokens, found)
    for name, figure in measure_together(runs, options).items():
        report.add(name, case, "latency_ms", "ms", figure)
    alone = constraints(engine, hook, found["processor"].sequences)
    for name, figure in measure_together(alone, options, budget_s=2.0).items():
        report.add(name, case, "constraint_ms", "ms", figure)
    report.add_ratio("beam_search", "dict_hook", case, "latency_ms", "speedup")
    report.add_ratio("processor", "dict_hook", case, "latency_ms", "speedup")
    report.add_ratio("processor", "dict_hook", case, "constraint_ms", "constraint_speedup")


def main() -> None:
    """Measures the cases."""
    options = parse_options("logits_processor", __doc__, has_gpu=False)
    report = Report("logits_processor", options)
    for batch in BATCHES:
        if options.wants(f"batch={batch}"):
            measure_case(batch, options, report)
    report.finish()


if __name__ == "__main__":
    main()
