"""What is kept and what is dropped: counted, and equal to a plain loop in Python."""

import random
import re
from collections import Counter

import pytest

from store_engine.errors import InputError
from store_engine.prepare.guess import guess_lines

ITEMS = "item_id,title\n" + "".join(f"i{n},Item {n}\n" for n in range(12))


def events_csv(events, header="user_id,item_id,timestamp"):
    return header + "\n" + "".join(",".join(map(str, event)) + "\n" for event in events)


def core(events, min_user, min_item):
    """Users and items with too few events go until none has too few."""
    while True:
        users, items = Counter(e[0] for e in events), Counter(e[1] for e in events)
        kept = [e for e in events if users[e[0]] >= min_user and items[e[1]] >= min_item]
        if kept == events:
            return kept
        events = kept


@pytest.mark.parametrize(("min_user", "min_item"), [(1, 0), (2, 2), (3, 4), (5, 1)])
def test_k_core_equals_a_plain_loop(min_user, min_item, prepared):
    rng = random.Random(min_user)
    events = [(f"u{rng.randrange(25)}", f"i{int(12 * rng.random() ** 2)}", t) for t in range(100)]
    rules = {"min_user": min_user, "min_item": min_item}
    result = prepared({"e.csv": events_csv(events), "i.csv": ITEMS}, rules)
    expected = core(events, min_user, min_item)
    assert sorted(result.events, key=lambda e: e[2]) == expected
    assert 0 < len(expected) < len(events) or (min_user, min_item) == (1, 0)
    kept = {item for _, item, _ in expected}
    assert set(result.items) == (kept if min_item else {f"i{n}" for n in range(12)})
    assert result.report.num_core_dropped == len(events) - len(expected)


def test_users_keep_the_order_of_the_file_and_ties_its_order(prepared):
    events = [("z", "i3", 5), ("a", "i1", 9), ("z", "i2", 5), ("z", "i1", 1), ("z", "i0", 5)]
    result = prepared({"e.csv": events_csv(events), "i.csv": ITEMS})
    assert result.events == [events[3], events[0], events[2], events[4], events[1]]
    assert result.report.num_ties == 3


