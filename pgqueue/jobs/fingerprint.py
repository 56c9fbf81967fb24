"""Fingerprints: errors of one cause have the same one, so that dead letters fall into groups."""

import re
from hashlib import sha256

from pgqueue.error_info import ErrorInfo

# What differs between two errors of one cause, the most specific first.
_VARIABLE = re.compile(
    r"""
    "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*'                       # quoted texts
    | [\w.+-]+@[\w-]+\.[\w.-]+                                  # e-mail addresses
    | (?:\w:)?(?:[/\\][\w.@~+-]+){2,}[/\\]?                     # paths
    | \b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b           # UUIDs
    | \b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b                      # IP addresses
    | \b(?:[0-9a-f]{0,4}:){3,}[0-9a-f]{0,4}\b
    | \b0x[0-9a-f]+\b | \b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b         # hexadecimal numbers
    | [-+]?\d[\d.,:_]*                                          # numbers, times
    """,
    re.IGNORECASE | re.VERBOSE,
)
_FRAME = re.compile(r'^  File "(?P<file>[^"\n]+)", line \d+, in (?P<function>.+)$', re.MULTILINE)
_FOREIGN = re.compile(r"site-packages|dist-packages|[/\\]pgqueue[/\\]|[/\\]lib[/\\]python3|^<")
MOST_MESSAGE = 1000  # characters of a message that count


def fingerprint(error: ErrorInfo | None, reason: str | None, *, sealed: bool = False) -> str:
    """Return 16 hex digits: of the class, the message without what varies, and the innermost frame of the user's code.

    The frame counts by its file's name and its function, without the line number, so that a deploy changes nothing.
    With `sealed` the message does not count, because the fingerprint stands beside it unencrypted.
    """
    if error is None:
        return _digest("", reason or "")
    message = "" if sealed else _VARIABLE.sub("#", error.message[:MOST_MESSAGE])
    return _digest(error.type, message, *_frame(error.traceback or ""))


def of_crash(task: str) -> str:
    """Return what stands for a fingerprint of jobs whose workers died. The view `dead_group` has the same text."""
    return f"crashed {task}"


def _frame(traceback: str) -> tuple[str, str]:
    frames = [(match["file"], match["function"]) for match in _FRAME.finditer(traceback)]
    own = [frame for frame in frames if not _FOREIGN.search(frame[0])]
    if not own:
        return "", ""
    file, function = own[-1]
    return re.split(r"[/\\]", file)[-1], function.strip()


def _digest(*parts: str) -> str:
    return sha256("\n".join(parts).encode("utf-8", "backslashreplace")).hexdigest()[:16]
