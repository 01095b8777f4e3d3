"""Whether new items' texts are like those that training saw.

An LLM gives codes to any text. Of text in another form, such as raw HTML or another language, they
mean nothing, and many items get the same. Three numbers tell: tokens per character, tokens, and how
far an item's vectors are from the nearest codes. The same codes alone tell nothing: variants of a
product have them, and so has a delivery of one kind. Codes that fit are near.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store_engine.data.catalog import Catalog
from store_engine.errors import shown
from store_engine.sid.new_sids import NewItemCodes

_MIN_CHARACTERS = 8  # of a text whose tokens per character say something
_MIN_ITEMS = 4  # with different texts, among which the same codes for more than half say something
_MAX_COMPARED = 256  # texts
_LETTERS = 3  # in a row; texts that have most such pieces in common are variants of one


class _Measure(NamedTuple):
    """A number of every item, and up to where it is usual."""

    words: str  # "{value}" and "{limit}" stand for the numbers
    values: NDArray[np.float64]


class TextCheck:
    """What is usual in a catalogue.

    Args:
        sample: Items of it.
        lengths: (num_items,) their text tokens, uncut.
        distances: (num_items,) squared distances of their vectors to the nearest codes.
    """

    def __init__(
        self, sample: Catalog, lengths: NDArray[np.int64], distances: NDArray[np.float32]
    ) -> None:
        measures = _measures(sample, lengths, distances)
        self._limits = [_limit(measure.values) for measure in measures]
        self._far = float(np.quantile(distances, 0.9))

    def remarks(
        self, items: Catalog, lengths: NDArray[np.int64], codes: NewItemCodes
    ) -> tuple[str, ...]:
        """Says which new items are unusual, and how; one line for all that are unusual alike.

        Args:
            items: The new items.
            lengths: As for the class.
            codes: Their nearest codes.
        """
        remarks = []
        measures = _measures(items, lengths, codes.distances)
        for measure, limit in zip(measures, self._limits, strict=True):
            far = np.flatnonzero(measure.values > limit)
            if len(far) and limit > 0:  # 0: the sample has nothing to compare with
                worst = int(far[measure.values[far].argmax()])
                words = measure.words.format(value=measure.values[worst], limit=limit)
                remarks.append(
                    f"{len(far):,} of {items.num_items:,} new items are unlike what training saw: "
                    f"{shown(items.item_ids[worst])} {words}"
                )
        return (*remarks, *self._same_codes(items, codes))

    def _same_codes(self, items: Catalog, codes: NewItemCodes) -> list[str]:
        """Remarks on the same codes for most of the different texts, to which they do not fit."""
        row_of = {
            text: row for row, text in enumerate(_texts(items)) if len(text) >= _MIN_CHARACTERS
        }
        if len(row_of) < _MIN_ITEMS:
            return []
        rows = np.array(list(row_of.values()))
        _, group, counts = np.unique(
            codes.codes[rows], axis=0, return_inverse=True, return_counts=True
        )
        is_same = group.ravel() == counts.argmax()
        middle = float(np.median(codes.distances[rows[is_same]]))
        texts = [text for text, same in zip(row_of, is_same, strict=True) if same]
        is_near = middle <= self._far or not self._far
        if 2 * len(texts) <= len(row_of) or is_near or _are_variants(texts):
            return []
        return [
            f"{len(texts):,} of {len(row_of):,} different texts of new items got the same codes, "
            f"and are {middle:.3g} from them (median), where 9 of 10 of the run's own items are "
            f"nearer than {self._far:.3g}: are they in the form that training saw?"
        ]


def _texts(items: Catalog) -> list[str]:
    """All that is said of each item, without regard to capitals."""
    return [
        " ".join(texts).strip().casefold() for texts in zip(*items.fields.values(), strict=True)
    ]


def _are_variants(texts: list[str]) -> bool:
    """Whether most of what each text says, most others say too; of many the first are compared."""
    texts = texts[:_MAX_COMPARED]
    pieces = [{text[n : n + _LETTERS] for n in range(len(text) - _LETTERS + 1)} for text in texts]
    counts = Counter(piece for own in pieces for piece in own)
    common = {piece for piece, count in counts.items() if count > len(texts) / 2}
    return float(np.mean([len(own & common) / len(own) for own in pieces])) > 0.5


def _measures(
    items: Catalog, lengths: NDArray[np.int64], distances: NDArray[np.float32]
) -> list[_Measure]:
    texts = zip(*items.fields.values(), strict=True)
    characters = np.array([sum(map(len, text)) for text in texts])
    density = np.zeros(len(lengths))
    is_text = characters >= _MIN_CHARACTERS
    density[is_text] = lengths[is_text] / characters[is_text]
    return [
        _Measure("takes {value:.2f} tokens a character, at most {limit:.2f} are usual", density),
        _Measure(
            "has {value:,.0f} tokens of text, at most {limit:,.0f} are usual", lengths.astype(float)
        ),
        _Measure(
            "is {value:.3g} from the nearest codes, at most {limit:.3g} is usual",
            distances.astype(np.float64),
        ),
    ]


def _limit(values: NDArray[np.float64]) -> float:
    """Up to where a number is usual: three times as far above the median as the 99th percentile."""
    middle, high = np.quantile(values, (0.5, 0.99))
    return float(max(middle + 3 * (high - middle), 1.5 * high))
