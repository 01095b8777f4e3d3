"""All that is worth knowing from the first half-hour on a GPU, in one command.

    python benchmarks/first_gpu_run.py --out DIR                 # 30 minutes at most
    python benchmarks/first_gpu_run.py --out DIR --wheels FOLDER # with what the machine lacks
    python benchmarks/first_gpu_run.py --out DIR --parts decode  # some parts, by a regex
    python benchmarks/first_gpu_run.py --out DIR --dry-run       # tiny sizes, no GPU, a minute

Run it from a checkout, with PyTorch installed. Each part is a process of its own with a time
limit of its own; the most valuable come first. What a part prints goes to DIR/PART.log, what it
measures to DIR/PART.csv, as it comes; DIR/summary.json and summary.md are written anew after each.
A part whose module, GPU or time is missing is skipped, with the reason. At the end the predictions
that were made without a GPU stand beside what was measured.
"""

import argparse
import csv
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
PRETENDED = "pretended"  # as in harness.py, which needs the package


@dataclass(frozen=True)
class Part:
    """One process."""

    name: str
    command: tuple[str, ...]  # of Python; {out} is the folder, {device} the device
    limit_s: float
    dry_command: tuple[str, ...] = ()  # (): a dry run leaves it out
    needs: tuple[str, ...] = ()  # modules
    on_gpu: bool = True  # needs one, but for a dry run


@dataclass
class Result:
    """What became of a part."""

    part: str
    status: str  # ok, skipped, failed
    reason: str = ""
    wall_s: float = 0.0


@dataclass(frozen=True)
class Prediction:
    """A figure that was estimated without a GPU (docs/adr/006-first-gpu-run.md)."""

    what: str
    part: str
    provider: str
    case: str  # regex
    metric: str
    low: float
    high: float


def benchmark(script: str, *args: str) -> tuple[str, ...]:
    """The command of a benchmark, whose rows go to a file of the part's name."""
    return (f"benchmarks/{script}.py", "--device", "{device}", "--out", "{out}/{part}.csv", *args)


def tried(script: str, *args: str) -> tuple[str, ...]:
    """The same at tiny sizes, on the device that the tests pretend to have."""
    options = ("--quick", "--threads", "1", "--cases")
    return ("tests/fixtures/on_pretended_device.py", *benchmark(script, *options, *args))


def training(zero: str, *overrides: str) -> tuple[str, ...]:
    """The command of a training on tiny.toml's synthetic data under a ZeRO config."""
    config = ("--ds_config", f"configs/{zero}.json", "--config", "configs/tiny.toml")
    return ("store_engine/train.py", *config, "run_dir={out}/{part}", "--overwrite", *overrides)


TESTS = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
KERNEL_TESTS = (*TESTS, "tests/kernels")
GRAPH_TESTS = (*TESTS, "tests/decoding/graphs")
WIDE = ("model.hidden_size=512", "model.intermediate_size=1536")
TEXT_LOSS = "linear_cross_entropy,T=8192,d=576,V=49152,length=49152,bfloat16"
CHUNKS = "chunked_cross_entropy,T=8192,d=576,V=49152,bfloat16"
DECODE_OPS = "add_rms_norm|swiglu|qk_rope|tree_att|trie_select|beam_attention|trie_topk"
SMOLLM2 = r"^model=smollm2,dtype=bfloat16,batch=4,beam=20,history=20$"

# fmt: off
PARTS = [
    Part("versions", ("benchmarks/first_gpu_run.py", "--versions", "{out}/versions.json"), 60,
         ("benchmarks/first_gpu_run.py", "--versions", "{out}/versions.json"), on_gpu=False),
    Part("build", ("setup.py", "-q", "build_ext", "--inplace"), 300,
         needs=("pybind11",), on_gpu=False),
    Part("kernel_tests", (*KERNEL_TESTS, "--ignore", "tests/kernels/test_ahead_of_time.py"), 240,
         (*KERNEL_TESTS, "-k", "one_slice_for_all_rows"), needs=("pytest", "hypothesis")),
    Part("graph_tests", (*GRAPH_TESTS, "-m", "gpu"), 120,
         (*GRAPH_TESTS, "-k", "warm_up_makes or any_number"), needs=("pytest", "hypothesis")),
    Part("decode_small", benchmark("decode", "--quick", "--cases", "model=256x4.*batch=4,"), 180,
         tried("decode", "model=tiny.*history=3$")),
    Part("text_loss", benchmark("kernels", "--cases", f"{TEXT_LOSS}|{CHUNKS}"), 120,
         tried("kernels", "cross_entropy,T=64")),
    Part("decode_kernels", benchmark("kernels", "--cases", DECODE_OPS), 180,
         tried("kernels", "rows=4,|beam=3")),
    Part("decode_smollm2", benchmark("decode", "--quick", "--cases", "smollm2,dtype=bf"), 240,
         tried("decode", "model=tiny.*form=items")),
    Part("search_profile", benchmark("search_profile", "--cases", "model=(256x4|smollm2),"
                                     "dtype=bfloat16,batch=4,"), 180,
         tried("search_profile", "model=tiny")),
    Part("train_bench", benchmark("train", "--alone", "--histories", "512", "--cases",
                                  "hidden=576,layers=30.*bfloat16"), 240,
         tried("train", "hidden=64.*float32", "--alone")),
    Part("zero0", training("zero0", *WIDE), 180, needs=("deepspeed",)),
    Part("zero3", training("zero3", *WIDE), 180, needs=("deepspeed",)),
    Part("zero3_offload", training("zero3_offload", *WIDE), 180, needs=("deepspeed",)),
    Part("train_peers", benchmark("train", "--histories", "512", "--cases",
                                  "hidden=576,layers=6.*bfloat16"), 240,
         needs=("transformers",)),
    Part("all_kernels", benchmark("kernels"), 300),
]