def test_shuffled_ties_depend_on_the_seed_alone_and_keep_times(prepared):
    events = [("u", f"i{n}", t) for t in (1, 2) for n in range(12)]
    files = {"e.csv": events_csv(events), "i.csv": ITEMS}
    orders = [prepared(files, {"ties": "shuffle", "seed": seed}).events for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != events
    assert sorted(orders[0], key=lambda e: (e[2], int(e[1][1:]))) == events
    assert [e[2] for e in orders[0]] == [1] * 12 + [2] * 12


def test_duplicates_are_dropped_and_repeats_are_kept_and_both_counted(prepared):
    events = [("u", "i1", 1), ("u", "i1", 1), ("u", "i1", 2), ("v", "i1", 1)]
    files = {"e.csv": events_csv(events), "i.csv": ITEMS}
    result = prepared(files)
    assert result.events == [events[0], events[2], events[3]]
    assert (result.report.num_duplicates, result.report.num_repeats) == (1, 1)
    kept = prepared(files, {"duplicates": "keep"})
    assert kept.events == events
    assert kept.report.num_duplicates == 1


def test_without_times_nothing_is_a_duplicate(prepared):
    events = [("u", "i1"), ("u", "i1"), ("u", "i2")]
    result = prepared({"e.csv": events_csv(events, "user_id,item_id"), "i.csv": ITEMS})
    assert [e[1] for e in result.events] == ["i1", "i1", "i2"]


def test_all_that_is_bad_is_told_at_once(prepared):
    bad = "u1,i1\n,i2,5\nu1,,5\nu1,i1,soon\nu1,i1,\nu2,i77,9\nu2,i77,9\n"
    files = {"e.csv": events_csv([("u1", f"i{n}", n) for n in range(9)]) + bad, "i.csv": ITEMS}
    with pytest.raises(InputError) as error:
        prepared(files)
    message = str(error.value)
    for part in (
        "1 x rows of a broken form (missing columns)", "e.csv line 11",
        "1 x no user id (guests) (first: row 10)", "1 x no item id", "1 x no time",
        "1 x a time of another form than whole numbers", "--on-error drop",
        "2 events name items that the 12", "'i77' (2)", "--unknown-items drop",
    ):  # fmt: skip
        assert part in message
    result = prepared(files, {"on_error": "drop", "unknown_items": "drop"})
    assert result.events == [("u1", f"i{n}", n) for n in range(9)]
    assert [bad.count for bad in result.report.bad] == [1] * 5
    assert (result.report.num_unknown, result.report.num_read) == (2, 15)


def test_seconds_among_milliseconds_are_bad(prepared):
    events = [("u", "i1", 1600000000000), ("u", "i2", 1600000001), ("u", "i3", 1600000000002)]
    files = {"e.csv": events_csv(events), "i.csv": ITEMS}
    with pytest.raises(InputError, match="a time in seconds among milliseconds"):
        prepared(files)
    assert len(prepared(files, {"on_error": "drop"}).events) == 2


def test_an_item_twice_is_bad_and_the_first_is_kept(prepared):
    files = {"e.csv": events_csv([("u", "i1", 1)]), "i.csv": "item_id,title\ni1,One\ni1,Two\n,No\n"}
    with pytest.raises(InputError, match=r"without an id in i\.csv; 1 x .* row has in i\.csv"):
        prepared(files)
    assert prepared(files, {"on_error": "drop"}).items == {"i1": ("One",)}


def test_ids_that_became_floats_are_found_again(prepared):
    files = {"e.csv": "user,item,time\n7.0,1.0,1\n7.0,2.0,2\n", "i.csv": "item,title\n1,A\n2,B\n"}
    result = prepared(files)
    assert [e[1] for e in result.events] == ["1", "2"]
    assert "floats" in result.report.notes[0]


SALES = "customer_id,product_id,quantity,status,date\n" + "".join(
    f"C{n % 3},P{n},{q},{s},2024-01-{n + 1:02}\n"
    for n, (q, s) in enumerate([(1, "paid"), (-1, "paid"), (2, "Paid"), (0, "open"), (3, "it's")])
)
GOODS = "product_id,name\n" + "".join(f"P{n},Thing {n}\n" for n in range(5))


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("", "01234"),
        ("quantity > 0", "024"),
        ("quantity>=0 and status = paid", "02"),
        ("status = 'it''s' or (quantity < 0 and status == 'paid')", "14"),
        ('"quantity" != 1', "1234"),
        ("quantity = 1 or quantity = 2 and status = open", "0"),
    ],
)
def test_positive_says_which_events_count(expression, kept, prepared):
    result = prepared({"orders.csv": SALES, "products.csv": GOODS}, {"positive": expression})
    assert sorted(e[1][1:] for e in result.events) == list(kept)
    assert result.report.num_not_positive == 5 - len(kept)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("quantity >", "a number, a word or a text in single quotes, got ''"),
        ("quantity > 0)", "'and', 'or' or the end"),
        ("(quantity > 0", r"'\)'"),
        ("quantity > 'x'", "a number after >"),
        ("__import__('os') > 0", r"one of > >="),
        ("quantity > 1e999", "a finite number"),
        ("quantity = 'a", 'at "\'a"'),
        ("(" * 5000 + "quantity > 0", "a column"),
        ("amount > 0", "no column 'amount'; columns: customer_id"),
        ("1; DROP TABLE raw", "one of > >= < <= = !="),
    ],
)
def test_positive_refuses_what_is_none(expression, expected, prepared):
    with pytest.raises(InputError, match=expected):
        prepared({"orders.csv": SALES, "products.csv": GOODS}, {"positive": expression})


def test_positive_counts_what_is_no_number(prepared):
    sales = SALES.replace(",2,Paid", ",two,Paid")
    with pytest.raises(InputError, match=r"1 x quantity is no number, such as 'two' \(first: r"):
        prepared({"orders.csv": sales, "products.csv": GOODS}, {"positive": "quantity > 0"})
    sales = SALES.replace(",2,Paid", ",,Paid")
    with pytest.raises(InputError, match="1 x a value of --positive that is missing"):
        prepared({"orders.csv": sales, "products.csv": GOODS}, {"positive": "quantity > 0"})


@pytest.mark.parametrize(
    ("values", "expression", "kept", "wrong"),
    [
        (["1,00", "-1,00", "36,99", "2"], "Menge > 1,5", None, ""),
        (["1,00", "-1,00", "36,99", "2"], "Menge > 1.5", "23", ""),
        (["1.299,00", "-1,00", " 36,99 ", "2"], "Menge > 37", "0", ""),
        (["1.5", "-1.5", "0", "7"], "Menge > 1", "03", ""),
        (["1,234", "1.5", "2", "3"], "Menge > 1.4", "123", "1 x Menge is no number"),
        (["1,00", "two", "2", "3"], "Menge > 1", "23", "2 x Menge is no number, such as '1,00'"),
        (["1,00", "", "2", "0"], "Menge > 0 or Menge = '1,00'", "02", "1 x a value of"),
    ],
)
def test_a_comma_is_the_decimal_mark_where_all_values_say_so(
    values, expression, kept, wrong, prepared
):
    rows = (f"u;i{n};{n};{value}\n" for n, value in enumerate(values))
    csv = "user_id;item_id;timestamp;Menge\n" + "".join(rows)
    rules = {"positive": expression, "on_error": "drop"}
    if kept is None:
        with pytest.raises(InputError, match="a number after >, got '1,5'"):
            prepared({"e.csv": csv, "i.csv": ITEMS}, rules)
        return
    result = prepared({"e.csv": csv, "i.csv": ITEMS}, rules)
    assert "".join(e[1][1:] for e in result.events) == kept
    bad = "; ".join(kind.sentence() for kind in result.report.bad)
    assert bad.startswith(wrong) and bool(bad) == bool(wrong)


