"""Damages to files: blind ones for any bytes, and ones that know a format's structure.

Every function takes the content and a random generator, and returns another content. A mutant is
thus known again by its seed file and the generator's seed.
"""

import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

_INTEGERS = [0, 1, -1, 2, 7, 127, 128, 255, 256, 32767, 65535, 65536]
_INTEGERS += [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**61, 2**62, 2**63 - 1, 2**63]
_INTEGERS += [2**64 - 1, -(2**31), -(2**63)]
_NUMBERS = [*map(str, _INTEGERS), "1e9", "1e308", "1e999", "-0.0", "nan", "inf", "-inf", "0.1"]
_NUMBERS += ["9" * 30, "9" * 5000, "0x10", "1_000", "1e-320", "00", "+1"]
_STRINGS = ["", "\0", "\ufeff", '"', "'", "\n", "\r", "\\", "\t", ",", ";", "é", "日本", "\u2028"]
_STRINGS += ["../../etc/passwd", "/dev/zero", "x" * 3000, "\x1b[31m", "{", "[", "]", "}", "\\ud800"]
_BYTES = [b"\0", b"\xff", b"\x80", b"\xed\xa0\x80", b"\xf8\x88", b"\r\n", b"\n\n"]
_DEEP = "\ue000deep\ue000"  # replaced by nested lists once the JSON is text
_DEPTHS = [100, 900, 1100, 20_000, 200_000]


def blind(content: bytes, rng: random.Random) -> bytes:
    """Flips, overwrites, cuts, doubles, moves or inserts bytes anywhere."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        data = bytearray(rng.choice(_BLIND)(data, rng))
    return bytes(data)


def _flip(data: bytearray, rng: random.Random) -> bytearray:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _overwrite(data: bytearray, rng: random.Random) -> bytearray:
    width = rng.choice([1, 2, 4, 8])
    if len(data) >= width:
        value = rng.choice(_INTEGERS) % (1 << (8 * width))
        # headers stand at the beginning, a footer at the end
        near = rng.choice([64, 512, len(data)])
        at = min(rng.randrange(near), len(data) - width)
        if rng.random() < 0.3:
            at = len(data) - width - at
        data[max(at, 0) : max(at, 0) + width] = value.to_bytes(width, rng.choice(["little", "big"]))
    return data


def _slice(data: bytearray, rng: random.Random) -> tuple[int, int]:
    begin = rng.randrange(len(data) + 1)
    return begin, min(len(data), begin + rng.choice([1, 2, 8, 64, 512, 4096]))


def _cut(data: bytearray, rng: random.Random) -> bytearray:
    begin, end = _slice(data, rng)
    return data[:begin] + data[end:]


def _truncate(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data) + 1)]


def _double(data: bytearray, rng: random.Random) -> bytearray:
    begin, end = _slice(data, rng)
    return data[:end] + data[begin:end] * rng.choice([1, 1, 50]) + data[end:]


def _move(data: bytearray, rng: random.Random) -> bytearray:
    begin, end = _slice(data, rng)
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[begin:end] + data[at + end - begin :]


def _insert(data: bytearray, rng: random.Random) -> bytearray:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice([rng.choice(_BYTES), rng.randbytes(8)]) + data[at:]


def _zero(data: bytearray, rng: random.Random) -> bytearray:
    begin, end = _slice(data, rng)
    data[begin:end] = bytes(end - begin)
    return data


_BLIND = [_flip, _flip, _overwrite, _overwrite, _cut, _truncate, _double, _move, _insert, _zero]


def text(content: bytes, rng: random.Random) -> bytes:
    """Changes numbers, inserts awkward characters, doubles and drops lines."""
    words = content.decode("utf-8", "surrogateescape")
    for _ in range(rng.choice([1, 1, 2, 4])):
        words = rng.choice(_TEXT)(words, rng)
    return words.encode("utf-8", "surrogateescape")


def _number(words: str, rng: random.Random) -> str:
    found = list(re.finditer(r"-?\d+(?:\.\d+)?", words))
    if not found:
        return words
    one = rng.choice(found)
    return words[: one.start()] + rng.choice(_NUMBERS) + words[one.end() :]


def _awkward(words: str, rng: random.Random) -> str:
    at = rng.randrange(len(words) + 1)
    return words[:at] + rng.choice(_STRINGS) + words[at:]


def _lines(words: str, rng: random.Random) -> str:
    lines = words.split("\n")
    at = rng.randrange(len(lines))
    change = rng.randrange(4)
    if change == 0:
        del lines[at]
    elif change == 1:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif change == 2:
        lines[at] = lines[at] * 2
    else:
        lines[at] = ""
    return "\n".join(lines)


def _swap(words: str, rng: random.Random) -> str:
    tokens = re.split(r"(\W)", words)
    a, b = rng.randrange(len(tokens)), rng.randrange(len(tokens))
    tokens[a], tokens[b] = tokens[b], tokens[a]
    return "".join(tokens)


_TEXT = [_number, _number, _awkward, _lines, _swap]


def json_tree(content: bytes, rng: random.Random) -> bytes:
    """Replaces, removes, renames or copies values of a JSON document."""
    tree = [json.loads(content)]
    for _ in range(rng.choice([1, 1, 2, 3])):
        parent, key = rng.choice(_places(tree))
        change = rng.random()
        if change < 0.55:
            parent[key] = _other(parent[key], rng)
        elif change < 0.7 and parent is not tree:
            del parent[key]
        elif change < 0.85:
            source, at = rng.choice(_places(tree))
            parent[key] = json.loads(json.dumps(source[at]))
        elif isinstance(parent, dict):
            parent[rng.choice([*_STRINGS[:8], "added", key.upper()])] = parent[key]
        elif parent is not tree:
            parent.extend(parent[: rng.choice([1, 100])])
    words = json.dumps(tree[0])
    if json.dumps(_DEEP) in words:
        depth = rng.choice(_DEPTHS)
        ends = rng.choice([("[", "]"), ('{"a":', "}")])
        inner = "1" if ends[0] != "[" else ""
        words = words.replace(json.dumps(_DEEP), ends[0] * depth + inner + ends[1] * depth)
    return words.encode()


def _places(tree: list[Any]) -> list[tuple[Any, Any]]:
    """All (container, key) of a tree."""
    found: list[tuple[Any, Any]] = []
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            found.append((node, key))
            if isinstance(node[key], dict | list):
                waiting.append(node[key])
    return found


def _other(value: Any, rng: random.Random) -> Any:
    kinds: list[Any] = [None, True, False, {}, [], "", [value], {"a": value}, str(value), _DEEP]
    kinds += [rng.choice(_INTEGERS), rng.choice(_INTEGERS), rng.choice([1e308, -0.5, 0.1, 1e-320])]
    kinds += [float("nan"), float("inf"), rng.choice(_STRINGS), 10 ** rng.choice([20, 400])]
    if isinstance(value, int | float) and not isinstance(value, bool):
        kinds += [-value, value + 1, value - 1, value * 1000, rng.choice(_INTEGERS)] * 2
    if isinstance(value, str):
        kinds += [value * 2, value[: len(value) // 2], rng.choice(_STRINGS) + value] * 2
    return rng.choice(kinds)


def json_lines(content: bytes, rng: random.Random) -> bytes:
    """Changes one JSON document of several."""
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = json_tree(lines[at], rng)
    return b"\n".join(lines) + b"\n"


def npz(content: bytes, rng: random.Random) -> bytes:
    """Changes members of a zip file of arrays, and packs them again with right checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = rng.choice(list(members))
    change = rng.random()
    if change < 0.5:
        members[name] = npy(members[name], rng)
    elif change < 0.7:
        members[name] = blind(members[name], rng)
    elif change < 0.8:
        del members[name]
    elif change < 0.9:
        members[name] = members[rng.choice(list(members))]
    else:
        members[rng.choice(["../x.npy", "added.npy", name.upper()])] = members[name]
    compression = zipfile.ZIP_DEFLATED if rng.random() < 0.2 else zipfile.ZIP_STORED
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    result = packed.getvalue()
    if rng.random() < 0.2:  # the directory at the end
        result = result[: -len(members) * 100] + blind(result[-len(members) * 100 :], rng)
    return result


