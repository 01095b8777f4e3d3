"""The layering of the package: who may import whom. Change the table with care."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
# low to high: a layer imports itself and those before it
LAYERS = [
    "errors",
    "terminal",
    "kernels",
    "testing",
    "_C",
    "files",
    "config",
    "data",
    "text",
    "model",
    "sid",
    "runs",
    "catalog",
    "inference",
    "decoding",
    "training",
    "evaluation",
    "integrations",
    "cli",
]
ENTRY_POINTS = {"__init__", "__main__", "train"}
FREE_OF_PACKAGE = {"numpy", "torch", "triton"}  # what a kernel may import besides its own layer


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def layers_imported(path: Path) -> set[str]:
    """The layers of store_engine that `path` imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("store_engine.")}


def test_every_module_belongs_to_a_layer():
    found = {path.stem for path in (ROOT / "store_engine").iterdir() if path.suffix == ".py"}
    found |= {path.parent.name for path in (ROOT / "store_engine").glob("*/__init__.py")}
    assert found <= {*LAYERS, *ENTRY_POINTS}


def test_layers_only_import_lower_ones():
    checked = 0
    for rank, layer in enumerate(LAYERS):
        base = ROOT / "store_engine" / layer
        for path in [base.with_suffix(".py"), *base.rglob("*.py")]:
            if path.exists():
                checked += 1
                assert layers_imported(path) <= set(LAYERS[: rank + 1]), path
    assert checked > 20


def test_kernels_know_torch_and_triton_alone():
    standard = {"collections", "functools", "math", "os", "typing"}
    for path in (ROOT / "kernels").glob("*.py"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert roots <= {*standard, *FREE_OF_PACKAGE, "store_engine"}, path
        assert layers_imported(path) <= {"kernels"}, path


def test_core_is_free_of_python():
    headers = list((ROOT / "csrc" / "store_engine").glob("*.h"))
    assert headers
    for header in headers:
        includes = [line for line in header.read_text().splitlines() if line.startswith("#include")]
        assert not any("pybind11" in i or "Python.h" in i or "torch" in i for i in includes), header


def test_names_at_the_top_shadow_no_package():
    # a script started as store_engine/train.py has store_engine/ first on sys.path
    taken = {"tokenize", "types", "profile", "datasets", "queue", "random", "select", "logging"}
    assert not taken & {path.stem for path in (ROOT / "store_engine").iterdir()}