def test_returns_with_decimal_commas_are_warned_of(prepared):
    csv = "user_id;item_id;timestamp;Menge;Bewertung\nu;i0;1;1,00;5,0\nu;i1;2;-1,00;1,5\n"
    warnings = prepared({"e.csv": csv, "i.csv": ITEMS}).report.warnings
    assert warnings[0].startswith("Menge is <= 0 in 1 of 2 events")
    assert warnings[1].startswith("Bewertung runs from 1.5 to 5, and is below 4 in 1 of 2")


@pytest.mark.parametrize(
    ("users", "expected"),
    [
        (["A@x.de", "a@x.de", "b@x.de"], "2 user ids .* such as 'A@x.de' and 'a@x.de': they are"),
        (["É", "é", "X", "x", "y"], "4 user ids .* such as 'X' and 'x'"),
        (["a@x.de", "a@x.de", "b@x.de"], ""),
        (["A", "a", *(f"u{n}" for n in range(2000))], ""),
        (["A", "a", *(f"u{n}" for n in range(1900))], "2 user ids"),
    ],
)
def test_users_who_differ_in_capitals_alone_are_told(users, expected, prepared):
    events = [(user, f"i{n % 12}", n) for n, user in enumerate(users)]
    items = ITEMS + "I1,Item I1\nI2,Item I2\n"  # items of another's letters are told by nobody
    report = prepared({"e.csv": events_csv(events), "i.csv": items}).report
    assert len(report.warnings) == bool(expected)
    assert report.num_users == len(set(users))
    assert all(re.match(expected, warning) for warning in report.warnings)


def test_where_every_event_is_left_out_the_reasons_are_told(prepared):
    csv = "user_id;item_id;timestamp;Menge\n" + "".join(f"u;i{n};{n};1,00 kg\n" for n in range(3))
    rules = {"positive": "Menge > 0", "on_error": "drop"}
    with pytest.raises(InputError) as error:
        prepared({"e.csv": csv, "i.csv": ITEMS}, rules)
    expected = "every event is left out: 3 x Menge is no number, such as '1,00 kg' (first: row 1)"
    assert str(error.value).endswith(expected)


def test_returns_are_warned_of_unless_the_expression_reads_them(prepared):
    files = {"orders.csv": SALES, "products.csv": GOODS}
    warnings = " ".join(prepared(files).report.warnings)
    assert 'quantity is <= 0 in 2 of 5 events (40.0%): --positive "quantity > 0"' in warnings
    assert "status has values 'paid' 2" in warnings
    assert not prepared(files, {"positive": "quantity > 0 and status = paid"}).report.warnings


TIMES = {
    "whole": (["3", "20", "100"], [3, 20, 100]),
    "beyond float64": (["9007199254740993", "9007199254740992"], [2**53 + 1, 2**53]),
    "decimals": (["1.5", "1.25", "2"], ["1.500000000", "1.250000000", "2.000000000"]),
    "iso": (
        ["2024-01-02", "2024-01-02T03:04:05Z", "2024-01-02 03:04:05+02:00"],
        ["2024-01-02 00:00:00", "2024-01-02 03:04:05", "2024-01-02 01:04:05"],
    ),
    "day first": (
        ["31.12.2023 10:00", "01.02.2024 00:00"],
        ["2023-12-31 10:00:00", "2024-02-01 00:00:00"],
    ),
    "slashes, day first": (
        ["31/12/2023", "01/02/2024"],
        ["2023-12-31 00:00:00", "2024-02-01 00:00:00"],
    ),
}


@pytest.mark.parametrize("name", TIMES)
def test_times_are_ordered_exactly(name, prepared):
    texts, values = TIMES[name]
    csv = "user;item;time\n" + "".join(f"u;i{n};{text}\n" for n, text in enumerate(texts))
    result = prepared({"e.csv": csv, "i.csv": ITEMS})
    read = {item: time for _, item, time in result.events}
    shown = [
        read[f"i{n}"] if isinstance(v, int) else str(read[f"i{n}"]) for n, v in enumerate(values)
    ]
    assert shown == values
    order = sorted(range(len(values)), key=values.__getitem__)
    assert [e[1] for e in result.events] == [f"i{n}" for n in order]


