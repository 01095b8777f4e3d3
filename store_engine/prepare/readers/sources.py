"""A table -> SQL of plain rows: one event or one item each, all of it text, nothing read yet."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from store_engine.prepare.readers.columns import sequence_sql
from store_engine.prepare.readers.discover import Table
from store_engine.prepare.readers.literal_lines import write_json_lines
from store_engine.prepare.readers.storage import identifier, literal

_MIND_TIME = "try_strptime(time, '%m/%d/%Y %I:%M:%S %p')"


def without_literals(table: Table, folder: Path) -> tuple[Table, dict[str, int]]:
    """Writes files of Python literals as JSON lines; other tables are returned as they are.

    Args:
        table: The table.
        folder: Where the JSON lines are written.

    Returns:
        The table, and its bad lines: the first one's place -> their number.
    """
    storage = table.storage
    if storage.kind != "literal":
        return table, {}
    out = folder / f"{table.role}.jsonl"
    bad = write_json_lines(storage.files, storage.compression, out)
    storage = replace(storage, files=(out,), kind="json", compression="none")
    return replace(table, storage=storage), bad


def event_rows(table: Table, computed: dict[str, str], reads: Iterable[str] = ()) -> str:
    """Writes the SQL of the events, in the order of the files.

    Args:
        table: The events.
        computed: Further columns: name -> SQL of the table's columns.
        reads: The table's columns that `computed` reads.

    Returns:
        SELECT with the columns user_id, item_id and time, each a text or NULL, and `computed`.
    """
    roles, storage = table.roles, table.storage
    more = "".join(f", {sql} AS {identifier(name)}" for name, sql in computed.items())
    if table.expand == "mind":
        return _mind_events(table)
    if table.expand == "nested":
        return _nested_events(table)
    if table.storage.kind == "lines":
        split = f"string_split(trim(line, ' \t\r'), {literal(storage.delimiter)})"
        lists = f"SELECT list_filter({split}, lambda x: trim(x) <> '') AS ids"
        return (
            f"SELECT ids[1] AS user_id, unnest(ids[2:]) AS item_id, NULL::VARCHAR AS time "
            f"FROM ({lists} FROM {storage.relation(['line'])})"
        )
    names = [roles.user, roles.item, *filter(None, [roles.time]), *reads]
    time = identifier(roles.time) if roles.time else "NULL::VARCHAR"
    item = identifier(roles.item)
    if table.sequence:  # a row without a list is kept: it is a bad row, to be counted
        ids = sequence_sql(item)
        item = f"unnest(CASE WHEN coalesce(len({ids}), 0) = 0 THEN [NULL] ELSE {ids} END)"
        if time != "NULL::VARCHAR":
            listed = sequence_sql(time)
            time = f"unnest(CASE WHEN len({listed}) = len({ids}) THEN {listed} END)"
    return (
        f"SELECT {identifier(roles.user)} AS user_id, {item} AS item_id, {time} AS time{more} "
        f"FROM {storage.relation(names)}"
    )


def item_rows(table: Table) -> str:
    """Writes the SQL of the items: SELECT with the columns item_id, and one per text field."""
    roles, storage = table.roles, table.storage
    texts = {name: table.computed.get(name, identifier(name)) for name in item_fields(table)}
    chosen = "".join(f", {sql} AS {identifier(f'text_{n}')}" for n, sql in texts.items())
    reads = [n for n in storage.columns if any(n in sql for sql in texts.values())]
    relation = storage.relation([roles.item, *reads])
    return f"SELECT {identifier(roles.item)} AS item_id{chosen} FROM {relation}"


def item_fields(table: Table) -> tuple[str, ...]:
    """Names of the items' text fields, the title first."""
    texts = table.roles.texts
    fields = [*texts, *(name for name in table.computed if name not in texts)]
    return tuple(sorted(fields, key=lambda name: name != "title"))


def _nested_events(table: Table) -> str:
    """Events in a JSON list of objects, one list per user."""
    layout, roles = table.layout, table.roles
    assert layout is not None
    names = [roles.user, layout.nested]
    time = _member(roles.time) if roles.time else "NULL::VARCHAR"
    texts = "".join(f", {_member(n)} AS {identifier(f'text_{n}')}" for n in roles.texts)
    inner = (
        f"SELECT {identifier(roles.user)} AS user_id, "
        f"unnest(json_extract({identifier(layout.nested)}, '$[*]')) AS event "
        f"FROM {table.storage.relation(names)}"
    )
    return f"SELECT user_id, {_member(roles.item)} AS item_id, {time} AS time{texts} FROM ({inner})"


def _member(name: str) -> str:
    return f"json_extract_string(event, {literal(name)})"


def _mind_events(table: Table) -> str:
    """A user's clicks before the log, a second apart, then those of the log."""
    names = ("user_id", "time", "history", "impressions")
    log = f"SELECT *, {_MIND_TIME} AS clicked FROM {table.storage.relation(names)}"
    first = (
        "SELECT user_id, min(clicked) AS clicked, arg_min(history, clicked) AS history "
        "FROM log GROUP BY user_id"
    )
    return (
        f"WITH log AS MATERIALIZED ({log}), first AS ({first}), "
        f"ids AS (SELECT user_id, clicked, string_split(trim(history), ' ') AS ids FROM first "
        f"WHERE trim(history) <> ''), "
        f"before AS (SELECT user_id, unnest(ids) AS item_id, "
        f"epoch(clicked)::BIGINT - len(ids) + generate_subscripts(ids, 1) - 1 AS time FROM ids), "
        f"shown AS (SELECT user_id, unnest(string_split(trim(impressions), ' ')) AS item_id, "
        f"CASE WHEN clicked IS NULL THEN time ELSE epoch(clicked)::BIGINT::VARCHAR END AS time "
        f"FROM log) "
        f"SELECT user_id, item_id, time::VARCHAR AS time FROM before "
        f"UNION ALL "
        f"SELECT user_id, left(item_id, length(item_id) - 2) AS item_id, time FROM shown "
        f"WHERE item_id LIKE '%-1'"
    )


def mind_impressions(table: Table) -> str:
    """Writes the SQL of what MIND's users were shown: one row an item, label 1 where clicked."""
    names = ("impression_id", "user_id", "time", "impressions")
    return (
        f"SELECT impression_id, user_id, left(shown, length(shown) - 2) AS item_id, "
        f"epoch({_MIND_TIME})::BIGINT AS timestamp, right(shown, 1)::TINYINT AS label FROM "
        f"(SELECT *, unnest(string_split(trim(impressions), ' ')) AS shown "
        f"FROM {table.storage.relation(names)}) WHERE regexp_full_match(shown, '.+-[01]')"
    )
