"""Semantic-ID generative recommendation with one language model.

The names below are loaded when they are first used: `import store_engine` itself costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from store_engine._C import ItemTrie
    from store_engine.config import Config, load_config
    from store_engine.data.catalog import Catalog
    from store_engine.decoding.engine import Engine, Recommendation
    from store_engine.errors import InputError
    from store_engine.runs.run import Run, load_run

__version__ = "0.1.0"

__all__ = [
    "Catalog",
    "Config",
    "Engine",
    "InputError",
    "ItemTrie",
    "Recommendation",
    "Run",
    "load_config",
    "load_run",
]

_MODULES = {
    "Catalog": "data.catalog",
    "Config": "config",
    "Engine": "decoding.engine",
    "InputError": "errors",
    "ItemTrie": "_C",
    "Recommendation": "decoding.engine",
    "Run": "runs.run",
    "load_config": "config",
    "load_run": "runs.run",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'store_engine' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"store_engine.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
