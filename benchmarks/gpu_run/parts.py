"""What is run in the first half-hour on a GPU: commands with limits, the most valuable first."""

from dataclasses import dataclass


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
# fmt: on
