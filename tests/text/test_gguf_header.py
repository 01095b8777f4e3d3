import os
import struct

import pytest

from store_engine.errors import InputError
from store_engine.text.gguf_file import GGUFFile
from store_engine.text.gguf_header import check_header

gguf = pytest.importorskip("gguf")
BLOCKS = {0: (1, 4), 2: (32, 18)}  # F32, Q4_0


def text(value):
    return struct.pack("<Q", len(value)) + value


def pair(key=b"k", kind=4, value=b"\0\0\0\0"):
    return text(key) + struct.pack("<I", kind) + value


def array(inner, count, values=b""):
    return struct.pack("<IQ", inner, count) + values


def tensor(name=b"t", shape=(2, 3), kind=0, offset=0, num_dimensions=None):
    count = len(shape) if num_dimensions is None else num_dimensions
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", count) + sizes + struct.pack("<IQ", kind, offset)


def file(pairs=(), tensors=(), data=bytes(24), num_pairs=None, num_tensors=None, magic=b"GGUF"):
    counts = [len(x) if n is None else n for x, n in ((tensors, num_tensors), (pairs, num_pairs))]
    head = magic + struct.pack("<IQQ", 3, *counts) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


RIGHT = {
    "tensors": file([pair()], [tensor(), tensor(b"u", (6,))]),
    "blocks": file([], [tensor(shape=(32, 2), kind=2)], bytes(36)),
    "no tensor": file([pair()], data=b""),
    "lists": file([pair(kind=9, value=array(8, 2, text(b"a") + text(b"")))], [tensor()]),
    "alignment": file([pair(b"general.alignment", 4, struct.pack("<I", 32))], [tensor()]),
}
WRONG = {
    "magic": file(magic=b"GGUX"),
    "tensors": file(num_tensors=2**60),
    "a tensor more": file(num_tensors=1, data=b""),
    "pairs": file(num_pairs=2**60),
    "a pair more": file(num_pairs=1, data=b""),
    "key": file([struct.pack("<Q", 2**63) + b"k"]),
    "string": file([pair(kind=8, value=struct.pack("<Q", 2**64 - 1))]),
    "list of numbers": file([pair(kind=9, value=array(4, 2**61))]),
    "list of strings": file([pair(kind=9, value=array(8, 2**40))]),
    "list of empty strings": file([pair(kind=9, value=array(8, 2**23, bytes(2**26)))]),
    "lists of lists": file([pair(kind=9, value=array(9, 1, array(9, 1, array(4, 0))))]),
    "value type": file([pair(kind=13)]),
    "list type": file([pair(kind=9, value=array(99, 1))]),
    "key twice": file([pair(), pair()]),
    "alignment 0": file([pair(b"general.alignment", 4, struct.pack("<I", 0))]),
    "alignment 3": file([pair(b"general.alignment", 4, struct.pack("<I", 3))]),
    "alignment of another type": file([pair(b"general.alignment", 8, text(b"x"))]),
    "dimensions": file([], [tensor(num_dimensions=2**31)]),
    "no dimension": file([], [tensor(shape=())]),
    "product overflows": file([], [tensor(shape=(2**32, 2**32, 1))]),
    "product wraps to little": file([], [tensor(shape=(2**62, 2**62, 2**62, 2**62))]),
    "empty tensor": file([], [tensor(shape=(0, 2**62))]),
    "blocks": file([], [tensor(shape=(31, 2), kind=2)]),
    "type": file([], [tensor(kind=77)]),
    "offset": file([], [tensor(offset=2**63)]),
    "a byte beyond": file([], [tensor(offset=1)]),
    "cut data": file([], [tensor()], bytes(23)),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("content", RIGHT.values(), ids=RIGHT)
def test_right_headers(path, content):
    path.write_bytes(content)
    check_header(path, BLOCKS)
    GGUFFile(path)


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_wrong_headers_are_refused_before_anything_is_made_of_them(path, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.gguf: not a readable GGUF file: "):
        check_header(path, BLOCKS)
    with pytest.raises(InputError, match=r"model\.gguf: not a readable GGUF file: "):
        GGUFFile(path)


@pytest.mark.parametrize("content", RIGHT.values(), ids=RIGHT)
def test_a_header_cut_anywhere(path, content):
    end = content.rindex(b"t") if b"t" in content else 24
    for length in range(0, end, 3):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="not a readable GGUF file"):
            check_header(path, BLOCKS)


@pytest.mark.parametrize("kind", ["fifo", "folder", "missing"])
def test_what_is_no_regular_file(path, kind):
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(InputError, match=r"model\.gguf: "):
        GGUFFile(path)
