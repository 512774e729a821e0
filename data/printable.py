"""Text that others wrote (titles, names, captions), made safe for what reads it: terminals, sheets, Markdown."""

from __future__ import annotations

import re
import unicodedata

_SPACES = str.maketrans(dict.fromkeys("\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029", " "))
_HIDDEN = ("Cc", "Cs")  # control characters and halves of surrogate pairs
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they show letters in another order
FORMULA = "=+-@＝＋－＠"
"""How a cell begins that spreadsheets compute in place of showing it."""


def is_hidden(character: str) -> bool:
    """Whether a character is an order to a terminal, or shows others in another order."""
    return unicodedata.category(character) in _HIDDEN or character in _TURNING


def printable(text: str) -> str:
    r"""One line that orders nothing: line breaks and tabs are spaces, other control characters as '\u001b'."""
    flat = text.translate(_SPACES)
    if flat.isascii() and flat.isprintable():
        return flat
    return "".join(_shown(one) if is_hidden(one) else one for one in flat)


def _shown(character: str) -> str:
    return f"\\u{ord(character):04x}"  # as JSON writes it, so that JSON stays JSON


_ORDERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_COLOURS = re.compile(r"(\x1b\[(?:[0-9;]*[mAK]|\?25[hl]))")


def for_stream(text: str, colours: bool) -> str:
    r"""Text of many lines for a terminal or a file: control characters but '\n', '\r' and '\t' as '\u001b'.

    colours: let colours through, and the cursor's ways up a line, which progress bars draw by.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    parts = _COLOURS.split(text) if colours else [text]
    return "".join(
        part if place % 2 else _ORDERS.sub(lambda found: _shown(found[0]), part) for place, part in enumerate(parts)
    )


def sheet_cell(text: str) -> str:
    """Text of a CSV cell that no spreadsheet takes for a formula: an apostrophe stands before such a beginning."""
    flat = printable(text)
    return f"'{flat}" if flat.lstrip()[:1] in tuple(FORMULA) else flat


def no_link(text: str) -> str:
    """Markdown without links: `](`, `][` and `]:` lose their meaning, whatever stands around them."""
    return re.sub(r"\](?=[(\[:])", "&#93;", text)
