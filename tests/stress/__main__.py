"""`python -m tests.stress`: run, check, print; exit 0 if nothing was violated."""

import argparse
import asyncio
import json
import signal
import sys

from . import disasters, mutants
from .checker import check
from .plans import SIZES
from .report import report, totals
from .run import CORE, Settings, soak
from .server import OwnServer, Server


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long faults are committed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dsn", help="a server to use, as a superuser over TCP; without it one is started")
    parser.add_argument("--must", default=",".join(CORE), help="faults that take place at least once")
    parser.add_argument("--only", default="", help="draw from these faults alone")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--weavers", type=int, default=0, help="processes that enqueue workflows, sagas and events")
    parser.add_argument("--woven", choices=sorted(SIZES), default="small", help="how large workflows are")
    parser.add_argument("--rate", type=float, default=8.0, help="transactions a second of each producer")
    parser.add_argument("--mutants", nargs="*", help="run seeded bugs (all, or those named) and see them caught")
    parser.add_argument("--scenario", choices=mutants.SCENARIOS, help="run one long fault alone")
    parser.add_argument("--keep", action="store_true", help="keep journals and logs")
    parser.add_argument("--json", action="store_true", help="print one JSON object after the report")
    parser.add_argument("--disaster", choices=["all", *disasters.DISASTERS], help="what befalls a server of its own")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if given.disaster:
        return disasters.befall(given.disaster)
    server = Server(given.dsn) if given.dsn else OwnServer()
    try:
        if given.mutants is not None:
            return asyncio.run(mutants.see_them_caught(server, given.mutants, given.seed))
        if given.scenario:
            return asyncio.run(mutants.play(server, given.scenario, given.seed))
        settings = Settings(
            given.seed, given.minutes * 60, _names(given.must), _names(given.only), given.workers, rate=given.rate,
            keep=given.keep, weavers=given.weavers, woven=given.woven,
        )  # fmt: skip
        result = asyncio.run(soak(server, settings))
    finally:
        server.stop()
    violations = check(result.history)
    print(report(result, violations, given.seed))
    if given.keep:
        print(f"journals and logs: {result.directory}")
    if given.json:
        numbers = [violation.number for violation in violations]
        print(json.dumps({"faults": result.faults, "violations": numbers, "totals": totals(result.history)}))
    return 1 if violations or result.history.missing else 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


if __name__ == "__main__":
    sys.exit(main())
