"""Text of unknown origin made safe to show: what cannot be seen becomes visible, and JSON cannot end its script block.

Zero-width and bidirectional control characters can hide words or turn them round, so a reader would approve of a prompt
that is not the one on the page. They are shown by their code points, in the page's HTML and by its script alike.
"""

from __future__ import annotations

import json
import re
from typing import Any

from markupsafe import Markup, escape

__all__ = ["HIDDEN", "inert", "script_json", "visible"]

HIDDEN: tuple[tuple[int, int], ...] = (
    (0x00, 0x08),
    (0x0B, 0x1F),
    (0x7F, 0x9F),
    (0xAD, 0xAD),  # soft hyphen
    (0x034F, 0x034F),  # combining grapheme joiner
    (0x061C, 0x061C),  # Arabic letter mark
    (0x115F, 0x1160),  # Hangul fillers
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),  # zero-width, direction marks
    (0x2028, 0x202E),  # separators, direction overrides
    (0x2060, 0x206F),
    (0x2800, 0x2800),  # blank Braille
    (0x3164, 0x3164),
    (0xD800, 0xDFFF),  # lone surrogates
    (0xFE00, 0xFE0E),  # variation selectors, but for that of emoji
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF9, 0xFFFB),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),  # tags, more variation selectors
)
"""Code points that are not seen, or move others, as ranges with both ends; tabs and line ends are left as they are."""

_HIDDEN = re.compile("[" + "".join(f"{re.escape(chr(a))}-{re.escape(chr(b))}" for a, b in HIDDEN) + "]")
# All that could end a script block or open a comment in it, and what JavaScript once took for line ends.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def visible(text: object) -> Markup:
    """Escape a text for HTML, with a mark such as ``U+200B`` in the place of each character that cannot be seen."""
    return Markup(_HIDDEN.sub(lambda found: f'<span class="mark">{_code(found)}</span>', str(escape(_lines(text)))))


def inert(text: object) -> str:
    """As `visible`, for places that take no markup; not escaped yet."""
    return _HIDDEN.sub(_code, _lines(text))


def script_json(data: Any) -> Markup:
    """Write JSON for a ``<script type="application/json">`` block.

    Raises:
        ValueError: If it holds NaN or an infinite number.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _code(found: re.Match[str]) -> str:
    return f"U+{ord(found[0]):04X}"


def _lines(text: object) -> str:
    return str(text).replace("\r\n", "\n")
