"""Evidence: one sparse item-item matrix that says what follows the last events of a history.

An item's score is the sum over the last `window` events, k = 0 the latest, of
decay^k matrix[event, item]. `fit_evidence` makes it, `evidence.npz` of a run holds it. By this sum
items are named and ranked by evidence alone. Beside an LLM its terms count one by one, as experts;
where no validation users were to weigh them, the sum does.

The counts know nothing of an item that came later. An item of the history votes for it if it is
among its nearest by text, old items counted too: where many are alike, a new one has to be nearer.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from store_engine.collaborative.experts import Expert
from store_engine.data.catalog import Catalog
from store_engine.extras import needs
from store_engine.files.atomic import atomic_open
from store_engine.files.npz import ArrayForm, read_npz
from store_engine.files.regular import parse_errors

if TYPE_CHECKING:  # serving reads evidence without SciPy: what counts or ranks loads it
    import scipy.sparse as sp

    from store_engine.collaborative.neighbours import Rows

# of the space whose neighbours are a term. unit: every row of length 1, both parts in every item in
# the same proportion; norms: frequent items have longer vectors, rare ones are mostly their text
Form = Literal["unit", "norms"]
FORMS: tuple[Form, ...] = ("unit", "norms")

_TEXT_DIM = 128  # of the space whose neighbours vote for new items
_NEAREST = 50  # items by text that an item may vote for
# of a vote for the nearest, in units of log-probability: above what the model knows of new items
_SCALE = 32.0
_ARRAYS = {
    "indptr": ArrayForm("i", 1),
    "indices": ArrayForm("i", 1),
    "data": ArrayForm("f", 1),
    "decay": ArrayForm("f", 0),
    "window": ArrayForm("i", 0),
    "term_names": ArrayForm("U", 1),
    "term_weights": ArrayForm("f", 1),
    "form": ArrayForm("U", 0),
    "text_weight": ArrayForm("f", 0),
    "scale": ArrayForm("f", 0),
    # of the experts, where there are some
    "expert_names": ArrayForm("U", 1, is_optional=True),
    "expert_numbers": ArrayForm("f", 2, is_optional=True),  # weight, unit and decay of each
    "expert_data": ArrayForm("f", 2, is_optional=True),  # (num_experts, num_votes)
}


class Mix(NamedTuple):
    """How a space of co-visits and a space of text are put together."""

    form: Form
    text_weight: float


@dataclass(frozen=True)
class Evidence:
    """Votes of items for items.

    Args:
        indptr: (num_items + 1,) int64; the votes of item a are entries indptr[a]:indptr[a + 1].
        indices: (num_votes,) int32, the items voted for, ascending within an item's votes.
        data: (num_votes,) float32, not negative; an item's tenth largest is about 1.
        decay: Weight of an event against the one after it, in (0, 1].
        window: Last events of a history that vote, at least 1.
        weights: Name of each term -> its weight, as `fit_evidence` chose it.
        mix: Of the space whose neighbours are a term.
        scale: What all votes were multiplied by, above 0; see `scaled`.
        experts: What counts beside an LLM, over the same entries; without any, the sum does.

    Raises:
        ValueError: The arrays do not describe such a matrix.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    data: NDArray[np.float32]
    decay: float
    window: int
    weights: dict[str, float]
    mix: Mix
    scale: float = 1.0
    experts: tuple[Expert, ...] = ()

    def __post_init__(self) -> None:
        """Refuses arrays that no reader could follow."""
        arrays = (self.indptr, np.int64), (self.indices, np.int32), (self.data, np.float32)
        if any(array.ndim != 1 or array.dtype != dtype for array, dtype in arrays):
            raise ValueError("indptr, indices and data must be 1-d int64, int32 and float32")
        num_votes = len(self.indices)
        if len(self.data) != num_votes or not len(self.indptr):
            raise ValueError("indptr, indices and data do not fit each other")
        if self.indptr[0] != 0 or self.indptr[-1] != num_votes or (np.diff(self.indptr) < 0).any():
            raise ValueError(f"indptr must rise from 0 to {num_votes}")
        if num_votes and not 0 <= self.indices.min() <= self.indices.max() < self.num_items:
            raise ValueError(f"indices must be in [0, {self.num_items})")
        is_first = np.zeros(num_votes + 1, dtype=bool)
        is_first[self.indptr] = True
        if not (is_first[1:-1] | (np.diff(self.indices) > 0)).all():
            raise ValueError("the indices of an item must rise")
        if not (np.isfinite(self.data) & (self.data >= 0)).all():
            raise ValueError("data must be finite and not negative")
        if not 0 < self.decay <= 1 or self.window < 1:
            raise ValueError(
                f"decay must be in (0, 1] and window at least 1, got {self.decay}, {self.window}"
            )
        if not 0 < self.scale < np.inf:
            raise ValueError(f"scale must be above 0, got {self.scale}")
        for expert in self.experts:
            if len(expert.data) != num_votes:
                raise ValueError(
                    f"expert {expert.name!r} must have {num_votes} votes, has {len(expert.data)}"
                )
        numbers = [*self.weights.values(), self.mix.text_weight]
        if not np.isfinite(numbers).all() or min(numbers) < 0 or self.mix.form not in FORMS:
            raise ValueError(
                f"weights must be finite and not negative, form one of {', '.join(FORMS)}"
            )

    @property
    def num_items(self) -> int:
        """Items of the catalogue."""
        return len(self.indptr) - 1

    @property
    def matrix(self) -> "sp.csr_array":
        """The votes: (num_items, num_items) float32, a view."""
        with needs("the matrix of the evidence"):
            import scipy.sparse as sp

        shape = (self.num_items, self.num_items)
        return sp.csr_array((self.data, self.indices, self.indptr), shape=shape)

    def scaled(self, factor: float) -> "Evidence":
        """Multiplies all votes by a factor above 0."""
        data = self.data * np.float32(factor)
        return dataclasses.replace(self, data=data, scale=self.scale * factor)

    def of_items(self, is_kept: NDArray[np.bool_]) -> "Evidence":
        """Leaves out items, as sources and as what is voted for; the others move up.

        Args:
            is_kept: (num_items,).
        """
        sources = np.repeat(np.arange(self.num_items), np.diff(self.indptr))
        is_left = is_kept[sources] & is_kept[self.indices]
        counts = np.bincount(sources[is_left], minlength=self.num_items)[is_kept]
        rows = np.cumsum(is_kept, dtype=np.int32) - 1
        return dataclasses.replace(
            self,
            indptr=np.r_[0, np.cumsum(counts)].astype(np.int64),
            indices=rows[self.indices[is_left]].astype(np.int32),
            data=self.data[is_left],
            experts=tuple(
                dataclasses.replace(expert, data=expert.data[is_left]) for expert in self.experts
            ),
        )

    def score(self, histories: "Sequence[Rows]") -> NDArray[np.float32]:
        """Scores all items: (num_users, num_items) float32, 0 where nothing votes."""
        with needs("evidence of all items"):
            from store_engine.collaborative.neighbours import recent_events

        events = recent_events(histories, self.num_items, self.decay, self.window)
        scores: NDArray[np.float64] = (events @ self.matrix).toarray()
        return scores.astype(np.float32)

    def top(
        self, histories: "Sequence[Rows]", k: int, *, exclude_history: bool
    ) -> NDArray[np.int64]:
        """Ranks items by their score.

        Args:
            histories: Per user the catalogue rows seen so far, oldest first.
            k: Length of the rankings.
            exclude_history: Leave out the items that the user has seen.

        Returns:
            (num_users, k) catalogue rows, best first, equals by the lower row, -1 padded: items
            of score 0 are not ranked.
        """
        with needs("ranking by evidence alone"):
            from store_engine.collaborative.neighbours import rank_neighbours, recent_events

        events = recent_events(histories, self.num_items, self.decay, self.window)
        return rank_neighbours(self.matrix, events, histories, k, exclude_history)

    def save(self, path: str | Path) -> None:
        """Writes an npz file, which either stands complete or not at all."""
        with atomic_open(path) as file:
            np.savez(
                file,
                allow_pickle=False,
                indptr=self.indptr,
                indices=self.indices,
                data=self.data,
                decay=np.float64(self.decay),
                window=np.int64(self.window),
                term_names=np.array(list(self.weights), dtype=np.str_),
                term_weights=np.array(list(self.weights.values()), dtype=np.float64),
                form=np.str_(self.mix.form),
                text_weight=np.float64(self.mix.text_weight),
                scale=np.float64(self.scale),
                **self._expert_arrays(),
            )

    def _expert_arrays(self) -> dict[str, NDArray[Any]]:
        """What a file has of the experts, if there are some."""
        if not self.experts:
            return {}
        numbers = [(expert.weight, expert.unit, expert.decay) for expert in self.experts]
        return {
            "expert_names": np.array([expert.name for expert in self.experts], dtype=np.str_),
            "expert_numbers": np.array(numbers, dtype=np.float64),
            "expert_data": np.stack([expert.data for expert in self.experts]),
        }

    @classmethod
    def load(cls, path: str | Path) -> "Evidence":
        """Reads what `save` wrote.

        Raises:
            InputError: The file is missing, damaged or not of this form.
        """
        arrays = read_npz(path, _ARRAYS, "an evidence file")
        with parse_errors(path, "an evidence file"):
            names, weights = arrays["term_names"].tolist(), arrays["term_weights"].tolist()
            # the class checks the form
            mix = Mix(str(arrays["form"]), float(arrays["text_weight"]))  # type: ignore[arg-type]
            return cls(
                arrays["indptr"],
                arrays["indices"],
                arrays["data"],
                float(arrays["decay"]),
                int(arrays["window"]),
                dict(zip(names, weights, strict=True)),
                mix,
                float(arrays["scale"]),
                tuple(_experts(arrays)),
            )


