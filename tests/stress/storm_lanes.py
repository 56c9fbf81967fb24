"""What a storm plays with: rules of each kind, and lanes that use them alone and together."""

from typing import Any

from pgqueue.jobs.flow import Flow

RULES: dict[str, dict[str, Any]] = {
    "two": {"max_running": 2},
    "shared": {"max_running": 5},
    "line": {"max_running": 1, "kind": "order"},
    "rate": {"rate_count": 10, "rate_seconds": 1.0, "rate_burst": 2},
    "skip": {"max_running": 1, "on_full": "skip"},
    "newest": {"max_running": 1, "on_full": "replace_waiting"},
    "brittle": {"breaker_failures": 2, "breaker_seconds": 2.0, "breaker_cooldown": 0.05},
    "shut": {"max_running": 0},
}
CHANGES = {"two": (1, 2, 3, 4), "shared": (2, 5, 8, None)}


def flows() -> list[Flow]:
    """The lanes of a storm: with a limit for each key, shared ones, two of them, in order, with a rate, fair."""
    keys = [Flow((f"two/{key}",)) for key in "abc"]
    both = [Flow(("shared", f"two/{key}")) for key in "abcd"]
    lines = [Flow((f"line/{key}",), order=f"line/{key}") for key in range(4)]
    more = [Flow(("line/0", "shared"), order="line/0"), Flow(("shared",), share="f/a"), Flow(("shared",), share="f/b")]
    single = [Flow((name,)) for name in ("rate", "skip/a", "newest/a", "brittle/a", "brittle/b", "shut", "unruled")]
    return [*keys, *both, *lines, *more, *single, Flow(share="f/a"), Flow(share="f/b"), Flow(("rate", "two/a"))]
