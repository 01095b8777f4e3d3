"""The one error of this package that is the user's to mend."""


class InputError(ValueError):
    """What the user gave (a file, a config, an option) is wrong; the message says what is required.

    Entry points print the message as one line on stderr and exit with status 2.
    """
