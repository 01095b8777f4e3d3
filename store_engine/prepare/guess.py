"""What is going to be read, and as what."""

from typing import Any

from store_engine.prepare.readers.discover import Found, Table


def guess_lines(found: Found) -> list[str]:
    """Says in plain lines what is going to be read, and as what."""
    lines = [f"format {found.events.format}"]
    for name, table in (("events", found.events), ("items", found.items)):
        if table is None:
            texts = ", ".join(found.events.roles.texts) or "their ids"
            lines.append(f"items: made of the events' items; texts: {texts}")
            continue
        files = table.storage.files
        more = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
        lines.append(f"{name}: {files[0]}{more}: {table.storage.describe()}")
        columns = ", ".join(f"{role} = {column}" for role, column in _columns(table).items())
        lines.append(f"  {columns}")
        if name == "events" and (times := _unread_times(table)):
            lines.append(
                f"  not read, but dates: {', '.join(times)} (--time {times[0]} orders by it)"
            )
        if name == "items" and (left_out := _left_out(table)):
            lines.append(f"  not part of the text: {', '.join(left_out)} (--text A,B names others)")
    if found.unused:
        more = ", ..." if len(found.unused) > 5 else ""
        names = ", ".join(path.name for path in found.unused[:5])
        lines.append(f"not read: {names}{more}")
    return lines


def _columns(table: Table) -> dict[str, str]:
    from store_engine.prepare.readers.sources import item_fields

    if table.storage.kind == "lines":
        return {"user": "the first of a line", "items": "the others"}
    roles = table.roles
    columns = {"user": roles.user, "item": roles.item}
    if table.role == "events" or roles.user:
        columns["time"] = roles.time or "none, the order of the file"
    else:
        columns["texts"] = ", ".join(item_fields(table))
    return {name: column for name, column in columns.items() if column}


def _unread_times(table: Table) -> list[str]:
    """Columns of dates, where no column was taken for the times."""
    from store_engine.prepare.readers.columns import unread_times

    is_guessed = table.storage.kind != "lines" and not table.roles.time
    return unread_times(table.storage) if is_guessed else []


def _left_out(table: Table) -> list[str]:
    """Columns of the items that nobody will read."""
    from store_engine.prepare.readers.sources import item_fields

    used = {table.roles.item, *item_fields(table)}
    formulas = " ".join(table.computed.values())
    return [name for name in table.storage.columns if name not in used and name not in formulas]


def table_json(table: Table) -> dict[str, Any]:
    """Describes a table for card.json."""
    files = [str(path) for path in table.storage.files]
    return {"files": files, "form": table.storage.describe(), "columns": _columns(table)}
