"""Tables of Markdown, and how the numbers in them look."""


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """A table of Markdown; a sentence if it has no lines."""
    if not lines:
        return "Not measured yet."
    cells = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def figure(x: float, digits: int = 4) -> str:
    """A share without its zero: .1193."""
    return f"{x:.{digits}f}".removeprefix("0")


def number(x: float) -> str:
    """Three significant digits, at most three behind the point: 0.092, 1.37, 10.4, 3,649."""
    if abs(x) >= 100:
        return f"{x:,.0f}"
    return f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}" if abs(x) >= 1 else f"{x:.3f}"


def times(ratio: float) -> str:
    """8.7 x, 26 x."""
    return f"{ratio:.0f} x" if ratio >= 9.95 else f"{ratio:.1f} x"
