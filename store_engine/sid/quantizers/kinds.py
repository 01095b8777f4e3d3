"""The quantisers by their names in a config, and out of a file's arrays."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from store_engine.sid.quantizers.item_clusters import ItemClusters
from store_engine.sid.quantizers.opq import OpqQuantizer
from store_engine.sid.quantizers.parallel import ParallelQuantizer
from store_engine.sid.quantizers.quantizer import Quantizer
from store_engine.sid.quantizers.residual import ResidualQuantizer
from store_engine.sid.quantizers.rq_vae import RqVaeQuantizer

QUANTIZERS: dict[str, type[Quantizer]] = {  # of tokenizer.quantizer
    "parallel": ParallelQuantizer,
    "residual": ResidualQuantizer,
    "rq_vae": RqVaeQuantizer,
    "opq": OpqQuantizer,
}
_SAVED: tuple[type[Quantizer], ...] = (*QUANTIZERS.values(), ItemClusters)
# what a file may hold; a quantiser's arrays are there together or not at all
ARRAY_FORMS = {kind.prefix + name: form for kind in _SAVED for name, form in kind.forms.items()}


def quantizer_from(arrays: Mapping[str, NDArray[Any]]) -> Quantizer | None:
    """Makes the quantiser whose arrays are there; None if there is none.

    Args:
        arrays: By the names of `ARRAY_FORMS`; others are left alone.

    Raises:
        ValueError: An array is missing, not finite, or does not fit the others.
    """
    for kind in _SAVED:
        if any(kind.prefix + name in arrays for name in kind.forms):
            return kind.from_arrays(arrays)
    return None
