"""What a preparation found and did: counts, faults and lengths, as card.json has them."""

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from store_engine.prepare.guess import table_json
from store_engine.prepare.readers.discover import Found
from store_engine.prepare.rules import Rules


@dataclass(frozen=True)
class BadKind:
    """Rows with one fault.

    Args:
        kind: The fault.
        count: How many there are.
        first: Where the first one is; "" is not known.
        file: Name of the items' first file; "" for events.
    """

    kind: str
    count: int
    first: str = ""
    file: str = ""

    def sentence(self) -> str:
        """Says it in a few words."""
        place = f" in {self.file}" if self.file else ""
        first = f" (first: {self.first})" if self.first else ""
        return f"{self.count:,} x {self.kind}{place}{first}"


class TextLengths:
    """Lengths of a field's texts, in letters."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, text: str) -> None:
        """Counts one text."""
        self._counts[len(text)] += 1

    def summary(self) -> dict[str, float]:
        """Returns how many are empty, and of the others median, 95 % quantile, most, mean."""
        filled = Counter({length: n for length, n in self._counts.items() if length})
        total = filled.total()
        mean = sum(length * n for length, n in filled.items()) / max(total, 1)
        quantiles = [_quantile(filled, share * total) for share in (0.5, 0.95, 1.0)]
        names = ("median", "p95", "max")
        return {"empty": self._counts[0], **dict(zip(names, quantiles, strict=True)), "mean": mean}


def _quantile(counts: Counter[int], rank: float) -> int:
    seen = 0
    for length in sorted(counts):
        seen += counts[length]
        if seen >= rank:
            return length
    return 0


@dataclass
class Report:
    """Counts that the steps add to.

    Args:
        found: What was read.
        rules: What was kept.
        max_rows: Rows of each table that a dry run reads, the first ones; 0: all.
        cut: "events" and "items": the tables that have more.
    """

    found: Found
    rules: Rules
    max_rows: int = 0
    cut: list[str] = field(default_factory=list)
    num_read: int = 0  # events read, in whole rows
    num_items_read: int = 0  # rows of the items' files
    num_not_positive: int = 0
    num_unknown: int = 0  # events of items that the catalogue lacks
    unknown_examples: str = ""
    num_duplicates: int = 0
    num_users_read: int = 0  # with an event before the k-core
    num_items_seen: int = 0
    num_core_dropped: int = 0  # events
    num_rounds: int = 0
    num_events: int = 0
    num_users: int = 0
    num_items: int = 0
    num_repeats: int = 0  # events of an item that the user had before
    num_shown: int = 0  # items that users were shown, clicked or not
    num_ties: int = 0  # events that share user and time with another
    num_cleaned: int = 0  # texts that cleaning changed
    time_form: str = ""
    first_time: str = ""
    last_time: str = ""
    fields: tuple[str, ...] = ()
    texts: dict[str, TextLengths] = field(default_factory=dict)
    # min, median, 95 % quantile, max, mean
    lengths: dict[str, tuple[float, ...]] = field(default_factory=dict)
    bad: list[BadKind] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """The first file of events, for messages, and the part of the events that was read."""
        part = f" (its first {self.max_rows:,} rows)" if "events" in self.cut else ""
        return f"{self.found.events.storage.files[0]}{part}"

    def add_bad(self, kind: str, count: int, first: str = "") -> None:
        """Counts rows of one fault of the events, if there are any."""
        if count:
            self.bad.append(BadKind(kind, count, first))

    def add_bad_items(self, kind: str, count: int, first: str = "") -> None:
        """Counts rows of one fault of the items, if there are any."""
        items = self.found.items
        if count:
            file = items.storage.files[0].name if items is not None else ""
            self.bad.append(BadKind(kind, count, first, file))

    def left_out(self) -> list[str]:
        """Says which rows are left out before the k-core, and how many of each kind."""
        counts = (
            (self.num_not_positive, f"not {self.rules.positive}"),
            (self.num_unknown, "of unknown items"),
            (self.num_duplicates, f"twice ({self.rules.duplicates})"),
        )
        others = [f"{count:,} x {what}" for count, what in counts if count]
        return [bad.sentence() for bad in self.bad] + others

    def counts(self) -> list[tuple[str, str]]:
        """Returns what was read, left out and kept, in the order of the steps."""
        rows: list[tuple[str, int | str]] = [("events read", self.num_read)]
        rows += [(f"bad: {bad.kind}", bad.count) for bad in self.bad]
        if self.rules.positive:
            rows.append((f"not {self.rules.positive}", self.num_not_positive))
        what = "dropped" if self.rules.duplicates == "drop" else "kept"
        if "items" not in self.cut:
            rows.append(("of unknown items, dropped", self.num_unknown))
        rows.append((f"duplicates (same user, item and time), {what}", self.num_duplicates))
        rows += [] if self.cut else self._counts_of_all()
        return [(name, n if isinstance(n, str) else f"{n:,}") for name, n in rows]

    def _counts_of_all(self) -> list[tuple[str, int | str]]:
        """What only all rows tell."""
        core = f"--min-user {self.rules.min_user}, --min-item {self.rules.min_item}"
        rows: list[tuple[str, int | str]] = [
            (f"dropped by the k-core ({core}; {self.num_rounds} rounds)", self.num_core_dropped),
            ("events kept", self.num_events),
            ("users kept", f"{self.num_users:,} of {self.num_users_read:,}"),
            ("items kept", f"{self.num_items:,} ({self.num_items_seen:,} had events)"),
            ("repeats: the user had the item before", self._share(self.num_repeats)),
            (f"ties: same user and time, kept in {self._ties()} order", self._share(self.num_ties)),
        ]
        if self.num_shown:
            rows.append(("items shown, clicked or not", self.num_shown))
        rows.append(("texts that cleaning changed", self.num_cleaned))
        return rows

    def part(self) -> str:
        """Says what of the files was read, and what was not looked for because it was a part."""
        if not self.cut:
            return "all rows were read"
        names = ["events"] if self.found.items is None else ["events", "items"]
        first = f"the first {self.max_rows:,}"
        parts = [f"{first if name in self.cut else 'all'} rows of {name}" for name in names]
        missing = "who has too few events"
        missing += ", whether items are unknown" if "items" in self.cut else ""
        return f"{' and '.join(parts)} were read; not looked for: {missing}"

    def as_json(self) -> dict[str, Any]:
        """Returns all counts as JSON, by the names of the fields."""
        left_out = {"found", "rules", "texts", "bad", "lengths"}
        left_out |= set() if self.max_rows else {"max_rows", "cut"}
        names = [field.name for field in dataclasses.fields(self)]
        values = {name: getattr(self, name) for name in names if name not in left_out}
        tables = {"events": self.found.events, "items": self.found.items}
        return values | {
            "format": self.found.events.format,
            "sources": {n: None if t is None else table_json(t) for n, t in tables.items()},
            "rules": dataclasses.asdict(self.rules),
            "bad": [dataclasses.asdict(bad) for bad in self.bad],
            "texts": {name: lengths.summary() for name, lengths in self.texts.items()},
            "lengths": {
                name: dict(zip(("min", "median", "p95", "max", "mean"), values, strict=True))
                for name, values in self.lengths.items()
            },
        }

    def _ties(self) -> str:
        return "the files'" if self.rules.ties == "file" else f"random (seed {self.rules.seed})"

    def _share(self, count: int) -> str:
        return f"{count:,} ({count / max(self.num_events, 1):.1%})"
