"""What an import costs: which modules it loads."""

import subprocess
import sys

import pytest

import store_engine

HEAVY = {
    "torch", "numpy", "triton", "faiss", "deepspeed", "pyarrow", "sentencepiece", "rich",
    "safetensors", "tokenizers", "transformers", "gguf", "matplotlib", "scipy", "sympy",
}  # fmt: skip
ENGINE = {"torch", "numpy", "safetensors"}


def loaded_by(statement):
    """The heavy modules that a fresh interpreter loads for a statement."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return HEAVY & set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import store_engine", set()),
        ("import store_engine.kernels", set()),
        ("from store_engine import Config, InputError, load_config", set()),
        ("from store_engine import load_run, Run", {"numpy"}),
        ("import store_engine.cli.check", {"numpy"}),
        ("from store_engine import Catalog", {"numpy"}),
        ("import store_engine.kernels.trie_topk", {"torch", "numpy"}),
        ("from store_engine import Engine", ENGINE),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_import_loads_what_it_needs(statement, allowed):
    assert loaded_by(statement) <= allowed


def test_public_names_are_there_and_few():
    assert len(store_engine.__all__) <= 15
    assert set(store_engine._MODULES) == set(store_engine.__all__)
    assert set(store_engine.__all__) <= set(dir(store_engine))
    for name in store_engine.__all__:
        assert getattr(store_engine, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'no_such'"):
        _ = store_engine.no_such
