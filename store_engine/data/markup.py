"""Plain text of what shops store as HTML."""

import html
import re

# `a < b` and `<3` are text: only tags of these names are tags
_NAMES = (
    "a|abbr|article|b|big|blockquote|body|br|button|center|code|dd|del|div|dl|dt|em|figure|font|"
    "footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|label|li|link|main|meta|nav|ol|"
    "p|pre|q|s|section|small|source|span|strike|strong|style|sub|sup|svg|script|table|tbody|td|"
    "tfoot|th|thead|title|tr|tt|u|ul|video"
)
_TAG = re.compile(rf"</?(?:{_NAMES})(?:[\s/][^<>]*)?>", re.IGNORECASE)
_HIDDEN = re.compile(
    r"<!--.*?-->|<!doctype[^<>]*>|<(script|style)\b[^<>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL
)
_INLINE = re.compile(
    r"</?(?:a|abbr|b|big|em|font|i|s|small|span|strong|sub|sup|tt|u)\b[^<>]*>", re.I
)


def without_markup(text: str) -> str:
    """Resolves HTML entities and takes tags, comments, scripts and styles out.

    What was escaped twice (`&amp;quot;`) is resolved twice. A tag that ends a word becomes a space;
    one inside a word (`H<sub>2</sub>O`) nothing.

    Args:
        text: Any text; one without `<` and `&` is returned as it is.
    """
    if "&" in text:
        text = html.unescape(html.unescape(text))
    if "<" in text:
        text = _HIDDEN.sub(" ", text)
        text = _TAG.sub(lambda tag: "" if _INLINE.fullmatch(tag[0]) else " ", text)
    return text
