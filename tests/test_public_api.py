"""The public names and how they are called, as docs/public-api.txt records them.

A change here is a change of the package's version: CONTRIBUTING.md has the rule. To record it:

    python tests/test_public_api.py
"""

import inspect
from enum import Enum
from pathlib import Path

import store_engine

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "docs" / "public-api.txt"


def calling(function: object) -> str:
    """Names, kinds and defaults of the arguments: what a caller's code depends on."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of the C++ core: store_engine/_C.pyi has it
        return "(...)"
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in parameters]
    return str(inspect.Signature(bare))


def described(name: str, thing: object) -> list[str]:
    """A name, and the public names in it if it is a class of ours."""
    lines = [f"{name}{calling(thing)}"]
    if not inspect.isclass(thing):
        return lines
    for member, value in sorted(inspect.getmembers_static(thing)):
        if member.startswith("_") or not belongs(thing, member):
            continue
        if isinstance(value, property) or not callable(getattr(thing, member)):
            lines.append(f"{name}.{member}")
        else:
            lines.append(f"{name}.{member}{calling(getattr(thing, member))}")
    return lines


def belongs(cls: type, member: str) -> bool:
    """Whether the package, not Python, brought a member."""
    owner = next(base for base in cls.__mro__ if member in vars(base))
    return owner.__module__.startswith("store_engine") and not issubclass(owner, Enum)


def public_api() -> str:
    things = {name: getattr(store_engine, name) for name in store_engine.__all__}
    lines = [line for name, thing in things.items() for line in described(name, thing)]
    return "\n".join(lines) + "\n"


def test_the_public_names_are_called_as_recorded():
    assert public_api() == RECORDED.read_text(encoding="utf-8"), (
        "a public name changed: see the rule in CONTRIBUTING.md, then "
        "`python tests/test_public_api.py` records it"
    )


def test_every_public_name_is_explained():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert [name for name in store_engine.__all__ if f"`{name}" not in page] == []


if __name__ == "__main__":
    RECORDED.write_text(public_api(), encoding="utf-8")
