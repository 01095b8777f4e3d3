"""Which column is the user, the item, the time and the text: told from names, then from values."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from store_engine.prepare.readers.storage import Storage


def _words(text: str) -> list[str]:
    return text.split()


# the likeliest first, without marks and capitals
_USERS = _words("""
    user userid uid uuid userlogin username reviewerid customer customerid custid client clientid
    member memberid visitor visitorid buyer buyerid shopper shopperid account accountid person
    personid profileid authorid kundennummer kundennr kundenid kundeid kunde kundin
    käufer besteller email emailaddress customeremail useremail buyeremail sessionid session
""")
_ITEMS = _words("""
    item itemid iid parentasin asin product productid prodid sku skuid article articleid movie
    movieid book bookid isbn news newsid game gameid appid track trackid song songid artistid
    video videoid course courseid stockcode productcode itemcode gmapid businessid artikelnummer
    artikelnr artikelid artikel produktnummer produktnr produktid produkt lineitemsku
""")
_ITEM_CODES = _words("id code key ean gtin")  # where nobody's events stand beside them
_TIMES = _words("""
    timestamp time unixreviewtime ts datetime date eventtime eventtimestamp createdat created
    orderdate ordertime purchasedate purchasedat purchasetime invoicedate reviewtime visittime
    dateadded dateupdated readat updatedat unixtime unixtimestamp when
    zeitstempel zeitpunkt bestelldatum bestellzeit bestellzeitpunkt kaufdatum kaufzeit datum zeit
""")
_TEXTS = _words("""
    title name movietitle producttitle productname itemname itemtitle appname articletitle
    headline bookname label brand store manufacturer maker author authors artist publisher
    developer category categories maincategory subcategory productcategory topic genre genres
    class type tags keywords description desc abstract shortdescription details features summary
    subtitle color colour size material releaseyear
    titel bezeichnung artikelbezeichnung artikelname produktname marke hersteller kategorie
    warengruppe beschreibung farbe größe
