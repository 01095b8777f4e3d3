"""Semantic-ID generative recommendation with one language model."""

from store_engine._C import ItemTrie
from store_engine.config import Config, load_config
from store_engine.decoding.engine import Engine, Recommendation
from store_engine.errors import InputError

__version__ = "0.1.0"

__all__ = ["Config", "Engine", "InputError", "ItemTrie", "Recommendation", "load_config"]
