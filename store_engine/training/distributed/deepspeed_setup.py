"""DeepSpeed around a module: the config, checked and completed, and the engine."""

import copy
import math
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.ops.op_builder import AsyncIOBuilder
from deepspeed.runtime.config import DeepSpeedConfig
from torch import Tensor, nn

from store_engine.config import TrainConfig
from store_engine.errors import InputError
from store_engine.files.json_file import read_json
from store_engine.model import dtype
from store_engine.model.threads import ThreadChoice, choose_threads, environment_threads
from store_engine.training.distributed.compiled_op import compiled_op

# what the run's config says, or the number of ranks
_OURS = ("optimizer", "scheduler", "train_batch_size")
_OFFLOADS = ("offload_optimizer", "offload_param")
_SECTIONS = ("bf16", "fp16", "zero_optimization", "checkpoint", "aio", "activation_checkpointing")


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
    where = f"--ds_config {path}"
    for name in _OURS:
        if name in config:
            raise InputError(f"{where}: '{name}' is set by the run's config, remove it")
    _check_types(config, where)
    zero = config.get("zero_optimization", {})
    if "nvme" in _offload_devices(config) and not AsyncIOBuilder().is_compatible():
        raise InputError(
            f"{where}: offload to NVMe needs the library libaio and its headers, "
            f"on Debian libaio-dev"
        )
    if zero.get("stage", 0) == 3 and train.compile is True:
        raise InputError(
            f"{where}: ZeRO-3 gathers weights inside of a layer, which torch.compile cannot trace; "
            f"set train.compile = false or take another ZeRO stage"
        )
    bf16 = config.setdefault("bf16", {})
    if bf16.get("enabled", "auto") == "auto":
        bf16["enabled"] = training_dtype(train) == torch.bfloat16
    if config.get("gradient_clipping", "auto") == "auto":
        config["gradient_clipping"] = train.grad_clip
    config["train_micro_batch_size_per_gpu"] = 1  # a micro-batch is one packed batch
    config.setdefault("gradient_accumulation_steps", 1)
    config.setdefault("steps_per_print", 1 << 30)  # progress is ours
    try:
        DeepSpeedConfig(copy.deepcopy(config))
    except Exception as error:  # whatever its parsers raise: nothing else runs in there
        reason = " ".join(str(error).split("For further information")[0].split())
        raise InputError(f"{where}: DeepSpeed refuses it: {reason[:300]}") from error
    return config


def _check_types(config: dict[str, Any], where: str) -> None:
    """Refuses values of another type than ours; what DeepSpeed alone reads, it checks itself."""
    zero = config.get("zero_optimization", {})
    sections = {name: config.get(name, {}) for name in _SECTIONS}
    if isinstance(zero, dict):
        sections |= {f"zero_optimization.{name}": zero.get(name, {}) for name in _OFFLOADS}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise InputError(f"{where}: '{name}' must be a section {{...}}, is {section!r}")
    enabled = config.get("bf16", {}).get("enabled", "auto")
    clip = config.get("gradient_clipping", "auto")
    is_number = type(clip) in (int, float) and 0 <= clip < math.inf
    accumulation = config.get("gradient_accumulation_steps", 1)
    for is_right, name, wanted, value in (
        (enabled in (True, False, "auto"), "bf16.enabled", 'true, false or "auto"', enabled),
        (is_number or clip == "auto", "gradient_clipping", 'a number or "auto"', clip),
        (
            type(accumulation) is int and accumulation > 0,
            "gradient_accumulation_steps",
            "a whole number of at least 1",
            accumulation,
        ),
        (
            type(zero.get("stage", 0)) is int and 0 <= zero.get("stage", 0) <= 3,
            "zero_optimization.stage",
            "0, 1, 2 or 3",
            zero.get("stage"),
        ),
    ):
        if not is_right:
            raise InputError(f"{where}: '{name}' must be {wanted}, is {value!r}")