""")
_TIME_ENDS = ("at", "date", "time", "timestamp", "datum", "zeit", "zeitpunkt", "zeitstempel")
_OTHER_TIMES = (  # of a person or an item
    "birth", "release", "publi", "expir", "geburt", "erschein", "ablauf"
)  # fmt: skip
_LETTERS = re.compile(r"[^\W\d_]")
_URL = re.compile(r"(https?:)?//")
_ASIN = re.compile(r"B[0-9A-Z]{9}|\d{9}[\dX]")
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?|\d{9,10}(\.\d+)?|\d{12,13}"
    r"|\d{1,2}[/.]\d{1,2}[/.](\d{4}|\d\d\b).*"
)


@dataclass(frozen=True)
class Roles:
    """What the columns of a table hold; "" is none.

    Args:
        user: Column of the user ids.
        item: Column of the item ids.
        time: Column of the times.
        texts: Columns with the items' texts, the title first.
    """

    user: str = ""
    item: str = ""
    time: str = ""
    texts: tuple[str, ...] = ()

    def with_names(self, user: str, item: str, time: str = "") -> "Roles":
        """Returns the roles with other columns; "" leaves one as it is, and no time is "none"."""
        chosen = "" if time == "none" else time or self.time
        texts = tuple(text for text in self.texts if text not in (user, item, time))
        return Roles(user or self.user, item or self.item, chosen, texts)


def guess_roles(storage: Storage) -> Roles:
    """Guesses what each column of a table holds."""
    if not storage.has_header:
        return _by_values(storage)
    names = storage.columns
    user, item, time = (_named(names, known) for known in (_USERS, _ITEMS, _TIMES))
    time = time or _time_by_values(storage, {user, item})
    taken = {user, item, time}
    texts = [n for n in names if n not in taken and _plain(n) in _TEXTS and _has_text(storage, n)]
    if not user:
        texts += [n for n in names if n not in {*taken, *texts} and _is_prose(storage, n)]
        item = item or item_column(names)
        texts = [name for name in texts if name != item]
    texts.sort(key=lambda name: _rank(_plain(name)))
    return Roles(user, item, time, tuple(texts))


def item_column(names: Sequence[str]) -> str:
    """Returns the column that is named like one of item ids; "" where there is none."""
    return _named(names, _ITEMS) or _named(names, _ITEM_CODES)


def column_values(storage: Storage, name: str) -> list[str]:
    """Returns the values of a column in the sample that are not empty."""
    place = storage.columns.index(name)
    return [row[place] for row in storage.sample if row[place].strip()]


def rename(storage: Storage, names: Sequence[str]) -> Storage:
    """Gives the columns of a file without a header names."""
    return replace(storage, columns=tuple(names))


def _plain(name: str) -> str:
    """A column's name without what writers of names differ in; RecBole's types go."""
    return re.sub(r"[\W_]+", "", name.partition(":")[0].lower())


def _named(names: Sequence[str], known: Sequence[str]) -> str:
    """The column whose name comes first among the known ones."""
    found = [(known.index(_plain(name)), name) for name in names if _plain(name) in known]
    return min(found, default=(0, ""))[1]


def _time_by_values(storage: Storage, taken: set[str]) -> str:
    """The first column named like a time (ordered_at, shipping date) whose values are times."""
    for name in storage.columns:
        is_named = _plain(name).endswith(_TIME_ENDS)
        if name not in taken and is_named and _holds_times(storage, name):
            return name
    return ""


def unread_times(storage: Storage) -> list[str]:
    """Columns whose values are dates and whose names do not say that they are of something else."""
    dates = [n for n in storage.columns if _mostly(column_values(storage, n), _is_date)]
    return [name for name in dates if _holds_times(storage, name)]


def _holds_times(storage: Storage, name: str) -> bool:
    is_of_another = _plain(name).startswith(_OTHER_TIMES)
    return not is_of_another and _mostly(column_values(storage, name), _is_time)


def _rank(name: str) -> int:
    return _TEXTS.index(name) if name in _TEXTS else len(_TEXTS)


def _has_text(storage: Storage, name: str) -> bool:
    """Whether any value holds letters and is no address."""
    values = column_values(storage, name)
    return not values or any(_LETTERS.search(v) and not _URL.match(v) for v in values)


def _is_prose(storage: Storage, name: str) -> bool:
    """Whether most values are words: letters, and not addresses or codes."""
    values = column_values(storage, name)[:200]
    words = [v for v in values if _LETTERS.search(v) and not _URL.match(v)]
    spaced = [v for v in words if " " in v.strip()]
    return len(words) > len(values) / 2 and len(spaced) > len(values) / 10


def _by_values(storage: Storage) -> Roles:
    """Roles of columns without names: a time looks like one, ids come again and again."""
    columns = {name: column_values(storage, name)[:MAX_VALUES] for name in storage.columns}
    time = next((n for n, v in reversed(columns.items()) if _mostly(v, _is_time)), "")
    numbers = {n for n, v in columns.items() if n != time and _is_rating(v)}
    prose = [n for n in storage.columns if n != time and _is_prose(storage, n)]
    ids = [n for n in storage.columns if n != time and n not in numbers and n not in prose]
    if len(ids) < 2 and numbers and not prose:  # ids of a few small numbers
        ids = [n for n in storage.columns if n != time]
    if prose or len(ids) < 2:
        return Roles("", (ids or [""])[0], "", tuple(prose))
    user, item = ids[:2]
    if _mostly(columns[user], _ASIN.fullmatch) and not _mostly(columns[item], _ASIN.fullmatch):
        user, item = item, user  # Amazon 2018 has the item first
    return Roles(user, item, time)


MAX_VALUES = 500


def _is_time(value: str) -> bool:
    return _TIME.fullmatch(value.strip()) is not None


def _is_date(value: str) -> bool:
    """Whether it can be nothing but a date: numbers can be anything."""
    return _is_time(value) and not value.strip().replace(".", "", 1).isdigit()


def _is_rating(values: list[str]) -> bool:
    """Whether there are few different values, all small numbers."""
    return len(set(values)) <= 11 and _mostly(values, re.compile(r"-?\d{1,2}(\.\d)?").fullmatch)


def _mostly(values: list[str], fits: Callable[[str], object]) -> bool:
    return bool(values) and sum(bool(fits(value)) for value in values) >= 0.95 * len(values)


def is_sequence(values: Sequence[str]) -> bool:
    """Whether the values of a column are lists of ids, such as `12 7 99` or `["a", "b"]`."""
    parts = [split_sequence(value) for value in values[:MAX_VALUES]]
    lengths = [len(part) for part in parts]
    if not parts or sum(n > 1 for n in lengths) < len(parts) / 2:
        return False
    return all(" " not in p for part in parts for p in part) and any(
        a != b for a, b in pairwise(lengths)
    )


def split_sequence(value: str) -> list[str]:
    """Splits the ids of a cell, as `sequence_sql` does."""
    return [part for part in re.split(r"[\s,|;\[\]\"']+", value) if part]


def sequence_sql(column: str) -> str:
    """Writes the SQL that splits a cell into a list of ids.

    Args:
        column: SQL of the cell.
    """
    split = f"regexp_split_to_array({column}, '[\\s,|;\\[\\]\"'']+')"
    return f"list_filter({split}, lambda part: part <> '')"
