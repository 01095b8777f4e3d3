import json
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from store_engine.errors import InputError
from store_engine.model.weights import load_model, load_weights, read_weights, save_weights


def model():
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def write_header(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_save_and_load(path):
    source, target = model(), model()
    save_weights(source.state_dict(), path)
    load_weights(target, path)
    for one, other in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtypes_of_weights(path, dtype):
    source, target = model(), model()
    save_file({name: x.to(dtype) for name, x in source.state_dict().items()}, path)
    load_weights(target, path)
    for one, other in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(one.to(dtype).float(), other)


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool, torch.float64),
        *(torch.complex64, torch.float8_e4m3fn),
    ],
)
def test_other_dtypes_are_refused_not_cast(path, dtype):
    tensors = dict(model().state_dict())
    tensors["1.weight"] = tensors["1.weight"].to(dtype)
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"safetensors: .*tensor '1\.weight' must be of type F32"):
        load_weights(model(), path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_not_finite_are_named(path, value, dtype):
    tensors = {name: x.to(dtype) for name, x in model().state_dict().items()}
    tensors["0.weight"][1, 2] = value
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"tensor '0\.weight' holds NaN or infinity: 1 of 12"):
        load_weights(model(), path)


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "device", "empty"])
def test_what_is_no_regular_file(path, kind):
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "empty":
        path.touch()
    with pytest.raises(InputError, match=r"model\.safetensors: "):
        read_weights(path)


FLOAT = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
HEADERS = {
    "beyond the file": {"x": FLOAT | {"shape": [2, 4], "data_offsets": [0, 32]}},
    "overflow": {"x": FLOAT | {"shape": [2**62, 4], "data_offsets": [0, 24]}},
    "negative": {"x": FLOAT | {"shape": [-2, -3]}},
    "offsets": {"x": FLOAT | {"data_offsets": [24, 0]}},
    "gap": {"x": FLOAT | {"data_offsets": [0, 20], "shape": [5]}},
    "unknown type": {"x": FLOAT | {"dtype": "F31"}},
    "no shape": {"x": {"dtype": "F32", "data_offsets": [0, 24]}},
    "list": [FLOAT],
    "no JSON": b"{",
    "not UTF-8": b'{"\xff": 1}',
    "deep": b"[" * 5000,
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_damaged_headers(path, header):
    write_header(path, header, bytes(24))
    with pytest.raises(InputError, match=r"not a readable safetensors file: "):
        load_weights(model(), path)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**62, 2**64 - 1])
def test_stated_header_lengths(path, length):
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match=r"not a readable safetensors file: "):
        read_weights(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.pop("0.bias"), r"no tensor '0\.bias'"),
        (lambda x: x.update({"0.bias": torch.zeros(4)}), r"'0\.bias' must be \(3,\), got \(4,\)"),
        (lambda x: x.update({"0.bias": torch.zeros(())}), r"'0\.bias' must be \(3,\), got \(\)"),
    ],
    ids=["missing", "shape", "no dimension"],
)
def test_shapes(path, change, message):
    tensors = dict(model().state_dict())
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(InputError, match=message):
        load_weights(model(), path)


def test_weights_of_a_deeper_model(path):
    deeper = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 3))
    save_weights(deeper.state_dict(), path)
    with pytest.raises(InputError, match=r"tensor '2\.bias' is not one of this model's"):
        load_weights(model(), path)


@pytest.mark.parametrize("size", [4, 1 << 40], ids=["the file's", "more than any memory"])
def test_memory_is_taken_for_what_the_file_has(path, size):
    save_weights(nn.Linear(4, 3).state_dict(), path)
    if size == 4:
        assert load_model(lambda: nn.Linear(size, 3), path).weight.device.type == "cpu"
        return
    with pytest.raises(InputError, match="tensor 'weight' must be"):
        load_model(lambda: nn.Linear(size, 3), path)
