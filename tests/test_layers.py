"""The layering of the package: who may import whom. Change the table with care."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
# low to high: a layer imports itself and those before it
LAYERS = [
    "errors",
    "extras",
    "terminal",
    "waiting",
    "kernels",
    "testing",
    "_C",
    "files",
    "config",
    "data",
    "prepare",
    "text",
    "collaborative",
    "model",
    "sid",
    "runs",
    "catalog",
    "live",
    "inference",
    "decoding",
    "training",
    "evaluation",
    "serving",
    "integrations",
    "experiments",
    "report",
    "cli",
]
ENTRY_POINTS = {"__init__", "__main__", "train"}
# rooms of csrc/store_engine and the rooms that each may include besides itself
CORE_ROOMS = {
    "base": set(),
    "simd": {"base"},
    "trie": {"base", "simd"},
    "search": {"base", "simd", "trie"},
    "model": {"base", "simd"},
}
# what a room may include besides the C++ standard library
SYSTEM_HEADERS = {
    "base": {
        *("dlfcn.h", "fcntl.h", "link.h", "pthread.h", "unistd.h"),
        *("sys/mman.h", "sys/stat.h"),
    },
    "simd": {"arm_neon.h", "immintrin.h"},
}
QUOTED = re.compile(r'^#(?:include|define STORE_ENGINE_KERNELS) "([^"]+)"', re.M)
ANGLED = re.compile(r"^#include <([^>]+)>", re.M)
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
    standard = {
        *("collections", "contextlib", "functools", "importlib"),
        *("math", "os", "sys", "typing"),
    }
    for path in (ROOT / "kernels").rglob("*.py"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert roots <= {*standard, *FREE_OF_PACKAGE, "store_engine"}, path
        assert layers_imported(path) <= {"kernels"}, path


def test_core_includes_downward_only():
    core = ROOT / "csrc" / "store_engine"
    assert {path.name for path in core.iterdir()} == set(CORE_ROOMS)
    checked = 0
    for header in core.rglob("*.h"):
        checked += 1
        room = header.parent.name
        text = header.read_text(encoding="utf-8")
        assert "detail::" not in text, header  # what another header uses is no detail
        for name in QUOTED.findall(text):
            assert name.startswith("store_engine/"), (header, name)
            assert (ROOT / "csrc" / name).is_file(), (header, name)
            assert name.split("/")[1] in {room, *CORE_ROOMS[room]}, (header, name)
        for name in ANGLED.findall(text):  # the C++ standard's names have no ending
            assert "." not in name or name in SYSTEM_HEADERS.get(room, set()), (header, name)
    assert checked > 20


def test_bindings_alone_know_python_and_no_name_is_there_twice():
    names = [path.name for path in (ROOT / "csrc").rglob("*.h")]
    assert len(names) == len(set(names))
    for path in (ROOT / "csrc" / "bindings").iterdir():
        text = path.read_text(encoding="utf-8")
        rooms = {name.split("/")[0] for name in QUOTED.findall(text)}
        assert rooms <= {"bindings", "store_engine"}, path
        before = text.partition("namespace store_engine::bindings {")[0]
        assert not re.search(r"^\s*using ", before, re.M), path


def test_names_at_the_top_shadow_no_package():
    # a script started as store_engine/train.py has store_engine/ first on sys.path
    taken = {"tokenize", "types", "profile", "datasets", "queue", "random", "select", "logging"}
    assert not taken & {path.stem for path in (ROOT / "store_engine").iterdir()}
