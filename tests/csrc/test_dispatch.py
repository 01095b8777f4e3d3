import os
import subprocess
import sys

import numpy as np
import pytest

from store_engine._C import ItemTrie, beam_step, simd_targets


def searches() -> bytes:
    """Searches that reach every kernel: few or most codes below a node, both modes, bfloat16."""
    rng = np.random.default_rng(0)
    results = []
    for size, num_items, mode in [
        (40, 9000, "fast"),
        (40, 9000, "compact"),
        (300, 20_000, "compact"),
        (300, 500_000, "fast"),
    ]:
        trie = ItemTrie(rng.integers(0, size, (num_items, 3), np.int32), [size] * 3, mode=mode)
        step = (np.zeros((3, 1), np.float32), np.zeros((3, 1), np.int64), np.ones(3, np.int64))
        for level in range(3):
            logits = rng.normal(0, 3, (3, step[0].shape[1], size)).astype(np.float32)
            if level == 1:
                logits = (logits.view(np.uint32) >> 16).astype(np.uint16)
            got = beam_step(trie, level, logits, *step, 70)
            step = (got.scores, got.nodes, got.num_valid)
            results += [array.tobytes() for array in got]
    return b"".join(results)


def run(simd):
    environment = {**os.environ, "STORE_ENGINE_SIMD": simd}
    return subprocess.run([sys.executable, __file__], env=environment, capture_output=True)


@pytest.mark.parametrize("simd", simd_targets())
def test_every_instruction_set_finds_the_same(simd):
    assert run(simd).stdout == searches()


@pytest.mark.parametrize("name", ["mmx", "AVX2", "avx512,avx2", " baseline"])
@pytest.mark.parametrize(
    "call",
    [
        "_C.simd_targets()",
        "_C.ItemTrie(np.zeros((1, 1), np.int32), [1])",
        "x = np.ones((1, 1), np.float32); _C.rms_norm(x, x[0], x, 1e-5)",
    ],
    ids=["simd_targets", "ItemTrie", "rms_norm"],
)
def test_an_unknown_instruction_set_is_one_clear_error(name, call):
    environment = {**os.environ, "STORE_ENGINE_SIMD": name}
    code = f"import numpy as np; from store_engine import _C; {call}"
    failed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    last = failed.stderr.decode().strip().splitlines()[-1]
    assert failed.returncode == 1
    known = ", ".join(reversed(simd_targets()))
    assert last.startswith("ValueError: STORE_ENGINE_SIMD must be one of baseline")
    assert last.endswith(f"got '{name}'")
    assert known in last or "STORE_ENGINE_SIMD" in os.environ


def test_the_variable_is_an_upper_limit():
    environment = {**os.environ, "STORE_ENGINE_SIMD": "baseline"}
    code = "from store_engine._C import simd_targets; print(*simd_targets())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.split() == [b"baseline"]
    assert simd_targets()[-1] == "baseline"


if __name__ == "__main__":
    sys.stdout.buffer.write(searches())
