import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_engine.errors import InputError
from store_engine.files.npz import ArrayForm, read_npz

FORMS = {"codes": ArrayForm("iu", 2), "ids": ArrayForm("U", 1), "x": ArrayForm("f", 1, True)}


def read(path):
    return read_npz(path, FORMS, "a table")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.npz"


def member(header, content=b"", magic=b"\x93NUMPY\x01\x00"):
    """One array as numpy's format lays it out, with a header of one's own."""
    text = header.encode() + b"\n"
    return magic + len(text).to_bytes(2, "little") + text + content


def described(descr, shape, order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"


def write(path, codes, compression=zipfile.ZIP_STORED):
    """An npz file whose array `codes` is given as bytes."""
    ids = io.BytesIO()
    np.save(ids, np.array(["a", "b"]))
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("codes.npy", codes)
        archive.writestr("ids.npy", ids.getvalue())


@pytest.mark.parametrize("dtype", ["<i4", ">i4", "<i8", "|u1", ">u2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_in_native_order(dtype, order, path):
    codes = np.asarray(np.arange(6).reshape(2, 3), dtype=dtype, order=order)
    np.savez(path, codes=codes, ids=np.array(["a", "é"]), unknown=np.zeros(3))
    arrays = read(path)
    assert arrays.keys() == {"codes", "ids"}
    assert arrays["codes"].tolist() == codes.tolist()
    assert arrays["codes"].dtype.isnative
    assert arrays["codes"].flags["C_CONTIGUOUS"]
    assert arrays["codes"].flags["WRITEABLE"]
    assert arrays["ids"].tolist() == ["a", "é"]


def test_rows_that_are_none_may_be_wide(path):
    np.savez(path, ids=np.zeros((0, 4000), np.int32))
    assert read_npz(path, {"ids": ArrayForm("i", 2)}, "a table")["ids"].shape == (0, 4000)


BAD_HEADERS = {
    "object": (described("'|O'", "(1, 1)"), b"x" * 8),
    "record": (described("[('a', '<i4')]", "(1, 1)"), b"x" * 4),
    "record by name": (described("'i4,i4'", "(1, 1)"), b"x" * 8),
    "void": (described("'V4'", "(1, 1)"), b"x" * 4),
    "float": (described("'<f8'", "(1, 1)"), b"x" * 8),
    "empty string": (described("'<U0'", "(1, 1)"), b""),
    "dates": (described("'<M8[s]'", "(1, 1)"), b"x" * 8),
    "no dtype": (described("'hello'", "(1, 1)"), b"x" * 8),
    "one dimension": (described("'<i4'", "(1,)"), b"x" * 4),
    "beyond the file": (described("'<i4'", "(1 << 40, 1)".replace("1 << 40", str(1 << 40))), b""),
    "overflow": (described("'<i8'", f"({1 << 62}, 4)"), b""),
    "overflow to the size": (described("'<i8'", f"({(1 << 61) + 1}, 1)"), b"x" * 8),
    "empty but long": (described("'<i4'", f"({1 << 60}, 0)"), b""),
    "negative": (described("'<i4'", "(-1, -1)"), b"x" * 4),
    "bool": (described("'<i4'", "(True, True)"), b"x" * 4),
    "no tuple": (described("'<i4'", "[1, 1]"), b"x" * 4),
    "too short": (described("'<i4'", "(2, 2)"), b"x" * 12),
    "too long": (described("'<i4'", "(2, 2)"), b"x" * 20),
    "code": ("__import__('os').system('true')", b""),
    "keys": ("{'descr': '<i4'}", b""),
    "nested": ("(" * 2000 + ")" * 2000, b""),
    "minus": ("-" * 3000 + "1", b""),
    "huge number": (described("'<i4'", f"({'9' * 4000}, 1)"), b""),
    "no text": ("\xff\xfe", b""),
    "nothing": ("", b""),
}


@pytest.mark.parametrize(("header", "content"), BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_bad_header_is_refused_before_anything_is_allocated(header, content, path):
    write(path, member(header, content))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"x\.npz: not a table: ."):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY", b"\x93NUMPY\x09\x00" + b"x" * 80, b"\x93NUMPY\x02\x00\xff\xff\xff\x7f"],
    ids=["empty", "magic", "version", "header of 2 GiB"],
)
def test_a_member_that_is_no_array_is_refused(content, path):
    write(path, content)
    with pytest.raises(InputError, match="not a table"):
        read(path)


def test_what_is_compressed_is_refused(path):
    header = described("'<i4'", f"({1 << 20}, 16)")
    write(path, member(header, bytes(1 << 26)), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 18
    with pytest.raises(InputError, match="'codes' must be stored uncompressed"):
        read(path)


def test_what_is_no_character_is_refused(path):
    for code in (0x110000, 0xD800, 0xFFFFFFFF):
        ids = np.array([code], dtype=np.uint32).view("<U1")
        np.savez(path, codes=np.zeros((1, 1), np.int32), ids=ids)
        with pytest.raises(InputError, match="what is no character"):
            read(path)


def test_a_missing_array_is_named(path):
    np.savez(path, codes=np.zeros((1, 1), np.int32))
    with pytest.raises(InputError, match="has no array 'ids'"):
        read(path)


@given(st.data())
def test_damage_is_refused_or_leaves_the_arrays_as_they_were(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    codes, ids = np.arange(12, dtype=np.int32).reshape(4, 3), np.array(["a", "bb", "c", "d"])
    np.savez(path, codes=codes, ids=ids)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place : place + data.draw(st.integers(1, 40))]
    path.write_bytes(content)
    try:
        arrays = read(path)
    except InputError:
        return
    assert arrays["codes"].tolist() == codes.tolist()
    assert arrays["ids"].tolist() == ids.tolist()
