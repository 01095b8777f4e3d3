"""What reading the data found: how much there is, and what was dropped, missing or changed."""

from dataclasses import dataclass, field


@dataclass
class DataReport:
    """Counts that the readers add to while they read.

    Args:
        num_items: Items read.
        num_events: Events read, those of dropped users included.
        num_users: Users read, those dropped included.
        num_dropped_users: Users with fewer than `min_events` events.
        min_events: The limit for `num_dropped_users`.
        num_empty: Text field -> items without a text in it.
        num_replaced: Lone surrogates in texts, each replaced by U+FFFD.
        num_stripped: Control characters in texts, each replaced by a space.
        notes: What could be read in two ways, one line each, with file and line.
        num_html: Texts with HTML, made plain.
    """

    num_items: int = 0
    num_events: int = 0
    num_users: int = 0
    num_dropped_users: int = 0
    min_events: int = 0
    num_empty: dict[str, int] = field(default_factory=dict)
    num_replaced: int = 0
    num_stripped: int = 0
    notes: list[str] = field(default_factory=list)
    num_html: int = 0

    def lines(self) -> list[str]:
        """Describes the data in plain lines: first its size, then only what a user should know."""
        lines = [
            f"read {self.num_items:,} items and {self.num_events:,} events "
            f"of {self.num_users:,} users"
        ]
        if self.num_dropped_users:
            lines.append(
                f"dropped {self.num_dropped_users:,} users with fewer than {self.min_events} events"
            )
        for name, count in self.num_empty.items():
            if count:
                lines.append(f"{count:,} of {self.num_items:,} items have no {name}")
        if self.num_replaced:
            lines.append(f"halves of surrogate pairs, replaced by U+FFFD: {self.num_replaced:,}")
        if self.num_stripped:
            lines.append(f"control characters, replaced by spaces: {self.num_stripped:,}")
        if self.num_html:
            lines.append(f"texts with HTML, made plain: {self.num_html:,}")
        return lines + self.notes
