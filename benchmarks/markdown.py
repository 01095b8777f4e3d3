"""Tables of Markdown."""


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """A table of Markdown; a sentence if it has no lines."""
    if not lines:
        return "Not measured yet."
    cells = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def figure(x: float, digits: int = 4) -> str:
    """A share without its zero: .1193."""
    return f"{x:.{digits}f}".removeprefix("0")
