"""Item ids as callers give them, checked and copied once at the door.

Text is an iterable of characters and an iterator can be read only once, so code that merely loops
over "some ids" acts on "1" and "2" when it is given "12", and on nothing when it is given a
generator for the second time. Every public entry that takes ids calls one of these functions first.

What is accepted: any iterable of `str` (also `numpy.str_`) but text itself, bytes and mappings.
"""

import reprlib
from collections.abc import Container, Iterable, Iterator, Mapping, Set
from typing import Any

_EXAMPLE = "['50', '181']"
_NOT_A_LIST = (str, bytes, bytearray, memoryview)
_LARGEST_ID = 10**30  # a larger number is no id, and Python refuses to print the longest


def check_item_ids(
    ids: Iterable[str], what: str, *, known: Container[str] | None = None, is_ordered: bool = False
) -> list[str]:
    """Copies item ids into a list, reading the iterable once.

    Args:
        ids: A list, tuple, array, iterator or other iterable of item ids.
        what: Name of the argument, for the error.
        known: The ids that there are; an id of another type gets a hint if its text is one of
            them. None gives the hint always.
        is_ordered: Whether the order has a meaning; a set is refused then.

    Returns:
        The ids as plain `str`.

    Raises:
        TypeError: `ids` is text, bytes, a mapping or no iterable, an id is not text, or `ids` is a
            set although the order matters.
    """
    if isinstance(ids, _NOT_A_LIST):
        hint = f": did you mean [{_show(ids)}]?" if isinstance(ids, str) else ""
        raise TypeError(f"{what} must be a list of item ids, got one {_kind(ids)}{hint}")
    if is_ordered and isinstance(ids, Set):
        raise TypeError(f"{what} must be a list of item ids in order, got a {_kind(ids)}")
    return [_check_id(item_id, what, known) for item_id in _iterate(ids, what, "item ids")]


def check_histories(
    histories: Iterable[Iterable[str]],
    what: str,
    *,
    known: Container[str] | None = None,
    is_ordered: bool = True,
) -> list[list[str]]:
    """Copies histories, or other lists of item ids per request, into lists, reading each once.

    Args:
        histories: An iterable of iterables of item ids; each is read before the next is asked for.
        what: Name of the argument, for the error, which adds the position of the list.
        known: See `check_item_ids`.
        is_ordered: Whether the order within a history has a meaning; that of the histories always
            has.

    Returns:
        The ids as plain `str`.

    Raises:
        TypeError: `histories` or one of them is text, bytes, a mapping or no iterable, or an id is
            not text.
    """
    form = f"lists of item ids, such as [{_EXAMPLE}]"
    if isinstance(histories, _NOT_A_LIST):
        raise TypeError(f"{what} must be a list of {form}, got one {_kind(histories)}")
    if isinstance(histories, Set):
        raise TypeError(f"{what} must be a list of {form}, in order, got a {_kind(histories)}")
    checked: list[list[str]] = []
    for i, one in enumerate(_iterate(histories, what, form)):
        if isinstance(one, str):
            raise TypeError(
                f"{what} must be a list of {form}, but {what}[{i}] is the text {_show(one)}"
            )
        checked.append(check_item_ids(one, f"{what}[{i}]", known=known, is_ordered=is_ordered))
    return checked


def _iterate(values: Iterable[Any], what: str, form: str) -> Iterator[Any]:
    if not isinstance(values, Mapping):
        try:
            return iter(values)
        except TypeError:  # None, a number, an array without dimensions
            pass
    raise TypeError(f"{what} must be a list of {form}, got {_kind(values)}")


def _check_id(item_id: object, what: str, known: Container[str] | None) -> str:
    if isinstance(item_id, str):
        return str.__str__(item_id)  # the text itself, also of numpy's and an enum's strings
    text = _number_as_text(item_id)
    hint = f", did you mean '{text}'?" if text and (known is None or text in known) else ""
    raise TypeError(f"{what}: item ids are text: got {text or _kind(item_id)}{hint}")


def _number_as_text(value: object) -> str:
    """The digits of a number of Python's, numpy's or torch's; "" for anything else."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, int | float) and -_LARGEST_ID <= value <= _LARGEST_ID:
        return str(value)
    return ""


def _show(text: str) -> str:
    return reprlib.repr(str.__str__(text))


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
