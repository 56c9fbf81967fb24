"""How much memory this process holds."""

import os
import sys
from pathlib import Path


def resident_bytes() -> int | None:
    """Return the resident memory of this process; its peak on systems that do not tell the present value; else None."""
    if sys.platform != "linux":
        return _peak_bytes()
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no /proc
        return None


def _peak_bytes() -> int | None:
    try:
        import resource  # which Windows lacks
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
