"""Plain text of what shops store as HTML."""

import html
import re

# `a < b` and `<3` are text: only tags of these names are tags
_INLINE_NAMES = "a|abbr|b|big|em|font|i|s|small|span|strong|sub|sup|tt|u|wbr"
_NAMES = (
    "article|blockquote|body|br|button|center|code|dd|del|div|dl|dt|figure|footer|form|h[1-6]|head|"
    "header|hr|html|iframe|img|input|ins|label|li|link|main|meta|nav|ol|p|pre|q|section|source|"
    "strike|style|svg|script|table|tbody|td|tfoot|th|thead|title|tr|ul|video"
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_INLINE = re.compile(rf"</?(?:{_INLINE_NAMES})(?:[\s/][^<>]*)?>", re.IGNORECASE)
_BLOCK = re.compile(rf"</?(?:{_NAMES})(?:[\s/][^<>]*)?>|<!doctype[^<>]*>", re.IGNORECASE)
_HIDDEN = re.compile(r"(<!--)|<(script|style)\b[^<>]*>", re.IGNORECASE)
_ENDS = {
    "<!--": re.compile("-->"),
    "script": re.compile(r"</script\s*>", re.IGNORECASE),
    "style": re.compile(r"</style\s*>", re.IGNORECASE),
}


def without_markup(text: str) -> str:
    """Resolves HTML entities and takes tags, comments, scripts and styles out.

    `<b>Salt &amp;amp; pepper</b><br>` is `Salt & pepper `: what was escaped twice, as exports of
    shops have it, is resolved twice. A tag that ends a word becomes a space; one inside a word
    (`H<sub>2</sub>O`) nothing.

    Args:
        text: Any text; one without `<` and `&` is returned as it is.
    """
    if "&" in text:
        for _ in range(2):
            text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    if "<" in text and ">" in text:
        text = _BLOCK.sub(" ", _INLINE.sub("", _without_hidden(text)))
    return text


def _without_hidden(text: str) -> str:
    """Puts a space for comments, scripts and styles; one that never ends is left.

    In time linear in the text: where one never ends, no later one of its kind does either.
    """
    parts, place, endless = [], 0, set[str]()
    for opening in _HIDDEN.finditer(text):
        kind = (opening[1] or opening[2]).lower()
        if opening.start() < place or kind in endless:
            continue
        ending = _ENDS[kind].search(text, opening.end())
        if ending is None:
            endless.add(kind)
            continue
        parts += [text[place : opening.start()], " "]
        place = ending.end()
    return "".join([*parts, text[place:]])