PREDICTIONS = [
    Prediction("the text loss by an online softmax takes 12 to 16 ms", "text_loss", "ours",
               TEXT_LOSS, "fwd_bwd_ms", 12, 16),
    Prediction("Liger's takes 3 to 4 ms", "text_loss", "liger", TEXT_LOSS, "fwd_bwd_ms", 3, 4),
    Prediction("ours in chunks takes 3 to 5 ms", "text_loss", "ours", CHUNKS, "fwd_bwd_ms", 3, 5),
    Prediction("a search of SmolLM2's shape by steps launches 2,600 to 3,600 kernels",
               "search_profile", "ours_triton", SMOLLM2, "kernels", 2600, 3600),
    Prediction("the GPU works less than 20 % of it", "search_profile", "ours_triton", SMOLLM2,
               "busy_share", 0, 0.2),
    Prediction("by a graph it is 1,098 kernels, or up to a third more where a product is split",
               "search_profile", "ours_graph", SMOLLM2, "kernels", 1000, 1464),
    Prediction("by a graph there are a copy in and a copy out", "search_profile", "ours_graph",
               SMOLLM2, "copies", 2, 2),
    Prediction("by a graph the host waits once", "search_profile", "ours_graph", SMOLLM2, "waits",
               1, 1),
    Prediction("by a graph the GPU works more than 60 % of it", "search_profile", "ours_graph",
               SMOLLM2, "busy_share", 0.6, 1),
    Prediction("by a graph it takes 1.5 to 4 ms", "decode_smollm2", "ours_graph", SMOLLM2,
               "latency_ms", 1.5, 4),
    Prediction("training SmolLM2's shape reaches 15 to 30 % of the matmul peak", "train_bench",
               "ours", "layers=30", "share_of_peak", 0.15, 0.30),
]
# fmt: on


