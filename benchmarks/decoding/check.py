"""Whether searches agree: before that nothing is timed."""

import numpy as np

from benchmarks.decoding.cases import Case
from benchmarks.peers.searches import SHIFTED, Search

NUM_CHECKED = 2  # requests of a batch whose items are compared


def check(
    case: Case,
    histories: list[list[int]],
    truth: dict[str, Search],
    searches: dict[str, Search],
    atol: float = 1e-3,
) -> None:
    """Refuses to go on unless all searches agree.

    In float32, log-probabilities must be equal rank by rank to `atol`, and so must the items, but
    where two neighbours are closer than that. In bfloat16 a beam may go another way where two
    prefixes are close, so most items must be those of float32, and no search may be off by more
    than twice what plain PyTorch is.

    Raises:
        AssertionError: They do not agree.
    """
    results = {name: run(histories, case.beam) for name, run in truth.items()}
    rows, logprobs = results["ours"]
    gap = np.abs(np.diff(logprobs, axis=1)) > 2 * atol
    edge = np.ones((len(rows), 1), dtype=bool)
    is_clear = np.hstack([edge, gap]) & np.hstack([gap, ~edge])
    assert is_clear.mean() > 0.5, "the scores are too close to compare items"
    for name, (other_rows, other_logprobs) in results.items():
        error = np.abs(other_logprobs - logprobs).max()
        assert error < atol, f"{case.name}: {name} differs from ours by {error:.2e}"
        same = (rows == other_rows) | ~is_clear
        assert same.all(), f"{case.name}: {name} returns other items than ours"
    if searches is not truth:
        errors = {}
        for name, run in searches.items():
            other_rows, other_logprobs = run(histories, case.beam)
            is_same = other_rows[:, :, None] == rows[:, None]  # (batch, theirs, ours)
            assert is_same.any(2).mean() > 0.5, f"{case.name}: {name} returns other items"
            difference = other_logprobs[:, :, None] - logprobs[:, None]
            if name in SHIFTED:
                matched = np.where(is_same, difference, np.nan)
                difference -= np.nanmedian(matched, axis=(1, 2), keepdims=True)
            errors[name] = np.abs(difference[is_same]).max()
        for name, error in errors.items():
            assert error < 2 * errors["torch_fallback"] + 0.05, f"{case.name}: {name}: {errors}"