def _experts(arrays: dict[str, NDArray[Any]]) -> Iterator[Expert]:
    """The experts of a file, if it has some."""
    if "expert_names" not in arrays:
        return
    names, numbers = arrays["expert_names"].tolist(), arrays["expert_numbers"]
    if numbers.shape != (len(names), 3):
        raise ValueError(f"expert_numbers must be ({len(names)}, 3), is {numbers.shape}")
    for name, own, data in zip(names, numbers.tolist(), arrays["expert_data"], strict=True):
        weight, unit, decay = own
        yield Expert(name, weight, unit, decay, data)


@dataclass(frozen=True)
class NewItemVotes:
    """Votes for new items, in units of log-probability.

    Args:
        num_old: Items that the evidence counted; catalogue rows from there on are new.
        matrix: (num_items, num_items) float32, entry [a, b] the vote of a for b; only new items are
            voted for.
        offset: Added to every new item's score; the smaller, the more alike must an item be to be
            recommended.
    """

    num_old: int
    matrix: "sp.csr_array"
    offset: float = 0.0

    def with_offset(self, offset: float) -> "NewItemVotes":
        """Returns the same votes with another offset."""
        return dataclasses.replace(self, offset=offset)


def new_item_votes(catalog: Catalog, num_old: int, seed: int = 0) -> NewItemVotes:
    """Makes the votes for the items of a catalogue from row `num_old` on.

    An item votes 32 / sqrt(rank) for those of its 50 nearest by text that are new.

    Args:
        catalog: All items by row, the new ones last.
        num_old: Items that the evidence counted.
        seed: Of the SVD of the text.
    """
    with needs("votes for new items"):
        from store_engine.collaborative.spaces import text_space
        from store_engine.collaborative.top_votes import votes_by_rank

        space = text_space(catalog, _TEXT_DIM, seed)
    return NewItemVotes(num_old, np.float32(_SCALE) * votes_by_rank(space, _NEAREST, num_old))
