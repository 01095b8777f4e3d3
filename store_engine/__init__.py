"""Semantic-ID generative recommendation with one language model.

A name is loaded when it is first used: importing the package alone needs no PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from store_engine._C import ItemTrie
    from store_engine.config import Config, load_config
    from store_engine.decoding.engine import Engine, Recommendation
    from store_engine.errors import InputError

__version__ = "0.1.0"

__all__ = ["Config", "Engine", "InputError", "ItemTrie", "Recommendation", "load_config"]

_MODULES = {
    "Config": "store_engine.config",
    "Engine": "store_engine.decoding.engine",
    "InputError": "store_engine.errors",
    "ItemTrie": "store_engine._C",
    "Recommendation": "store_engine.decoding.engine",
    "load_config": "store_engine.config",
}


def __getattr__(name: str) -> Any:
    """Loads a public name (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names, loaded or not."""
    return sorted({*globals(), *__all__})
