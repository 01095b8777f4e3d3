"""Whether a regular expression from a tokenizer file is simple enough to be run on any text.

The engine behind `tokenizers` backtracks: a repeated group, or many repetitions in a row, can take
exponential or high polynomial time on a text that does not match. The expressions by which GPT-2,
Llama, Qwen and their kin split a text have neither, and need no more than is allowed here.
"""

import re
from dataclasses import dataclass

_MAX_LENGTH = 2000  # characters of an expression
_MAX_COUNT = 1000  # in {n,m}
_MAX_UNBOUNDED = 2  # repetitions without (small) bound in a row
_MAX_OPTIONAL = 8  # "?" in a row
_SMALL = 16  # a repetition of at most so many counts as bounded
_ESCAPE = re.compile(
    r"\\(?:[pP]\{\^?\w+\}|x\{[0-9a-fA-F]+\}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[^\d\w]|[a-zA-Z])"
)
_REFERS_BACK = "gkKXRyY"
_GROUP = re.compile(r"\((?:\?(?::|=|!|<=|<!|i:))?(?!\?)")
_QUANTIFIER = re.compile(r"[*+?]|\{(\d*)(,?)(\d*)\}")
_MODIFIER = re.compile(r"[+?]")


@dataclass
class _Count:
    """Repetitions in a row, and the most that an earlier alternative of the same group has."""

    unbounded: int = 0
    optional: int = 0
    most_unbounded: int = 0
    most_optional: int = 0

    def end_alternative(self) -> None:
        self.most_unbounded = max(self.most_unbounded, self.unbounded)
        self.most_optional = max(self.most_optional, self.optional)
        self.unbounded = self.optional = 0

    def add(self, group: "_Count") -> None:
        group.end_alternative()
        self.unbounded += group.most_unbounded
        self.optional += group.most_optional

    def is_too_many(self) -> bool:
        return self.unbounded > _MAX_UNBOUNDED or self.optional > _MAX_OPTIONAL


def is_safe_regex(pattern: str) -> bool:
    """Tells whether every search for the expression takes polynomial time at most.

    A group may be optional but is never repeated; a row holds few repetitions; nothing refers back
    to a group, names one or changes a flag midway.
    """
    if not 0 < len(pattern) <= _MAX_LENGTH:
        return False
    stack, at, atom = [_Count()], 0, ""  # atom: what a quantifier would stand behind
    while at < len(pattern):
        letter = pattern[at]
        if letter == "\\":
            match = _ESCAPE.match(pattern, at)
            if match is None or match[0][1] in _REFERS_BACK:
                return False
            at, atom = match.end(), "letter"
        elif letter == "[":
            at, atom = _class_end(pattern, at), "letter"
            if at < 0:
                return False
        elif letter == "(":
            match = _GROUP.match(pattern, at)
            if match is None:
                return False
            stack.append(_Count())
            at, atom = match.end(), ""
        elif letter == ")":
            if len(stack) == 1:
                return False
            group = stack.pop()
            stack[-1].add(group)
            at, atom = at + 1, "group"
        elif letter == "|":
            stack[-1].end_alternative()
            at, atom = at + 1, ""
        elif match := _QUANTIFIER.match(pattern, at):
            if not _count_quantifier(match, atom, stack[-1]):
                return False
            at, atom = match.end(), ""
            # lazy or possessive; behind {n,m} a "+" would repeat the repetition
            if (modifier := _MODIFIER.match(pattern, at)) and not (
                match[0].startswith("{") and modifier[0] == "+"
            ):
                at += 1
        else:
            at, atom = at + 1, "letter"
        if stack[-1].is_too_many():
            return False
    return len(stack) == 1


def _count_quantifier(match: re.Match[str], atom: str, count: _Count) -> bool:
    """Counts a quantifier; False where it may not stand."""
    if match[0] == "?":
        count.optional += 1
        return atom != ""
    if match[0] in "*+":
        least, most = 0, _MAX_COUNT
    else:
        if not match[1] and not match[3]:
            return False
        least = int(match[1] or 0)
        most = int(match[3]) if match[3] else _MAX_COUNT if match[2] else least
    if max(least, most) > _MAX_COUNT:
        return False
    count.unbounded += most > _SMALL
    return atom == "letter"


def _class_end(pattern: str, begin: int) -> int:
    """Where a set of characters that begins at `begin` ends; -1 where it does not."""
    depth, at = 0, begin
    while at < len(pattern):
        letter = pattern[at]
        if letter == "\\":
            match = _ESCAPE.match(pattern, at)
            if match is None:
                return -1
            at = match.end()
            continue
        if letter == "[":
            depth += 1
            at += 1 + pattern.startswith("^", at + 1)
            at += pattern.startswith("]", at)  # the first character of a set, not its end
            continue
        at += 1
        if letter == "]":
            depth -= 1
            if depth == 0:
                return at
    return -1
