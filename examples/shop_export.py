"""Writes what a small shop's system might export, with the dirt that such files have.

    python examples/shop_export.py            # into ./shop
    python examples/shop_export.py FOLDER

FOLDER/export has products.csv (HTML, empty fields, prices as text) and orders.csv (returns, guests,
repeated purchases, two forms of time); FOLDER/new.csv has two products that came later.
"""

import csv
import random
import sys
from pathlib import Path

KINDS = ("tea", "coffee", "honey", "rice", "oil", "soap")
WORDS = ("green", "dark", "wild", "fine", "fresh", "smoked", "sweet", "plain")
NUM_PRODUCTS = 90


def main() -> None:
    """Writes the files."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "shop")
    (folder / "export").mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    products = [product(number, draw) for number in range(NUM_PRODUCTS)]
    header = ["product_id", "name", "description", "price"]
    write(folder / "export" / "products.csv", [header, *products])
    header = ["order_id", "customer_id", "product_id", "quantity", "ordered_at"]
    write(folder / "export" / "orders.csv", [header, *orders(draw)])
    new = [["N1", "dark tea &amp; lemon", "<p>Our <b>tea</b></p>", ""]]
    new += [["N2", "wild honey", "", "€ 3,50"]]
    write(folder / "new.csv", [["product_id", "name", "description", "price"], *new])


def product(number: int, draw: random.Random) -> list[str]:
    """A product: every fifth has no description, every tenth no price."""
    kind, word = KINDS[number % len(KINDS)], draw.choice(WORDS)
    description = f"<p>Our <b>{kind}</b> is {draw.choice(WORDS)}.</p>" if number % 5 else ""
    price = f"€ {draw.randint(1, 40)},{draw.randint(10, 99)}" if number % 10 else ""
    return [f"P{number:03d}", f"{word} {kind} &amp; more {number}", description, price]


def orders(draw: random.Random) -> list[list[object]]:
    """Orders of 200 customers, who mostly stay with a kind of product."""
    rows: list[list[object]] = []
    for customer in range(200):
        number = draw.randrange(NUM_PRODUCTS)
        for day in range(1, draw.randint(5, 12)):
            guest, returned = draw.random() < 0.03, draw.random() < 0.05
            name = "" if guest else f"C{customer:04d}"
            hour = "10:30:00" if draw.random() < 0.5 else "12:30:00+02:00"
            time = f"2025-06-{day:02d}T{hour}"
            quantity = -1 if returned else draw.randint(1, 3)
            rows.append([len(rows) + 1, name, f"P{number:03d}", quantity, time])
            if draw.random() < 0.7:  # the next of its kind; else the same again, or any
                number = (number + len(KINDS)) % NUM_PRODUCTS
            elif draw.random() < 0.5:
                number = draw.randrange(NUM_PRODUCTS)
    return rows


def write(path: Path, rows: list[list]) -> None:
    """Writes a csv file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main()
