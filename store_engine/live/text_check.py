"""Whether new items' texts are like those that training saw.

An LLM gives codes to any text. Of text in another form, such as raw HTML or another language, they
mean nothing, and many items get the same. Three numbers tell: tokens per character, tokens, and how
far an item's vectors are from the nearest codes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store_engine.data.catalog import Catalog
from store_engine.errors import shown
from store_engine.sid.new_sids import NewItemCodes

_MIN_CHARACTERS = 8  # of a text whose tokens per character say something
_MIN_ITEMS = 4  # among which one SID for more than half is worth a word


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
            if len(far):
                worst = int(far[measure.values[far].argmax()])
                words = measure.words.format(value=measure.values[worst], limit=limit)
                remarks.append(
                    f"{len(far):,} of {items.num_items:,} new items are unlike what training saw: "
                    f"{shown(items.item_ids[worst])} {words}"
                )
        _, counts = np.unique(codes.codes, axis=0, return_counts=True)
        if items.num_items >= _MIN_ITEMS and counts.max() > items.num_items / 2:
            remarks.append(
                f"{counts.max():,} of {items.num_items:,} new items got the same codes: are their "
                f"texts in the form that training saw?"
            )
        return tuple(remarks)


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
