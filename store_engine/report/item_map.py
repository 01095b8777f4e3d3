"""A map of the items in two dimensions, coloured by their first code.

The axes are the first two principal axes of the means of the first codes' items, which show the
codes apart better than the axes of all items do. Vectors are those that the SIDs were cut from,
where the run keeps them, else the sums of the trained embeddings that it is read as.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray

from store_engine.report.loaded_run import LoadedRun, shortened
from store_engine.sid.item_features import ItemVectors
from store_engine.sid.item_tokens import item_ids
from store_engine.sid.quantizers.quantizer import principal_axes

WIDTH, HEIGHT, _MARGIN = 800, 560, 14
_MAX_ITEMS = 4000  # drawn
_MAX_PLACED = 100_000  # whose vectors are looked at
_NUM_CODES, _NUM_TITLES = 12, 3  # of the table
_LIGHTNESS = (0, 9, -9)  # percent: codes of neighbouring hues differ in it
_TITLE = 90  # letters

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class ItemMap:
    """The map.

    Args:
        svg: The picture: one path per first code.
        points: For the page's script: x, y, title, code and frequency of each point.
        num_shown: Items drawn.
        num_items: Items there are.
        num_codes: First codes in use.
        explained: Share of the variance of the codes' means that the two axes hold.
        source: What the vectors are.
        codes: The largest first codes.
    """

    svg: Markup
    points: dict[str, list[Any]]
    num_shown: int
    num_items: int
    num_codes: int
    explained: float
    source: str
    codes: list["FirstCode"]


@dataclass(frozen=True)
class FirstCode:
    """A first code of the table.

    Args:
        code: Its number.
        colour: Of its dots, as CSS.
        num_items: That have it.
        titles: Near its middle.
    """

    code: int
    colour: str
    num_items: int
    titles: list[str]


def item_map(loaded: LoadedRun) -> ItemMap:
    """Draws the map of a finished run, thinned where there are many items."""
    table, num_items = loaded.run.sid_table, loaded.run.catalog.num_items
    rng = np.random.default_rng(0)
    rows = _some(np.arange(num_items), _MAX_PLACED, rng)
    vectors, source = _vectors(loaded, rows)
    first = table.sids[rows, 0].astype(np.int64)
    places, explained = _places(vectors, first)
    shown = _some(np.arange(len(rows)), _MAX_ITEMS, rng)
    x, y = _on_page(places[shown])
    titles = [loaded.titles[row] for row in rows]
    seen = np.bincount(loaded.run.histories.rows, minlength=num_items)[rows]
    points = {
        "x": x.round(1).tolist(),
        "y": y.round(1).tolist(),
        "code": first[shown].tolist(),
        "title": [shortened(titles[row], _TITLE) for row in shown],
        "events": seen[shown].tolist(),
    }
    colours = _colours(places, first)
    svg = _draw(x, y, first[shown], colours)
    counts = np.bincount(table.sids[:, 0])
    largest = [
        FirstCode(code, colours[code], int(counts[code]), names)
        for code, names in _largest_codes(places, first, titles, counts)
    ]
    num_codes = int((counts > 0).sum())
    return ItemMap(svg, points, len(shown), num_items, num_codes, explained, source, largest)


def _some(values: Rows, most: int, rng: np.random.Generator) -> Rows:
    """At most so many of the values, drawn at random, in their order."""
    return values if len(values) <= most else np.sort(rng.choice(values, most, replace=False))


def _colours(places: Vectors, first: Rows) -> dict[int, str]:
    """A colour of every first code: all hues, in the order of the codes around the middle."""
    codes = np.unique(first)
    middles = np.stack([places[first == code].mean(0) for code in codes])
    angles = np.arctan2(*(middles - np.median(middles, axis=0)).T)
    colours = {}
    for rank, index in enumerate(np.argsort(angles, kind="stable")):
        hue, lighter = 360 * rank / len(codes), _LIGHTNESS[rank % len(_LIGHTNESS)]
        colours[int(codes[index])] = f"--h:{hue:.1f};--d:{lighter}%"
    return colours


def _vectors(loaded: LoadedRun, rows: Rows) -> tuple[Vectors, str]:
    """Vectors of some catalogue rows, and what they are."""
    path = loaded.directory.item_vectors
    # a run that went on from another has those of its new items alone
    if loaded.has(path) and loaded.run.lineage is None:
        loaded.directory.check(path, loaded.manifest)
        return ItemVectors.load(path).space[rows], "those that the SIDs were cut from"
    run = loaded.run
    ids = item_ids(run.config.recommender, run.sid_table, run.model.text_vocab_size)
    with torch.inference_mode():
        tokens = torch.from_numpy(ids.read[rows])
        sums = torch.stack([run.model.embed(column) for column in tokens.T]).sum(0)
    return sums.float().numpy(), "the sums of the trained embeddings that they are read as"


def _places(vectors: Vectors, first: Rows) -> tuple[Vectors, float]:
    """(num_items, 2) places, and the share of the means' variance that they show."""
    mean = vectors.mean(0)
    codes, of_item, counts = np.unique(first, return_inverse=True, return_counts=True)
    if len(codes) > 2:
        sums = np.zeros((len(codes), vectors.shape[1]), dtype=np.float64)
        np.add.at(sums, of_item, vectors - mean)
        fitted = (sums / counts[:, None]).astype(np.float32)
    else:
        fitted = vectors - mean
    axes = principal_axes(fitted - fitted.mean(0), min(2, vectors.shape[1]))
    variance = float(((fitted - fitted.mean(0)) ** 2).sum())
    held = float((((fitted - fitted.mean(0)) @ axes.T) ** 2).sum())
    places = (vectors - mean) @ axes.T
    if places.shape[1] < 2:
        places = np.hstack([places, np.zeros_like(places)])
    return places.astype(np.float32), held / variance if variance > 0 else 1.0


