"""The one error of this package that is the user's to mend, and what its message is made of."""

import reprlib
from collections.abc import Container, Iterable

_MAX_MESSAGE = 2000  # characters; what a file or a request holds can be of any length
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 100
_MAX_DIGITS = 20  # of an id that a program pads with zeros


class InputError(ValueError):
    """What the user gave (a file, a config, an option) is wrong; the message says what is required.

    Entry points print the message as one line on stderr and exit with status 2. What comes from a
    file can hold line breaks and terminal commands: they stand escaped in the message.
    The middle of a very long message is left out.
    """

    def __init__(self, message: str) -> None:
        if len(message) > _MAX_MESSAGE:
            half = _MAX_MESSAGE // 2
            message = f"{message[:half]} ... {message[-half:]}"
        super().__init__(_one_line(message))


def shown(value: object) -> str:
    """Returns a value of any type and size as a message shows it, in 200 characters at most."""
    try:
        return _REPR.repr(value)[:200]
    except Exception:  # such as an integer of more digits than Python prints
        return f"a value of type {type(value).__name__}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the known name that is most like another, capitals apart; "" if none is like it."""
    import difflib  # loaded after a mistake alone

    by_name = {one.casefold(): one for one in known}
    found = difflib.get_close_matches(name.casefold(), by_name, n=1)
    return by_name[found[0]] if found else ""


def meant_id(given: str, known: Container[str]) -> str:
    """Returns the known id that a program or a hand changed; "" if none is found in few look-ups.

    What changes: white space around it, ".0" where numbers were read as floats, leading zeros,
    capitals.
    """
    text = given.strip()
    whole = text.removesuffix(".0")
    forms = [text, whole, f"{text}.0"]
    if whole.isdigit():
        forms.append(whole.lstrip("0") or "0")
        forms += (whole.zfill(width) for width in range(len(whole) + 1, _MAX_DIGITS + 1))
    forms += (text.lower(), text.upper(), text.capitalize(), text.title())
    return next((form for form in forms if form != given and form in known), "")


def _one_line(message: str) -> str:
    if message.isprintable():
        return message
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
    return "".join(escaped)
