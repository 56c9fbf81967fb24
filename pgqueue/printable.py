"""Text that is safe to print: what tasks, rows and callers put into it acts on no terminal and forges no log line."""

import json
import re

# Control characters of ASCII and Latin-1, marks that change the direction of text, breaks of lines and paragraphs,
# characters without width that hide text, and lone surrogates, which no stream can encode. The joiners U+200C and
# U+200D stay: Persian and emoji need them.
_ACTING = "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
_ACTING += "\ud800-\udfff\U000e0000-\U000e007f"
_UNSAFE = re.compile(f"[{_ACTING}]")
_UNSAFE_IN_LINE = re.compile(f"[\t\n{_ACTING}]")


def printable(text: str) -> str:
    """Return text for a terminal: escapes in place of what would act there. Line feeds and tabs stay."""
    return _UNSAFE.sub(_escape, text)


def one_line(text: str) -> str:
    """Return text for one line of a log: as `printable`, and line feeds and tabs are escaped, too."""
    return _UNSAFE_IN_LINE.sub(_escape, text)


def printable_json(text: str) -> str:
    """Return JSON text for a terminal: the same value, with escapes that JSON knows."""
    return _UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _escape(found: re.Match[str]) -> str:
    return repr(found[0])[1:-1]
