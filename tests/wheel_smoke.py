"""Shows that an installed wheel works, away from its sources: python tests/wheel_smoke.py

The C++ core and the command need NumPy alone; with PyTorch the engine recommends, too.
"""

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

import store_engine
from store_engine._C import ItemTrie

SIDS = np.array([[0, 0], [0, 1], [1, 0], [1, 2]], dtype=np.int32)


def recommend() -> list[str]:
    """Items of a catalogue of four, by an untrained model."""
    from store_engine import Catalog, Engine
    from store_engine.config import ModelConfig
    from store_engine.model.store_model import StoreModel

    ids = ("a", "b", "c", "d")
    model = StoreModel(ModelConfig(hidden_size=32, num_layers=1), 20, (2, 3))
    engine = Engine(model, Catalog(ids, {"title": ids}), SIDS, bos=1)
    return [item.item_id for item in engine.recommend([["a", "b"]], k=4)[0]]


def main() -> None:
    """Fails loudly if anything does not work."""
    place = Path(store_engine.__file__).resolve()
    installed = Path(sysconfig.get_paths()["purelib"]).resolve()
    assert place.is_relative_to(installed), f"{place} is not the installed package"
    assert ItemTrie(SIDS, [2, 3]).num_items == 4
    command = [sys.executable, "-m", "store_engine", "--version"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == store_engine.__version__, printed
    if importlib.util.find_spec("torch") is not None:
        assert sorted(recommend()) == ["a", "b", "c", "d"]
    print(f"store_engine {store_engine.__version__} works from {place.parent}")


if __name__ == "__main__":
    main()
