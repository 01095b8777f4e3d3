import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine._C import ItemTrie

SIDS = np.random.default_rng(0).integers(0, [4, 3, 999], (50, 3), dtype=np.int32)
SIZES = [4, 3, 1000]


def contents(trie):
    leaves = np.arange(trie.level_sizes[-1], dtype=np.int64)
    arrays = [array for level in range(trie.num_levels) for array in trie.level(level)]
    return trie.codebook_sizes, [a.tolist() for a in (*arrays, *trie.leaf_rows(leaves))]


def checksum(data):
    """The checksum of serialize.h, so that a hostile file can carry a right one."""
    state, mask = 2, 2**64 - 1
    for (word,) in struct.iter_unpack("<Q", data[24:]):
        state = (state ^ word) * 0x9E3779B97F4A7C15 & mask
        state ^= state >> 32
    return state


@pytest.fixture(scope="module", params=["fast", "compact"])
def saved(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("trie") / "trie.bin"
    ItemTrie(SIDS, SIZES, mode=request.param).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("mode", ["fast", "compact"])
@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("num_items", [0, 1, 4, 63, 1000, 5000])
def test_load_equals_what_was_saved(tmp_path, num_items, is_sorted, mode):
    rng = np.random.default_rng(0)
    sids = rng.integers(0, SIZES, (num_items, 3)).astype(np.int32)
    if is_sorted:
        sids = sids[np.lexsort(sids.T[::-1])].copy()
    trie = ItemTrie(sids, SIZES, mode=mode)
    trie.save(tmp_path / "trie.bin")
    loaded = ItemTrie.load(tmp_path / "trie.bin")
    assert contents(loaded) == contents(trie)
    assert (loaded.num_items, loaded.memory()) == (num_items, trie.memory())
    assert [p.name for p in tmp_path.iterdir()] == ["trie.bin"]


def test_replacing_the_file_leaves_open_tries_alone(tmp_path):
    path = tmp_path / "trie.bin"
    ItemTrie(SIDS, SIZES).save(path)
    loaded = ItemTrie.load(str(path))
    tokens = loaded.level(2)[1]
    before = contents(loaded)
    ItemTrie(SIDS[:1], SIZES).save(path)
    assert contents(loaded) == before
    assert ItemTrie.load(path).num_items == 1
    del loaded
    assert tokens.tolist() == before[1][5]


def test_every_flipped_byte_is_refused(saved, tmp_path):
    path = tmp_path / "trie.bin"
    for position in range(len(saved)):
        damaged = bytearray(saved)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="trie file"):
            ItemTrie.load(path)


def test_every_truncation_is_refused(saved, tmp_path):
    path = tmp_path / "trie.bin"
    for size in range(len(saved)):
        path.write_bytes(saved[:size])
        with pytest.raises(ValueError, match="trie file"):
            ItemTrie.load(path)
    path.write_bytes(saved + bytes(64))
    with pytest.raises(ValueError, match="trie file"):
        ItemTrie.load(path)


@settings(deadline=None)
@given(st.data())
def test_a_hostile_file_never_crashes(saved, tmp_path_factory, data):
    """Any word may be anything, under a right checksum: refused, or a trie that is safe to walk."""
    hostile = bytearray(saved)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(3, len(saved) // 8 - 1)) * 8
        word = data.draw(st.one_of(st.integers(0, 8), st.integers(0, 2**64 - 1)))
        hostile[position : position + 8] = struct.pack("<Q", word)
    hostile[16:24] = struct.pack("<Q", checksum(hostile))
    path = tmp_path_factory.mktemp("hostile") / "trie.bin"
    path.write_bytes(hostile)
    try:
        trie = ItemTrie.load(path)
    except ValueError:
        return
    assert sorted(contents(trie)[1][-1]) == list(range(trie.num_items))


def test_the_checksum_here_is_the_one_there(saved):
    assert struct.unpack_from("<Q", saved, 16) == (checksum(saved),)


@pytest.mark.parametrize("value", [2**64 - 1, 2**62, 2**40])
def test_huge_sizes_are_refused_without_allocating(saved, tmp_path, value):
    num_numbers = struct.unpack_from("<Q", saved, 24)[0]
    for word in range(3, 4 + num_numbers):
        hostile = bytearray(saved)
        hostile[word * 8 : word * 8 + 8] = struct.pack("<Q", value)
        hostile[16:24] = struct.pack("<Q", checksum(hostile))
        (tmp_path / "trie.bin").write_bytes(hostile)
        with pytest.raises(ValueError, match="trie file"):
            ItemTrie.load(tmp_path / "trie.bin")


def test_file_errors_are_os_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.bin"):
        ItemTrie.load(tmp_path / "none.bin")
    with pytest.raises(FileNotFoundError):
        ItemTrie(SIDS, SIZES).save(tmp_path / "none" / "trie.bin")
    with pytest.raises(ValueError, match="not a regular file"):
        ItemTrie.load(tmp_path)
    with pytest.raises(IsADirectoryError):
        ItemTrie(SIDS, SIZES).save(tmp_path)
    assert list(tmp_path.parent.rglob("*part-*")) == []


@pytest.mark.parametrize("name", ["t" * 255, ".", "trie", "a b\n"], ids=len)
def test_a_name_may_be_any_that_the_file_system_takes(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if name == ".":
        with pytest.raises(OSError):
            ItemTrie(SIDS, SIZES).save(name)
    else:
        ItemTrie(SIDS, SIZES).save(name)  # without a folder: into the current one
        assert ItemTrie.load(name).num_items == len(SIDS)
    assert [p.name for p in tmp_path.iterdir()] == [name] * (name != ".")


def test_a_link_is_replaced_and_what_it_names_left_alone(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "trie.bin"
    victim.write_text("precious")
    path.symlink_to(victim)
    ItemTrie(SIDS, SIZES).save(path)
    assert victim.read_text() == "precious"
    assert not path.is_symlink()
    assert ItemTrie.load(path).num_items == len(SIDS)