def _on_page(places: Vectors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Brings places onto the page, the farther from the middle the closer together."""
    columns = []
    for column, size in ((0, WIDTH), (1, HEIGHT)):
        values = places[:, column].astype(np.float64)
        values = values - np.median(values)
        values = np.arcsinh(values / max(float(np.abs(values).mean()), 1e-12))
        low, span = values.min(), max(float(np.ptp(values)), 1e-12)
        columns.append(_MARGIN + (values - low) / span * (size - 2 * _MARGIN))
    return columns[0], columns[1]


def _draw(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    code: NDArray[np.int64],
    colours: dict[int, str],
) -> Markup:
    paths = []
    for one in np.unique(code):
        where = np.flatnonzero(code == one)
        dots = "".join(f"M{x[i]:.1f} {y[i]:.1f}h0" for i in where)
        paths.append(
            Markup('<path data-code="{0}" style="{1}" d="{2}"/>').format(
                one, colours[int(one)], dots
            )
        )
    label = f"Map of {len(x):,} items as dots, coloured by their first code"
    return Markup(
        '<svg id="map" viewBox="0 0 {} {}" style="--dot:{:.1f}px" role="img" aria-label="{}">{}'
        '<path class="found" d=""/></svg>'
    ).format(WIDTH, HEIGHT, min(10, max(4.5, 120 / len(x) ** 0.4)), label, Markup("").join(paths))


def _largest_codes(
    places: Vectors, first: Rows, titles: list[str], counts: NDArray[np.int64]
) -> list[tuple[int, list[str]]]:
    """The first codes with the most items, and titles near the middle of each."""
    found = []
    for code in np.argsort(-counts, kind="stable")[:_NUM_CODES].tolist():
        rows = np.flatnonzero(first == code)
        if len(rows) == 0:
            continue
        far = ((places[rows] - places[rows].mean(0)) ** 2).sum(1)
        near = rows[np.argsort(far, kind="stable")]
        names = list(dict.fromkeys(titles[row] for row in near[: 4 * _NUM_TITLES]))
        found.append((code, names[:_NUM_TITLES]))
    return found
