"""Tables of speed: whole searches, beam steps, training steps, processes that start."""

from pathlib import Path

from benchmarks.tabulating.figures import Figures, read
from benchmarks.tabulating.markdown import markdown, number, times


def decode_table(folder: Path) -> str:
    """A whole search, end to end."""
    lines = []
    for model, shown in (
        ("256x4", "hidden 256, 4 layers"),
        ("smollm2", "SmolLM2-135M's shape"),
    ):
        for batch in (4, 16):
            case = f"model={model},dtype=bfloat16,batch={batch},beam=20,history=20"
            found = Figures.find(read("decode", folder), case, "latency_ms")
            if found.by_provider:
                ours = found.cell("ours", unit=" ms")
                floor = found.cell("floor", unit=" ms", has_ratio=False)
                peers = (found.cell(p, unit=" ms") for p in ("torch_fallback", "transformers"))
                lines.append([f"{shown}, {batch}", ours, floor, *peers])
    header = ["model, batch", "ours (C++)", "lower bound", "plain PyTorch beams", "transformers"]
    return markdown(header, lines)


def trie_table(folder: Path) -> str:
    """The beam step alone: a step, and a decode of four."""
    columns = [
        ("ours",),
        ("ours_two_threads",),
        ("unconstrained",),
        ("csr_torch", "csr_torch_one_topk"),
        ("transformers",),
    ]
    lines = []
    for metric, what in (("step_ms", "a step"), ("decode_ms", "a decode of four")):
        for codes, shown in (("uniform", "uniform codes"), ("zipf", "skewed codes")):
            case = f"n=1e6,codes={codes},batch=32,beam=20"
            found = Figures.find(read("trie", folder), case, metric)
            if found.by_provider:
                cells = [found.cell(*p, has_ratio=p != ("ours_two_threads",)) for p in columns]
                lines.append([f"{shown}, {what}", *cells])
    header = ["10^6 items", "ours", "two threads", "no constraint at all"]
    header += ["STATIC's method in PyTorch, the faster of two", "transformers' hook"]
    return markdown(header, lines)


def train_table(folder: Path) -> str:
    """Tokens per second and memory of training steps."""
    case, rows = "hidden=576,layers=6,beauty=4x64,bfloat16", read("train", folder)
    rates = Figures.find(rows, case, "tokens_per_s").by_provider
    peaks = Figures.find(rows, case, "extra_peak_mib").by_provider
    shown = {
        "transformers": "transformers, padded",
        "transformers_bucketed": "transformers, sorted into buckets",
        "ours": "ours",
    }
    lines = []
    for provider, name in shown.items():
        if provider in rates:
            ratios = [times(rates["ours"] / rates[peer]) for peer in shown if peer in rates][:-1]
            rate = number(rates[provider])
            rate += f" ({', '.join(ratios)})" if provider == "ours" else ""
            lines.append([name, rate, f"{peaks[provider] / 2**10:.1f} GiB"])
    return markdown(["", "tokens/s", "extra peak memory"], lines)


def startup_table(folder: Path) -> str:
    """What it costs to start."""
    lines = []
    names = {case: f"`{case}`" for case in ("import store_engine", "store-engine --help")}
    for case, name in (names | {"the first recommendation": "the first recommendation"}).items():
        found = Figures.find(read("startup", folder), case, "wall_ms")
        if found.by_provider:
            floor = found.cell("floor", unit=" ms", has_ratio=False)
            lines.append([name, found.cell("ours", unit=" ms"), floor])
    return markdown(["a process that runs", "takes", "torch and numpy alone"], lines)
