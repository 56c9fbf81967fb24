"""The part of a traceback that tells most: the last frame in the user's own code."""

import re
from typing import NamedTuple

_FRAME = re.compile(r'^  File "(?P<file>[^"\n]+)", line (?P<line>[0-9]+)(?:, in (?P<name>[^\n]+))?$', re.M)
_LIBRARY = re.compile(r"site-packages|dist-packages|/lib/python[0-9.]+/|^<|/pgqueue/(worker|tasks|client|db)/")

PARTS = 3  # of a path, that are shown


class Excerpt(NamedTuple):
    """A frame: where it is, and the lines of code that the traceback has of it."""

    place: str
    code: str


def excerpt_of(traceback: str | None) -> Excerpt | None:
    """Return the last frame that is no library's, else the last one; None without frames."""
    frames = list(_FRAME.finditer(traceback or ""))
    if not frames or traceback is None:
        return None
    own = [frame for frame in frames if not _LIBRARY.search(frame["file"])]
    frame = (own or frames)[-1]
    after = traceback[frame.end() :].lstrip("\n")
    code = [line for line in after.split("\n")[:3] if line.startswith("    ") and not set(line.strip()) <= {"^", "~"}]
    place = f"{_end_of(frame['file'])}:{frame['line']}" + (f" in {frame['name']}" if frame["name"] else "")
    return Excerpt(place, "\n".join(line.strip() for line in code[:1]))


def _end_of(file: str) -> str:
    """Return the end of a path, which tells most; the traceback has all of it."""
    parts = re.split(r"[/\\\\]", file)
    return file if len(parts) <= PARTS else "/".join(["…", *parts[-PARTS:]])