def test_day_and_month_that_could_be_either_are_told(prepared):
    csv = "user,item,time\nu,i1,03/04/2024\nu,i2,05/06/2024\n"
    assert "fit %d/%m/%Y as well" in prepared({"e.csv": csv, "i.csv": ITEMS}).report.warnings[0]
    result = prepared({"e.csv": csv, "i.csv": ITEMS}, {"time_format": "%d/%m/%Y"})
    assert [str(e[2])[:10] for e in result.events] == ["2024-04-03", "2024-06-05"]
    with pytest.raises(InputError, match="no known form fits the times, such as '03/04/2024'"):
        prepared({"e.csv": csv, "i.csv": ITEMS}, {"time_format": "%Y"})


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"min_user": 0}, "--min-user must be at least 1"),
        ({"min_item": -1}, "--min-item at least 0"),
        ({"memory_gib": 0.0}, "--memory must be"),
        ({"min_user": 50}, "no user and item is left"),
    ],
)
def test_rules_that_leave_nothing_are_refused(rules, expected, prepared):
    with pytest.raises(InputError, match=expected):
        prepared({"e.csv": events_csv([("u", "i1", 1)]), "i.csv": ITEMS}, rules)


def test_dates_with_dashes_are_read_day_first(prepared):
    events = [("u", f"i{day % 3}", f"{day:02d}-02-2024 10:00") for day in range(1, 29)]
    result = prepared({"e.csv": events_csv(events), "i.csv": ITEMS})
    assert result.report.time_form == "%d-%m-%Y %H:%M"
    assert str(result.events[0][2]) == "2024-02-01 10:00:00"


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2025-06-13 12:22:00 -0400", "2025-06-13 16:22:00"),
        ("2025-06-13 12:22:00 -04:00", "2025-06-13 16:22:00"),
        ("2025-06-13T12:22:00-0400", "2025-06-13 16:22:00"),
        ("06/13/25 3:05 PM", "2025-06-13 15:05:00"),
        ("06/13/2025 3:05 PM", "2025-06-13 15:05:00"),
        ("06/13/25 15:05", "2025-06-13 15:05:00"),
        ("13/06/25", "2025-06-13 00:00:00"),
        ("13.06.25", "2025-06-13 00:00:00"),
        ("13.06.2025 15:05", "2025-06-13 15:05:00"),
    ],
)
def test_the_times_of_shops_are_known(time, expected, prepared):
    csv = f"Customer Email,Lineitem sku,Created At\na@b.com,i1,{time}\na@b.com,i2,{time}\n"
    assert [str(e[2]) for e in prepared({"e.csv": csv, "i.csv": ITEMS}).events] == 2 * [expected]


def test_a_column_of_other_capitals_is_named(prepared):
    csv = events_csv([("u", "i1", 1, 1)], "user_id,item_id,timestamp,QTY")
    with pytest.raises(InputError, match=r"no column 'qty' \(QTY\?\); columns: user_id"):
        prepared({"e.csv": csv, "i.csv": ITEMS}, {"positive": "qty > 0"})


def test_a_first_refusal_warns_too(prepared):
    """Who mends bad rows one by one must not learn of the returns in the end."""
    events = [("u", "i1", 1, 1), ("u", "i2", 2, -1), ("", "i1", 3, 1), ("u", "i3", 4, 2)]
    csv = events_csv(events, "user_id,item_id,timestamp,quantity")
    with pytest.raises(InputError, match=r"no user id.*; warning: quantity is <= 0 in 1 of 4"):
        prepared({"e.csv": csv, "i.csv": ITEMS})


def test_ratings_are_no_purchases(prepared):
    events = [("u", f"i{n}", n, n % 5 + 1) for n in range(10)]
    csv = events_csv(events, "user_id,item_id,timestamp,rating")
    (warning,) = prepared({"e.csv": csv, "i.csv": ITEMS}).report.warnings
    assert warning == (
        "rating runs from 1 to 5, and is below 4 in 6 of 10 events (60.0%): "
        '--positive "rating >= 4" leaves them out'
    )
    kept = prepared({"e.csv": csv, "i.csv": ITEMS}, {"positive": "rating >= 4"}).report
    assert not kept.warnings and kept.num_events == 4


def test_columns_that_are_no_text_are_named(prepared):
    events = events_csv([("u", f"i{n}", n) for n in range(3)])
    items = "item_id,title,price,ean\n" + "".join(f"i{n},Item {n},9.{n},4{n}\n" for n in range(3))
    lines = guess_lines(prepared({"e.csv": events, "i.csv": items}).report.found)
    assert "  not part of the text: price, ean (--text A,B names others)" in lines
