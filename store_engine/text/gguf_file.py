"""A GGUF file, through `gguf` (llama.cpp's own reader): metadata, and tensors as float32."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from store_engine.errors import InputError
from store_engine.extras import needs
from store_engine.files.regular import parse_errors
from store_engine.text.gguf_header import check_header

_MISSING = object()


class GGUFFile:
    """A mapped GGUF file; nothing but its header is read until a tensor is asked for.

    Attributes:
        shapes: Every tensor's shape, as PyTorch orders it, by llama.cpp's names.

    Raises:
        InputError: The file is missing or damaged, or `gguf` is not installed.
    """

    def __init__(self, path: Path) -> None:
        with needs(f"{path}: a GGUF file"):
            import gguf
        self.path = path
        self._dequantize = gguf.dequantize
        sizes = gguf.GGML_QUANT_SIZES.items()
        check_header(path, {int(kind): block for kind, block in sizes})
        with parse_errors(path, "a readable GGUF file"):
            self._reader = gguf.GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.shapes = {
            name: tuple(reversed(tensor.shape.tolist())) for name, tensor in self._tensors.items()
        }

    def get(self, key: str, default: Any = _MISSING) -> Any:
        """Returns a value of the metadata.

        Raises:
            InputError: It is damaged, or not there and there is no default.
        """
        field = self._reader.get_field(key)
        if field is not None:
            with parse_errors(self.path, f"a readable GGUF file ({key})"):
                return field.contents()
        if default is _MISSING:
            raise InputError(f"{self.path}: its metadata lack {key}")
        return default

    def read(self, name: str) -> Tensor:
        """Returns a tensor, dequantised to float32.

        Raises:
            InputError: `gguf` cannot dequantise its type.
        """
        tensor = self._tensors[name]
        with parse_errors(self.path, f"readable (tensor '{name}')"):
            values = self._dequantize(tensor.data, tensor.tensor_type)
        # a copy: what is mapped read-only must not become a writable tensor
        return torch.tensor(values, dtype=torch.float32).view(self.shapes[name])
