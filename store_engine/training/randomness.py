"""Random streams by name: what is drawn is a function of the seed and the purpose alone.

A stream never depends on what was drawn before it, so a resumed training needs no saved state.
"""

import numpy as np
import torch


def rng(seed: int, *path: str | int) -> np.random.Generator:
    """Makes the generator of one purpose.

    Args:
        seed: The run's seed.
        path: Names and numbers of the purpose, such as `("recommender", epoch, "order")`.
    """
    return np.random.default_rng(_sequence(seed, *path))


def seed_torch(seed: int, *path: str | int) -> None:
    """Seeds PyTorch's global generators, from which dropout draws, for one purpose."""
    torch.manual_seed(int(_sequence(seed, *path).generate_state(1)[0]))


def _sequence(seed: int, *path: str | int) -> np.random.SeedSequence:
    entropy = [seed]
    for part in path:
        entropy += part.encode() if isinstance(part, str) else [part]
    return np.random.SeedSequence(entropy)
