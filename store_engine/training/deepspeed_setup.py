"""DeepSpeed around a module: the config's "auto" values, the process group, the engine."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import deepspeed
import torch
from deepspeed.ops.op_builder import AsyncIOBuilder
from torch import Tensor, nn

from store_engine.config import TrainConfig
from store_engine.errors import InputError
from store_engine.files.json_file import read_json
from store_engine.model import dtype


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Joins the launcher's process group, or makes one of this process, and leaves it at the end.

    Its threads may outlive it, as ZeRO-3's parameters hold on to their group: a program that ends
    after it does so by `exit_rank`.
    """
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    alone |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    if "RANK" not in os.environ:
        os.environ.update(alone)
    deepspeed.init_distributed(verbose=False)
    try:
        yield
    finally:
        deepspeed.comm.destroy_process_group()


def exit_rank(status: int) -> NoReturn:
    """Ends this process at once, with what was printed but without Python's teardown.

    A thread of Gloo may still hold the last work's tensors, and aborts the process ("terminate
    called without an active exception") if it lets go of them while Python tears itself down.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def read_ds_config(path: str | Path, train: TrainConfig) -> dict[str, Any]:
    """Reads a DeepSpeed config and fills in what it leaves to us.

    Args:
        path: JSON. "auto" for bf16.enabled and gradient_clipping means: as the run's config says.
        train: The run's training section.

    Raises:
        InputError: The file is missing, no JSON object, states what this engine decides itself, or
            needs what this machine lacks.
    """
    try:
        config = read_json(Path(path))
    except InputError as error:
        raise InputError(f"--ds_config {error}") from error
    for name in ("optimizer", "scheduler"):
        if name in config:
            raise InputError(f"--ds_config {path}: '{name}' is set by the run's config, remove it")
    zero = config.get("zero_optimization", {})
    devices = {zero.get(name, {}).get("device") for name in ("offload_optimizer", "offload_param")}
    if "nvme" in devices and not AsyncIOBuilder().is_compatible():
        raise InputError(
            f"--ds_config {path}: offload to NVMe needs the library libaio and its headers, "
            f"on Debian libaio-dev"
        )
    bf16 = config.setdefault("bf16", {})
    if bf16.get("enabled", "auto") == "auto":
        bf16["enabled"] = choose_dtype(train) == torch.bfloat16
    if config.get("gradient_clipping", "auto") == "auto":
        config["gradient_clipping"] = train.grad_clip
    config["train_micro_batch_size_per_gpu"] = 1  # a micro-batch is one packed batch
    config.setdefault("gradient_accumulation_steps", 1)
    config.setdefault("steps_per_print", 1 << 30)  # progress is ours
    return config


def choose_dtype(train: TrainConfig) -> torch.dtype:
    """The dtype of the weights in training: `auto` takes bf16 where the machine computes in it."""
    return dtype.choose_dtype(train.dtype, "cuda" if torch.cuda.is_available() else "cpu")


def set_threads(train: TrainConfig) -> int:
    """Gives this rank its share of the cores: oversubscribed threads cost a factor of ten."""
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1")))
    cores = len(os.sched_getaffinity(0))
    threads = train.threads or max(1, cores // local_ranks)
    torch.set_num_threads(threads)
    return threads


def zero_init(ds_config: dict[str, Any]) -> Any:
    """Context in which modules are born partitioned (ZeRO-3) and in the training dtype."""
    is_zero3 = ds_config.get("zero_optimization", {}).get("stage", 0) == 3
    # no dtype=: DeepSpeed 0.19 then ignores it on a CPU and takes bf16, instead of what bf16 says
    return deepspeed.zero.Init(config_dict_or_path=ds_config, enabled=is_zero3)


def initialize(module: nn.Module, ds_config: dict[str, Any], train: TrainConfig, lr: float) -> Any:
    """A DeepSpeed engine with AdamW; norms and embeddings are not decayed."""
    trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    decayed = [p for n, p in trained if n.endswith("proj.weight")]
    others = [p for n, p in trained if not n.endswith("proj.weight")]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": train.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=lr,
        betas=(0.9, train.beta2),
        fused=True,
    )
    # offloaded to the CPU, torch's fused AdamW is vectorised as DeepSpeed's own is
    ds_config = ds_config | {
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=ds_config)
    return engine


def fill_parameters(module: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copies tensors into the module's parameters of the same name, partitioned or not.

    One by one: of a checkpoint on disk and of a partitioned module one tensor at a time is whole.
    """
    parameters = dict(module.named_parameters())
    for name, tensor in tensors:
        with deepspeed.zero.GatheredParameters([parameters[name]], modifier_rank=0):
            parameters[name].data.copy_(tensor)


def full_weights(engine: Any) -> dict[str, Tensor]:
    """Every parameter whole, on every rank, in float32 where the optimiser keeps a master copy."""
    weights: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        master = None
        if parameter.requires_grad:
            master = deepspeed.utils.safe_get_full_fp32_param(parameter)
        if master is None:
            with deepspeed.zero.GatheredParameters([parameter]):
                master = parameter.detach().float().clone()
        weights[name] = master.detach().cpu().clone().view(_full_shape(parameter))
    return weights


def _full_shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)
