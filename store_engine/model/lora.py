"""LoRA through `peft`: the backbone's weights stay, small factors beside them are trained.

Trained are the factors, the semantic tokens' embeddings and head, the palette and its gain. All
else is frozen: the text's embeddings and head, biases and norms. What a stage leaves is merged:
W + lora_alpha / lora_rank * B A under the plain name of W, so nothing after training knows of LoRA.
Our q, k and v are one matrix, and so are gate and up: each of the two has one A and one B.
Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685
"""

from torch import Tensor, nn

from store_engine.config import TrainConfig
from store_engine.extras import needs

_ALWAYS_TRAINED = ("code_embedding", "code_head", "palette", "paste_gain")
_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"


def add_lora(module: nn.Module, train: TrainConfig) -> None:
    """Puts factors beside the target layers, and freezes all that LoRA does not train.

    Called outside `zero_init`, whose partitioning would come before peft's own initialisation (B
    begins at 0); DeepSpeed partitions the factors when it takes the module over.

    Raises:
        MissingExtraError: peft is not installed.
    """
    with needs("train.lora_rank"):
        from peft import LoraConfig, inject_adapter_in_model
    settings = LoraConfig(
        r=train.lora_rank,
        lora_alpha=train.lora_alpha,
        lora_dropout=train.lora_dropout,
        target_modules=list(train.lora_targets),
    )
    inject_adapter_in_model(settings, module)
    for name, parameter in module.named_parameters():
        is_factor = name.endswith((_A, _B))
        parameter.requires_grad_(is_factor or any(n in name.split(".") for n in _ALWAYS_TRAINED))


def merge_lora(weights: dict[str, Tensor], train: TrainConfig) -> dict[str, Tensor]:
    """Adds the factors to their matrices; without factors gives `weights` as they are.

    Args:
        weights: Whole tensors by name; a matrix with factors is called `<layer>.base_layer.weight`.
        train: The rank and alpha that they were trained with.

    Returns:
        Tensors by the names that the module had before `add_lora`.
    """
    merged = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in weights.items()
        if not name.endswith((_A, _B))
    }
    for name, a in weights.items():
        if name.endswith(_A):
            layer = name.removesuffix(_A)
            scale = train.lora_alpha / train.lora_rank
            merged[f"{layer}.weight"] = merged[f"{layer}.weight"] + scale * weights[layer + _B] @ a
    return merged