@dataclass
class Run:
    """All parts of one run, and where they write."""

    out: Path
    is_dry: bool
    minutes: float
    wheels: Path | None
    results: list[Result] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> str:
        """Where the parts run."""
        if self.is_dry:
            return PRETENDED
        return "cuda" if torch.cuda.is_available() else "cpu"

    def environment(self) -> dict[str, str]:
        """The checkout first on the path, then what --wheels brought."""
        paths = [str(ROOT), str(self.out / "wheels"), os.environ.get("PYTHONPATH", "")]
        return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def do(self, part: Part) -> None:
        """Runs a part, or says why not, and writes the summary anew."""
        began = time.monotonic()
        reason = self.why_not(part)
        result = Result(part.name, "skipped", reason) if reason else self.start(part)
        result.wall_s = round(time.monotonic() - began, 1)
        print(f"{result.part}: {result.status} {result.reason} ({result.wall_s} s)", flush=True)
        self.results.append(result)
        write_summary(self)

    def why_not(self, part: Part) -> str:
        """The reason to skip a part; empty if there is none."""
        if part.name == "build" and has_core():
            return "the C++ core is there"
        if self.is_dry and not part.dry_command:
            return "left out of a dry run"
        if part.on_gpu and not self.is_dry and self.device == "cpu":
            return "no CUDA device"
        missing = [name for name in part.needs if not self.has_module(name)]
        if missing:
            return f"not installed: {', '.join(missing)}"
        return "" if self.left_s() > 5 else "no time is left"

    def has_module(self, name: str) -> bool:
        """Whether a part could import it."""
        return importlib.util.find_spec(name) is not None or (self.out / "wheels" / name).exists()

    def left_s(self) -> float:
        """Seconds of the whole run that are left."""
        return 60 * self.minutes - (time.monotonic() - self.began)

    def start(self, part: Part) -> Result:
        """Runs a part to its end, or to its limit."""
        command = part.dry_command if self.is_dry else part.command
        names = {"out": str(self.out), "part": part.name, "device": self.device}
        args = [sys.executable, *(arg.format(**names) for arg in command)]
        limit_s, log = min(part.limit_s, self.left_s()), self.out / f"{part.name}.log"
        with log.open("w") as file:
            print("$ " + " ".join(args), file=file, flush=True)
            process = subprocess.Popen(
                args,
                cwd=ROOT,
                env=self.environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(limit_s)
            except BaseException as error:  # its own children too, whatever ends it
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                return Result(part.name, "failed", f"stopped at its limit of {limit_s:.0f} s")
        return judge(part.name, status, log.read_text(errors="replace"))


def judge(name: str, status: int, log: str) -> Result:
    """What an exit status and the log say; a module that is missing is no failure."""
    if status == 0:
        return Result(name, "ok")
    missing = re.findall(r"^ModuleNotFoundError: No module named '([^']+)'", log, re.MULTILINE)
    if missing:
        return Result(name, "skipped", f"not installed: {missing[-1]}")
    last = (log.strip().splitlines() or [""])[-1]
    return Result(name, "failed", f"exit status {status}: {last}")


def has_core() -> bool:
    """Whether the C++ core is built for this Python."""
    suffix = next(s for s in importlib.machinery.EXTENSION_SUFFIXES if "abi3" not in s)
    return (ROOT / "store_engine" / f"_C{suffix}").exists()


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    """The rows that a part wrote, if it came so far."""
    if path.exists():
        with path.open(newline="") as file:
            yield from csv.DictReader(file)


def check_prediction(out: Path, prediction: Prediction) -> tuple[str, list[float]]:
    """held, wrong or not measured; and the figures. A dry run measures no GPU."""
    figures = [
        float(row["p50"])
        for row in rows_of(out / f"{prediction.part}.csv")
        if (row["provider"], row["metric"]) == (prediction.provider, prediction.metric)
        and re.search(prediction.case, row["case"])
    ]
    if not figures:
        return "not measured", figures
    is_held = all(prediction.low <= figure <= prediction.high for figure in figures)
    return "held" if is_held else "wrong", figures


def write_summary(run: Run) -> None:
    """Writes summary.json and summary.md."""
    predictions = [
        {"prediction": p.what, "verdict": verdict, "figures": figures}
        for p in PREDICTIONS
        for verdict, figures in [check_prediction(run.out, p)]
    ]
    summary = {"device": run.device, "parts": [asdict(result) for result in run.results]}
    summary |= {"predictions": predictions}
    (run.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    lines = ["| part | status | reason | s |", "|---|---|---|---|"]
    lines += [f"| {r.part} | {r.status} | {r.reason} | {r.wall_s} |" for r in run.results]
    lines += ["", "| prediction | verdict | measured |", "|---|---|---|"]
    for p in predictions:
        measured = ", ".join(f"{figure:.4g}" for figure in p["figures"])
        lines.append(f"| {p['prediction']} | {p['verdict']} | {measured} |")
    (run.out / "summary.md").write_text("\n".join(lines) + "\n")


def versions() -> dict[str, object]:
    """What stands on this machine, and what our kernels and models ask of PyTorch."""
    modules = "triton numpy deepspeed transformers liger_kernel flash_attn faiss safetensors "
    modules += "sentencepiece pyarrow rich pytest hypothesis pybind11 ninja"
    found: dict[str, object] = {"python": sys.version, "torch": torch.__version__}
    for name in modules.split():
        found[name] = module_version(name)
    found["core"] = has_core()
    found["cuda"] = torch.version.cuda
    found["varlen_attn"] = importlib.util.find_spec("torch.nn.attention.varlen") is not None
    found["cuda._sleep"] = hasattr(torch.cuda, "_sleep")
    if torch.cuda.is_available():
        found["device"] = str(torch.cuda.get_device_properties(0))
    return found


def module_version(name: str) -> str | None:
    """A module's version, "?" if it does not say; None where it is not installed."""
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return importlib.metadata.version(name.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "?"


def main() -> int:
    """Runs all parts; 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, metavar="DIR")
    parser.add_argument("--parts", default="", metavar="REGEX", help="run matching parts only")
    parser.add_argument("--minutes", type=float, default=30, help="of all parts together")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="installed into DIR/wheels")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, without a GPU")
    parser.add_argument("--versions", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.versions:
        args.versions.write_text(json.dumps(versions(), indent=2) + "\n")
        print(args.versions.read_text())
        return 0
    if args.out is None:
        parser.error("--out DIR is required")
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(args.out.resolve(), args.dry_run, args.minutes, args.wheels)
    if run.wheels is not None:
        install = ("-m", "pip", "install", "--no-index", "--no-deps", "--target", "{out}/wheels")
        files = tuple(map(str, sorted(run.wheels.resolve().glob("*.whl"))))
        run.do(Part("wheels", install + files, 180, install + files, on_gpu=False))
    for part in PARTS:
        if re.search(args.parts, part.name):
            run.do(part)
    print((run.out / "summary.md").read_text())
    return int(any(result.status == "failed" for result in run.results))


if __name__ == "__main__":
    sys.exit(main())
