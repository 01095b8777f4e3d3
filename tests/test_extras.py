"""What a bare installation has is enough to recommend; what it lacks is named with its extra."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from store_engine.extras import MODULES, MissingExtraError, needs
from store_engine.runs.run_directory import RunDirectory

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {"faiss": "faiss-cpu", "sklearn": "scikit-learn"}  # where the names differ
CORE = {"torch", "torchgen", "functorch", "numpy", "safetensors", "sentencepiece"}
OF_TORCH = {"typing_extensions", "filelock", "sympy", "mpmath", "networkx", "jinja2", "markupsafe"}
OF_TORCH |= {"fsspec", "setuptools", "_distutils_hack", "tqdm"}  # tqdm: where it is installed
OPTIONAL = {"flash_attn", "liger_kernel"}  # looked for: nothing fails without them
OPTIONAL |= {"vllm", "sglang"}  # who loads these modules of ours has them

# a fresh interpreter in which nothing can be imported that a bare installation has not
BARE = f"""
import sys
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set().union(*MODULES.values()) | {"pandas"}!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Bare())
"""
RECOMMEND = """
import json
from store_engine import Engine
engine = Engine.load(sys.argv[1])
found = engine.recommend([["item 3", "item 1"], []], k=5)
places = {name.partition(".")[0] for name, module in list(sys.modules.items())
          if "site-packages" in (getattr(module, "__file__", None) or "")
          and not name.startswith("__editable__")}
print(json.dumps({"found": found, "loaded": sorted(places)}))
"""


def requirements(extra: str | None = None) -> set[str]:
    """Canonical names of what the core or an extra installs, the package's own extras resolved."""
    texts = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    found: set[str] = set()
    for one in map(Requirement, texts):
        if one.name == PROJECT["name"]:
            found |= set().union(*(requirements(inner) for inner in one.extras))
        else:
            found.add(canonicalize_name(one.name))
    return found


def imported() -> set[str]:
    """Top-level modules that the package imports anywhere."""
    names: set[str] = set()
    for folder in ("store_engine", "kernels"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"store_engine", "__future__"}


def test_every_import_is_a_dependency_or_an_extra_s():
    of_extras = {module: extra for extra, modules in MODULES.items() for module in modules}
    for module in imported() - OPTIONAL:
        distribution = DISTRIBUTIONS.get(module, canonicalize_name(module))
        assert distribution in requirements(of_extras.get(module)), module
        assert (distribution in requirements()) == (module not in of_extras), module
    assert set(of_extras) - imported() == {"tensorboard"}  # loaded by PyTorch


def test_the_core_is_four_packages():
    assert requirements() == {"numpy", "safetensors", "sentencepiece", "torch"}
    assert not {"deepspeed", "ninja"} & requirements("data")
    assert "deepspeed" in requirements("train")


def start(program: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_a_bare_installation_recommends_as_a_full_one_does(run_with_evidence):
    bare = start(BARE + RECOMMEND, run_with_evidence)
    assert bare.returncode == 0, bare.stderr
    result = json.loads(bare.stdout)
    assert set(result["loaded"]) <= CORE | OF_TORCH, set(result["loaded"]) - CORE - OF_TORCH
    assert result["found"][0][0][0] == "item 2"  # what the evidence votes for
    full = start("import sys\n" + RECOMMEND, run_with_evidence)
    assert result["found"] == json.loads(full.stdout)["found"]


VERBS = [
    ("recommend", ["RUN", "--history", "item 3"], "cli"),
    ("evaluate", ["RUN"], "train"),
    ("plot", ["RUN"], "watch"),
    ("export", ["RUN", "--to", "OUT"], "export"),
    ("train", ["--ds_config", "configs/zero0.json"], "train"),
]


@pytest.mark.parametrize(("verb", "arguments", "extra"), VERBS, ids=[verb for verb, *_ in VERBS])
def test_a_verb_names_the_extra_that_it_lacks(verb, arguments, extra, run_dir, tmp_path):
    with RunDirectory.open_to_write(run_dir) as run:
        step = {"stage": "recommender", "step": 1, "loss": 1.0, "lr": 0.1, "wall_s": 1.0}
        run.log.write_text(json.dumps(step | {"tokens_per_s": 1.0}) + "\n")
    known = {"RUN": run_dir, "OUT": tmp_path / "out", "EXPORTED": tmp_path}
    arguments = [known.get(argument, argument) for argument in arguments]
    program = BARE + "from store_engine.cli.main import main\nsys.exit(main())"
    done = start(program, verb, *arguments)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert re.search(
        rf"needs \w+, which is not installed: pip install 'store-engine\[{extra}\]'", line
    )


def test_reading_a_table_names_the_extra_that_it_lacks(tmp_path):
    items = tmp_path / "items.csv"
    items.write_text("id,title\n1,One\n")
    read = (
        "from store_engine.data.readers import read_items\nread_items(sys.argv[1], 'id', ['title'])"
    )
    done = start(BARE + read, items)
    assert f"{items} needs pyarrow, which is not installed: pip install 'store-engine[data]'" in (
        done.stderr
    )


def test_needs_leaves_other_errors_alone():
    with pytest.raises(ModuleNotFoundError, match="no_such") as caught, needs("this"):
        import no_such  # noqa: F401
    assert not isinstance(caught.value, MissingExtraError)
    with pytest.raises(ImportError, match=r"this needs scipy, .*\[train\]"), needs("this"):
        raise ModuleNotFoundError("No module named 'scipy.sparse'", name="scipy.sparse")
