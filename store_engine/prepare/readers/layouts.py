"""The files of well-known data sets: how they are called, what their columns are and hold.

A layout fits a file by its name, or by columns that no other data set has. What the columns of any
other table hold is guessed (columns.py).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from store_engine.prepare.readers.columns import Roles
from store_engine.prepare.readers.storage import Storage, literal

Role = Literal["events", "items", "unused"]

_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance"),
    *("Sci-Fi", "Thriller", "War", "Western"),
)
_FLAGS = tuple(f"genre_{place}" for place in range(len(_GENRES)))
_GENRES_100K = (
    "concat_ws(', ', "
    + ", ".join(
        f"CASE WHEN {flag} = '1' THEN {literal(genre)} END"
        for flag, genre in zip(_FLAGS, _GENRES, strict=True)
    )
    + ")"
)
_BARRED = "replace(nullif(genres, '(no genres listed)'), '|', ', ')"
_SHELVES = (
    "array_to_string(list_slice(json_extract_string(popular_shelves, '$[*].name'), 1, 5), ', ')"
)


_NO_ROLES = Roles()


@dataclass(frozen=True)
class Layout:
    """One kind of file of a data set.

    Args:
        format: The data set, as `--format` names it.
        role: What its rows are; unused: known, and not needed.
        roles: What its columns hold.
        name: A regular expression of the file's name without .gz and .zst; "" is any.
        needs: Columns that it must have.
        lacks: Columns that it must not have.
        names: Names of the columns of a file without a header.
        computed: Texts that are no plain column: name and SQL of the columns.
        expand: How a row becomes events: one row, one event; MIND's behaviours; a JSON list of
            objects in the column `nested`.
        nested: That column.
        advice: Why an unused file that looks useful is none, and what to use instead.
    """

    format: str
    role: Role
    roles: Roles = _NO_ROLES
    name: str = ""
    needs: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    computed: tuple[tuple[str, str], ...] = ()
    expand: Literal["rows", "mind", "nested"] = "rows"
    nested: str = ""
    advice: str = ""

    def fits(self, path: Path, storage: Storage) -> bool:
        """Tells whether a file is of this layout."""
        name = re.sub(r"[.](gz|zst)$", "", path.name.lower())
        if self.name and not re.fullmatch(self.name, name):
            return False
        if self.names and len(self.names) != len(storage.columns):
            return False
        columns = set(storage.columns)
        return self.needs <= columns and not self.lacks & columns


def _columns(text: str) -> frozenset[str]:
    return frozenset(text.split())


_AMAZON_REVIEW = Roles("reviewerID", "asin", "unixReviewTime")
LAYOUTS = (
    Layout("movielens-100k", "events", Roles("user_id", "item_id", "timestamp"), r"u[.]data",
           names=("user_id", "item_id", "rating", "timestamp")),
    Layout("movielens-100k", "items", Roles("", "item_id", "", ("title", "release_date")),
           r"u[.]item", names=("item_id", "title", "release_date", "video_date", "url", *_FLAGS),
           computed=(("genres", _GENRES_100K),)),
    Layout("movielens-100k", "unused", 
           name=r"u[.](user|genre|info|occupation)|u[1-5ab]?[.](base|test)"),
    Layout("movielens-1m", "events", Roles("user_id", "item_id", "timestamp"), r"ratings[.]dat",
           names=("user_id", "item_id", "rating", "timestamp")),
    Layout("movielens-1m", "items", Roles("", "item_id", "", ("title",)), r"movies[.]dat",
           names=("item_id", "title", "genres"), computed=(("genres", _BARRED),)),
    Layout("movielens-1m", "unused", name=r"(users|tags)[.]dat"),
    Layout("movielens", "events", Roles("userId", "movieId", "timestamp"), r"ratings[.]csv",
           _columns("userId movieId rating timestamp")),
    Layout("movielens", "items", Roles("", "movieId", "", ("title",)), r"movies[.]csv",
           _columns("movieId title genres"), computed=(("genres", _BARRED),)),
    Layout("movielens", "unused", name=r"(tags|links|genome-.*)[.]csv"),
    Layout("mind", "events", Roles("user_id", "item_id", "timestamp"), r"behaviors[.]tsv",
           names=("impression_id", "user_id", "time", "history", "impressions"), expand="mind"),
    Layout("mind", "items",
           Roles("", "item_id", "", ("title", "category", "subcategory", "abstract")),
           r"news[.]tsv",
           names=("item_id", "category", "subcategory", "title", "abstract", "url",
                  "title_entities", "abstract_entities")),
    Layout("mind", "unused", name=r"(entity|relation)_embedding[.]vec"),
    # the review's own title and text are the user's, no item's
    Layout("amazon-2023", "events", Roles("user_id", "parent_asin", "timestamp"),
           needs=_columns("user_id parent_asin rating timestamp")),
    Layout("amazon-2023", "items",
           Roles("", "parent_asin", "",
                 ("title", "store", "categories", "features", "description")),
           needs=_columns("parent_asin title store categories features description"),
           lacks=_columns("user_id")),
    Layout("amazon-2018", "events", _AMAZON_REVIEW,
           needs=_columns("reviewerID asin overall unixReviewTime verified")),
    Layout("amazon-2018", "items",
           Roles("", "asin", "", ("title", "brand", "category", "description")),
           needs=_columns("asin title brand category description"), lacks=_columns("reviewerID")),
    Layout("amazon-2014", "events", _AMAZON_REVIEW,
           needs=_columns("reviewerID asin overall unixReviewTime")),
    Layout("amazon-2014", "items",
           Roles("", "asin", "", ("title", "brand", "categories", "description")),
           needs=_columns("asin title categories"), lacks=_columns("reviewerID parent_asin")),
    Layout("goodreads", "events", Roles("user_id", "book_id", "date_added"),
           needs=_columns("user_id book_id is_read rating date_added")),
    Layout("goodreads", "items",
           Roles("", "book_id", "", ("title", "publisher", "publication_year", "description")),
           needs=_columns("book_id title popular_shelves"), computed=(("shelves", _SHELVES),)),
    Layout("goodreads", "unused", needs=_columns("user_id book_id is_read rating is_reviewed"),
           lacks=_columns("date_added"),
           advice="numbers books by a map of its own and has no times: take the .json dump"),
    Layout("steam", "events", Roles("username", "product_id", "date"),
           needs=_columns("username product_id hours date")),
    Layout("steam", "items", Roles("", "id", "", ("developer", "publisher", "genres", "tags")),
           needs=_columns("id app_name genres tags"),
           computed=(("title", "coalesce(app_name, title)"),)),
    Layout("steam", "events", Roles("user_id", "item_id", "", ("item_name",)),
           needs=_columns("user_id items items_count"), expand="nested", nested="items"),
    Layout("steam", "events", Roles("user_id", "item_id", "posted"),
           needs=_columns("user_id user_url reviews"), expand="nested", nested="reviews"),
)  # fmt: skip
_GENERIC = ("delimited", "json", "parquet", "recbole", "sequences")
FORMATS = ("auto", *_GENERIC, *dict.fromkeys(layout.format for layout in LAYOUTS))


def find_layout(path: Path, storage: Storage, wanted: str) -> Layout | None:
    """Finds the layout of a file; None where no data set has one like it.

    Args:
        path: The file.
        storage: How it is laid out.
        wanted: One of `FORMATS`.
    """
    candidates: Sequence[Layout] = LAYOUTS
    if wanted in _GENERIC:
        return None
    if wanted != "auto":
        candidates = [layout for layout in LAYOUTS if layout.format == wanted]
    return next((layout for layout in candidates if layout.fits(path, storage)), None)
