"""A map of the items in two dimensions, coloured by their first code.

The axes are the first two principal axes of the means of the first codes' items, which show the
codes apart better than the axes of all items do. Vectors are those that the SIDs were cut from,
where the run keeps them, else the sums of the trained embeddings of each item's codes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray

from store_engine.report.loaded_run import LoadedRun, shortened
from store_engine.sid.item_features import ItemVectors
from store_engine.sid.quantizers.quantizer import principal_axes

WIDTH, HEIGHT, _MARGIN = 800, 560, 14
_MAX_ITEMS, _MAX_FITTED = 4000, 20_000
_NUM_CODES, _NUM_TITLES = 12, 3  # of the table
_LIGHTNESS = (0, 9, -9)  # percent: codes of neighbouring hues differ in it
_TITLE = 90  # letters

Vectors = NDArray[np.float32]


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
    table, catalog = loaded.run.sid_table, loaded.run.catalog
    vectors, source = _vectors(loaded)
    first = table.sids[:, 0].astype(np.int64)
    rng = np.random.default_rng(0)
    places, explained = _places(vectors, first, rng)
    shown = np.arange(catalog.num_items)
    if len(shown) > _MAX_ITEMS:
        shown = np.sort(rng.choice(len(shown), _MAX_ITEMS, replace=False))
    x, y = _on_page(places[shown])
    titles = loaded.titles
    seen = np.bincount(loaded.run.histories.rows, minlength=catalog.num_items)
    points = {
        "x": x.round(1).tolist(),
        "y": y.round(1).tolist(),
        "code": first[shown].tolist(),
        "title": [shortened(titles[row], _TITLE) for row in shown],
        "events": seen[shown].tolist(),
    }
    colours = _colours(places, first)
    svg = _draw(x, y, first[shown], colours)
    largest = _largest_codes(places, first, titles, colours)
    return ItemMap(
        svg, points, len(shown), catalog.num_items, len(colours), explained, source, largest
    )


def _colours(places: Vectors, first: NDArray[np.int64]) -> dict[int, str]:
    """A colour of every first code: all hues, in the order of the codes around the middle."""
    codes = np.unique(first)
    middles = np.stack([places[first == code].mean(0) for code in codes])
    angles = np.arctan2(*(middles - np.median(middles, axis=0)).T)
    colours = {}
    for rank, index in enumerate(np.argsort(angles, kind="stable")):
        hue, lighter = 360 * rank / len(codes), _LIGHTNESS[rank % len(_LIGHTNESS)]
        colours[int(codes[index])] = f"--h:{hue:.1f};--d:{lighter}%"
    return colours


def _vectors(loaded: LoadedRun) -> tuple[Vectors, str]:
    path = loaded.directory.item_vectors
    if loaded.has(path):
        loaded.directory.check(path, loaded.manifest)
        return ItemVectors.load(path).space, "the vectors that the SIDs were cut from"
    model, table = loaded.run.model, loaded.run.sid_table
    offsets = torch.tensor(model.vocabulary.level_offsets)
    with torch.inference_mode():
        tokens = torch.from_numpy(table.sids).long() + offsets[: table.sids.shape[1]]
        rows = torch.zeros(len(tokens), model.config.hidden_size)
        for level in range(tokens.shape[1]):
            rows += model.embed(tokens[:, level])
    return rows.float().numpy(), "the sums of their codes' trained embeddings"


def _places(
    vectors: Vectors, first: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Vectors, float]:
    """(num_items, 2) places, and the share of the means' variance that they show."""
    mean = vectors.mean(0)
    codes, of_item, counts = np.unique(first, return_inverse=True, return_counts=True)
    if len(codes) > 2:
        sums = np.zeros((len(codes), vectors.shape[1]), dtype=np.float64)
        np.add.at(sums, of_item, vectors - mean)
        fitted = (sums / counts[:, None]).astype(np.float32)
    else:
        some = rng.choice(len(vectors), min(len(vectors), _MAX_FITTED), replace=False)
        fitted = vectors[some] - mean
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
    places: Vectors, first: NDArray[np.int64], titles: tuple[str, ...], colours: dict[int, str]
) -> list[FirstCode]:
    codes, counts = np.unique(first, return_counts=True)
    found = []
    for index in np.argsort(-counts, kind="stable")[:_NUM_CODES]:
        rows = np.flatnonzero(first == codes[index])
        far = ((places[rows] - places[rows].mean(0)) ** 2).sum(1)
        near = rows[np.argsort(far, kind="stable")]
        names = list(dict.fromkeys(titles[row] for row in near[: 4 * _NUM_TITLES]))
        code = int(codes[index])
        found.append(FirstCode(code, colours[code], int(counts[index]), names[:_NUM_TITLES]))
    return found
