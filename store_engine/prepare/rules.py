"""What a preparation keeps."""

from dataclasses import dataclass
from typing import Literal

from store_engine.errors import InputError


@dataclass(frozen=True)
class Rules:
    """What is kept.

    Args:
        min_user: Users with fewer events are dropped.
        min_item: Items with fewer events are dropped; 0 keeps also those without any.
        on_error: Bad rows end the work, or are dropped; both after all are counted.
        unknown_items: Events of items that the catalogue lacks end the work, or are dropped.
        duplicates: The same user, item and time again is dropped, or kept.
        positive: Which events count, an expression (positive.py); "" is all.
        time_format: A format of strptime for the times; "" finds one.
        ties: What orders a user's events of one time: the files, or chance.
        seed: For `ties="shuffle"`.
        memory_gib: What DuckDB may hold in memory.
    """

    min_user: int = 3
    min_item: int = 0
    on_error: Literal["stop", "drop"] = "stop"
    unknown_items: Literal["error", "drop"] = "error"
    duplicates: Literal["drop", "keep"] = "drop"
    positive: str = ""
    time_format: str = ""
    ties: Literal["file", "shuffle"] = "file"
    seed: int = 0
    memory_gib: float = 2.0

    def __post_init__(self) -> None:
        """Refuses what leaves nothing to split."""
        if self.min_user < 1 or self.min_item < 0:
            raise InputError(
                f"--min-user must be at least 1 and --min-item at least 0, "
                f"got {self.min_user} and {self.min_item}"
            )
        if not 0.25 <= self.memory_gib <= 4096:
            raise InputError(f"--memory must be from 0.25 to 4096 GiB, got {self.memory_gib}")
