import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_engine.errors import InputError
from store_engine.files import token_file
from store_engine.files.token_file import TokenFile

DOCUMENTS = [[3, 1, 4], [], [1, 5], [9]]


@pytest.fixture
def folder(tmp_path):
    TokenFile.write(tmp_path / "corpus", DOCUMENTS)
    return tmp_path / "corpus"


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5)), st.integers(1, 4))
def test_what_was_written_comes_back(tmp_path_factory, documents, buffer_tokens):
    folder = tmp_path_factory.mktemp("tokens") / "corpus"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_file, "_BUFFER_TOKENS", buffer_tokens)
        file = TokenFile.write(folder, documents)
    file.verify()
    assert [document.tolist() for document in file] == documents


def test_documents_are_mapped_not_read(folder):
    file = TokenFile(folder)
    assert isinstance(file.tokens, np.memmap)
    assert isinstance(file.offsets, np.memmap)
    assert np.shares_memory(file[0], file.tokens)
    with pytest.raises(ValueError, match="read-only"):
        file.tokens[0] = 1


@pytest.mark.parametrize("document", [-1, 4])
def test_a_position_beyond_the_documents_is_refused(document, folder):
    with pytest.raises(IndexError, match=r"must be in \[0, 4\)"):
        TokenFile(folder)[document]


@pytest.mark.parametrize("document", [[-1], [2**16]])
def test_ids_that_do_not_fit_are_refused(document, tmp_path):
    with pytest.raises(ValueError, match="must fit uint16"):
        TokenFile.write(tmp_path / "corpus", [document], "uint16")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "tokens.bin").write_bytes(b"abc"),
        lambda folder: (folder / "tokens.bin").unlink(),
        lambda folder: (folder / "offsets.npy").write_bytes(b"abc"),
        lambda folder: (folder / "checksums.json").write_text("{"),
        lambda folder: (folder / "checksums.json").write_text(json.dumps({"dtype": "<i4"})),
        lambda folder: (folder / "checksums.json").unlink(),
    ],
    ids=["truncated", "no tokens", "offsets", "json", "keys", "unfinished"],
)
def test_damage_is_refused(damage, folder):
    damage(folder)
    with pytest.raises(InputError, match="corpus: not a readable token file"):
        TokenFile(folder)


def changed(folder, **values):
    path = folder / "checksums.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


SUMS = {"tokens.bin": "0" * 64, "offsets.npy": "0" * 64}


@pytest.mark.parametrize(
    "values",
    [
        {"dtype": "|O"},
        {"dtype": "<f4"},
        {"dtype": "<i4,<i4"},
        {"dtype": ">i4"},
        {"dtype": 4},
        {"dtype": "<i8"},
        {"num_tokens": 7},
        {"num_tokens": -1},
        {"num_tokens": True},
        {"num_tokens": 6.0},
        {"num_tokens": 1 << 62},
        {"num_tokens": None},
        {"sha256": {}},
        {"sha256": []},
        {"sha256": SUMS | {"../../etc/passwd": "0" * 64}},
        {"sha256": SUMS | {"tokens.bin": None}},
    ],
    ids=str,
)
def test_metadata_is_not_believed(values, folder):
    changed(folder, **values)
    with pytest.raises(InputError, match="corpus: not a readable token file"):
        TokenFile(folder)


@pytest.mark.parametrize(
    "offsets",
    [
        np.array([0, 3, 3, 5]),
        np.array([1, 3, 3, 5, 6]),
        np.array([0, 3, 2, 5, 6]),
        np.array([0, 3, 3, 99, 6]),
        np.array([0, -3, 3, 5, 6]),
        np.array([], dtype=np.int64),
        np.array([0, 3, 3, 5, 6], dtype=np.int32),
        np.array([0, 3, 3, 5, 6], dtype=np.float64),
        np.array([[0, 3, 3, 5, 6]]),
        np.array([0, 3, 3, 5, None], dtype=object),
    ],
    ids=lambda offsets: f"{offsets.tolist()}-{offsets.dtype}",
)
def test_offsets_are_not_believed(offsets, folder, monkeypatch):
    monkeypatch.setattr(token_file, "_BUFFER_TOKENS", 2)
    np.save(folder / "offsets.npy", offsets, allow_pickle=True)
    with pytest.raises(InputError, match="corpus: not a readable token file"):
        TokenFile(folder)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["tokens.bin", "offsets.npy", "checksums.json"])
def test_a_fifo_does_not_block(name, folder):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match="must be a regular file, is a FIFO"):
        TokenFile(folder)


@pytest.mark.parametrize("dtype", ["float32", "object", "int16", ">i4"])
def test_only_known_dtypes_are_written(dtype, tmp_path):
    with pytest.raises(ValueError, match="dtype must be uint8, uint16, int32 or int64"):
        TokenFile.write(tmp_path / "corpus", DOCUMENTS, dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64"])
def test_every_dtype_comes_back(dtype, tmp_path):
    file = TokenFile.write(tmp_path / "corpus", DOCUMENTS, dtype)
    assert file.tokens.dtype == dtype
    assert [document.tolist() for document in file] == DOCUMENTS


def test_changed_tokens_are_found(folder):
    content = bytearray((folder / "tokens.bin").read_bytes())
    content[0] ^= 1
    (folder / "tokens.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"tokens\.bin: damaged"):
        TokenFile(folder).verify()