def npy(content: bytes, rng: random.Random) -> bytes:
    """Changes the header of an array, with its stated length kept right."""
    length = int.from_bytes(content[8:10], "little")
    header, data = content[10 : 10 + length].decode("latin1").rstrip(), content[10 + length :]
    change = rng.random()
    if change < 0.4:
        kinds = ["|O", "<U9", "|V8", "<f2", "<f4", "<f8", "<c16", "|b1", "<i8", ">i8", "<M8[s]"]
        kinds += ["<i4", "|S0", "<U0", "<U2147483647", "|i1", "<u8", "x", "<i4,<i4"]
        header = re.sub(r"'descr': '[^']*'", f"'descr': '{rng.choice(kinds)}'", header)
    elif change < 0.8:
        sizes = [str(rng.choice(_INTEGERS)) for _ in range(rng.choice([0, 1, 1, 2, 3, 40]))]
        header = re.sub(r"\([^)]*\)", f"({', '.join(sizes)}{',' if sizes else ''})", header)
    elif change < 0.9:
        header = header.replace("False", rng.choice(["True", "None", "1"]))
    else:
        header = text(header.encode(), rng).decode("latin1")
    padded = header.encode("latin1", "replace")[:60000] + b"\n"
    return content[:8] + len(padded).to_bytes(2, "little") + padded + data


def safetensors(content: bytes, rng: random.Random) -> bytes:
    """Changes the JSON header of a safetensors file, with its stated length kept right."""
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length]
    if rng.random() < 0.25:
        kinds = ["F64", "I64", "BOOL", "F16", "C64", "U8", "F8_E4M3", "X", "f32", "BF16"]
        old = re.findall(rb'"dtype":\s*"(\w+)"', header)
        header = header.replace(rng.choice(old), rng.choice(kinds).encode(), rng.choice([1, -1]))
    else:
        header = json_tree(header, rng)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]
