"""What a caller may ask of a search: declared, documented and checked in one place."""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, get_args

import numpy as np

from store_engine.decoding.backends import BackendName
from store_engine.errors import InputError, shown
from store_engine.kernels.trie_topk import Normalize
from store_engine.live.user_histories import Unknown

# an expression over defined item sets, for all histories or one per history; None: all items
Sets = str | Sequence[str | None] | None

MAX_WIDTH = 100_000  # items wanted and beams: more would be a mistake, or an attack on the memory


@dataclass(frozen=True)
class SearchOptions:
    """The options of one call of `Engine.recommend` or `Engine.recommend_rows`.

    Args:
        k: Items wanted per history, at most 100,000. A history that may be given fewer gets them
            all.
        beam_width: Prefixes kept while searching, from k to 100,000; wider is closer to exact. A
            level with fewer prefixes keeps them all. By default the engine's, or k where that is
            larger.
        exact: Score the whole catalogue instead of searching with a beam. Slow.
        backend: "auto", "cpp", "torch", "triton" or "graph"; by default the engine's.
        normalize: "codebook" or "children", what a softmax runs over; by default the engine's.
        allow: Recommend items of this set only: an expression over names that were given to
            `Engine.define`, such as "in_stock & (books | games)"; or one per history, None for all.
        deny: Recommend no item of this set; of the same form.
        exclude: Per history, items not to recommend, such as those on the page already: item ids,
            or catalogue rows where the histories are rows.
        exclude_history: Never recommend an item of the history; by default the engine's choice.
        evidence: Add item-item evidence to the log-probabilities; by default the engine's choice.
            Needs normalize="codebook".
        users: In place of histories, ids of users whose histories the run has; only where item ids
            are taken.
        unknown: "skip" leaves out item ids that the catalogue never had, and reads an empty history
            for a user that nobody knows; the engine counts them in `num_skipped`.

    Raises:
        InputError: A number or a name is not one of those above.
        TypeError: A value is of another type.
    """

    k: int = 10
    _: KW_ONLY
    beam_width: int | None = None
    exact: bool = False
    backend: BackendName | None = None
    normalize: Normalize | None = None
    allow: Sets = None
    deny: Sets = None
    exclude: Iterable[Iterable[Any]] | None = None
    exclude_history: bool | None = None
    evidence: bool | None = None
    users: Iterable[str] | None = None
    unknown: Unknown = "error"

    def __post_init__(self) -> None:
        _check_width("k", self.k)
        if self.beam_width is not None:
            _check_width("beam_width", self.beam_width)
            if self.beam_width < self.k:
                raise InputError(
                    f"beam_width must be at least k, got beam_width {self.beam_width} < k {self.k}"
                )
        _check_flag("exact", self.exact)
        for name in ("exclude_history", "evidence"):
            if getattr(self, name) is not None:
                _check_flag(name, getattr(self, name))
        _check_name("backend", self.backend, get_args(BackendName))
        _check_name("normalize", self.normalize, get_args(Normalize))
        _check_name("unknown", self.unknown, get_args(Unknown))
        _check_sets("allow", self.allow)
        _check_sets("deny", self.deny)

    def width(self, default: int) -> int:
        """Returns the beam width, where the engine's is `default`."""
        return max(default, self.k) if self.beam_width is None else self.beam_width


def sets_per_history(name: Literal["allow", "deny"], sets: Sets, num: int) -> Sequence[str | None]:
    """Lists an option's item set of each history.

    Raises:
        InputError: There is one per history, but not as many as histories.
    """
    if sets is None or isinstance(sets, str):
        return [sets] * num
    if len(sets) != num:
        raise InputError(f"{name} must hold one item set per history ({num}), got {len(sets)}")
    return sets


def _check_width(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {shown(value)}")
    if int(value) < 1:
        raise InputError(f"{name} must be at least 1, got {shown(value)}")
    if int(value) > MAX_WIDTH:
        raise InputError(f"{name} must be at most {MAX_WIDTH:,}, got {shown(value)}")


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")


def _check_name(name: str, value: object, names: tuple[str, ...]) -> None:
    if value is not None and not (isinstance(value, str) and value in names):
        listed = ", ".join(map(repr, names[:-1]))
        raise InputError(f"{name} must be {listed} or {names[-1]!r}, got {shown(value)}")


def _check_sets(name: str, sets: object) -> None:
    if sets is None or isinstance(sets, str):
        return
    form = "an expression over item sets, or a list of one per history"
    if not isinstance(sets, Sequence) or isinstance(sets, bytes):
        raise TypeError(f"{name} must be {form}, got {type(sets).__name__}")
    for one in sets:
        if one is not None and not isinstance(one, str):
            raise TypeError(f"{name} must be {form}, got {shown(one)} in the list")


P = ParamSpec("P")
Self = TypeVar("Self")
Histories = TypeVar("Histories")
Result = TypeVar("Result")


def _with_keywords_of(
    make: Callable[P, SearchOptions],
) -> Callable[
    [Callable[[Self, Histories, SearchOptions], Result]],
    Callable[Concatenate[Self, Histories, P], Result],
]:
    """Makes the decorator below; `P` becomes the parameters of `make`."""

    def decorate(
        method: Callable[[Self, Histories, SearchOptions], Result],
    ) -> Callable[Concatenate[Self, Histories, P], Result]:
        @functools.wraps(method)
        def call(
            self: Self,
            histories: Histories = None,  # type: ignore[assignment] # where `users` are given
            *args: P.args,
            **kwargs: P.kwargs,
        ) -> Result:
            return method(self, histories, make(*args, **kwargs))

        own, options = inspect.signature(method), inspect.signature(make)
        parameters = [*list(own.parameters.values())[:2], *options.parameters.values()]
        vars(call)["__signature__"] = own.replace(parameters=parameters)
        return call

    return decorate


# a method(self, histories, options: SearchOptions) that callers give the options' fields as
# arguments of its own: method(histories, 10, allow="in_stock")
takes_search_options = _with_keywords_of(SearchOptions)