def training_dtype(train: TrainConfig) -> torch.dtype:
    """Chooses the dtype of training; `auto` takes bf16 where the machine computes in it."""
    return dtype.choose_dtype(train.dtype, dtype.choose_device("auto"))


def is_compiled(train: TrainConfig, zero_stage: int) -> bool:
    """Decides whether layers are compiled; `auto` does so on CUDA where nothing forbids it."""
    if train.compile != "auto":
        return train.compile
    is_possible = zero_stage < 3 and not train.activation_checkpointing
    return is_possible and dtype.choose_device("auto").type == "cuda"


def set_threads(train: TrainConfig, before: int = 0) -> ThreadChoice:
    """Chooses this rank's threads and computes with them from now on.

    Args:
        train: `threads`, if it is not 0, and OMP_NUM_THREADS come first.
        before: Threads that the training computed with before it was interrupted, 0 if it begins.
            Sums over another number of threads differ in their last bits.
    """
    ranks = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1"))
    is_stated = train.threads or environment_threads()[0]
    choice = choose_threads(
        train.threads if is_stated else before, max(1, int(ranks)) if ranks.isdecimal() else 1
    )
    if before and not is_stated:
        choice = choice._replace(reason="as before the interruption")
    torch.set_num_threads(choice.num_threads)
    return choice


def zero_init(ds_config: dict[str, Any]) -> Any:
    """Makes the context in which modules are made partitioned (ZeRO-3), in the training dtype."""
    is_zero3 = ds_config.get("zero_optimization", {}).get("stage", 0) == 3
    # no dtype=: DeepSpeed 0.19 then ignores it on a CPU and takes bf16, instead of what bf16 says
    with _offload_compiled(ds_config):
        return deepspeed.zero.Init(config_dict_or_path=ds_config, enabled=is_zero3)


def initialize(module: nn.Module, ds_config: dict[str, Any], train: TrainConfig, lr: float) -> Any:
    """Makes a DeepSpeed engine with AdamW; norms are not decayed, tables as they should be."""
    groups: dict[str, list[nn.Parameter]] = {"matrices": [], "others": [], "tables": []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups[_kind(name, train)].append(parameter)
    decays = {"matrices": train.weight_decay, "tables": train.table_weight_decay}
    optimizer = torch.optim.AdamW(
        [{"params": g, "weight_decay": decays.get(kind, 0.0)} for kind, g in groups.items() if g],
        lr=lr,
        betas=(0.9, train.beta2),
        fused=True,
    )
    # offloaded to the CPU, torch's fused AdamW is vectorised as DeepSpeed's own is
    ds_config = ds_config | {
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    with _offload_compiled(ds_config):
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=ds_config)
    return engine


def _offload_compiled(ds_config: dict[str, Any]) -> AbstractContextManager[None]:
    """Tells of the I/O operation, which is compiled where something is offloaded to NVMe."""
    return compiled_op("AsyncIOBuilder") if "nvme" in _offload_devices(ds_config) else nullcontext()


def _offload_devices(ds_config: dict[str, Any]) -> list[str | None]:
    zero = ds_config.get("zero_optimization", {})
    return [zero.get(name, {}).get("device") for name in _OFFLOADS]


def _kind(name: str, train: TrainConfig) -> str:
    """Which parameters one is decayed with; tables that are not decayed are like the others."""
    if name.endswith("proj.weight"):
        return "matrices"
    is_table = name.endswith(("embedding.weight", "head.weight", "residual", "palette.weight"))
    return "tables" if is_table and train.table_weight_decay else "others"


def fill_parameters(module: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copies tensors into the module's parameters of the same name, partitioned or not.

    One by one: of a checkpoint on disk and of a partitioned module one tensor at a time is whole.
    """
    parameters = dict(module.named_parameters())
    for name, tensor in tensors:
        with deepspeed.zero.GatheredParameters([parameters[name]], modifier_rank=0):
            parameters[name].data.copy_(tensor)


def full_weights(engine: Any) -> dict[str, Tensor]:
    """Gathers every parameter on every rank, in float32 where there is a master copy."""
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
