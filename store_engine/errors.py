"""The one error of this package that is the user's to mend."""


class InputError(ValueError):
    """What the user gave (a file, a config, an option) is wrong; the message says what is required.

    Entry points print the message as one line on stderr and exit with status 2. What comes from a
    file can hold line breaks and terminal commands: they stand escaped in the message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


def _one_line(message: str) -> str:
    if message.isprintable():
        return message
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
    return "".join(escaped)
