"""`python -m tests.bench`: measure, append to the results, make page and charts; exit 1 if a run failed."""

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from . import charts, machine, page, results
from .cases import CASES, Case
from .peers import DEFAULT, Harness, Peer
from .processes import ROOT
from .results import Record
from .server import BenchServer, StartedServer
from .session import BenchSession, BenchSettings

# Cases that belong together, under one letter. Results name the cases, so the names stay as they are.
GROUPS = {
    "a": ("a", "a-lent", "a-hand"), "b": ("b", "b-copy"), "k": ("k", "k-one", "k-lent"),
    "n": ("n", "n-never", "n-always", "n-nobody"),
    "e": ("e", "e1000"), "f": ("f", "f-reader", "f-writer"),
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    names = f"{', '.join(CASES)}; {', '.join(GROUPS)} stand for all cases that begin so. May be repeated."
    parser.add_argument("--case", action="append", default=[], help=f"one of {names}")
    parser.add_argument("--only", action="append", default=[], help="a case without the rest of its group")
    parser.add_argument("--all", action="store_true", help="every case")
    parser.add_argument("--runs", type=int, default=3, help="rounds; each runs every case once, in turn with the peers")
    parser.add_argument("--dsn", help="a server to use, as a superuser; without it one is started")
    parser.add_argument("--peers", type=Path, help="the directory of the peers' harness, which has run.py")
    parser.add_argument("--peer", action="append", help=f"name or name:config. Default: {', '.join(DEFAULT)}")
    parser.add_argument("--peer-case", action="append", help="run peers in these cases alone")
    parser.add_argument("--concurrency", type=int, default=100, help="`pgqueue work -c` for async tasks")
    parser.add_argument("--threads", type=int, default=16, help="`pgqueue work -c` for sync tasks")
    parser.add_argument("--worker-option", action="append", default=[], help="another option of `pgqueue work`")
    parser.add_argument("--jobs", type=int, help="how many jobs, instead of each case's own number; for peers too")
    parser.add_argument("--seconds", type=float, help="how long flows and idling last, instead of 50 and 60")
    parser.add_argument("--warm", type=float, default=6.0, help="seconds a worker idles before latency is measured")
    parser.add_argument("--cap", type=float, default=50.0, help="seconds after which a drain is cut off")
    parser.add_argument("--scale", type=float, default=1.0, help="shrink histories by this factor")
    parser.add_argument("--remark", help="a note for readers of the figures, such as what else ran")
    parser.add_argument("--lock", default=os.environ.get("PEERS_LOCK"), help="flock this file while the clock runs")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/benchmarks/results.jsonl")
    parser.add_argument(
        "--page", type=Path, default=ROOT / "docs/benchmarks.md", help="charts go into benchmarks/ beside it"
    )
    parser.add_argument("--page-only", action="store_true", help="measure nothing; make page and charts again")
    return parser


def main() -> int:
    """Parse, measure, publish."""
    given = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = _chosen(given)
    if not names and not given.page_only:
        parser().error("name a --case, or say --all")
    failed = 0 if given.page_only else _measure(given, [CASES[name] for name in names])
    _publish(given)
    return 1 if failed else 0


def _chosen(given: argparse.Namespace) -> list[str]:
    wanted = [name for group in given.case for name in GROUPS.get(group, (group,))] + given.only
    unknown = set(wanted) - CASES.keys()
    if unknown:
        parser().error(f"no such case: {', '.join(sorted(unknown))}")
    return [name for name in CASES if given.all or name in wanted]


def _measure(given: argparse.Namespace, cases: list[Case]) -> int:
    """Run every round; return how many runs failed."""
    settings = BenchSettings(
        given.concurrency, given.threads, tuple(given.worker_option), given.jobs, given.seconds, given.warm, given.cap,
        given.scale, given.lock,
    )  # fmt: skip
    server = BenchServer(given.dsn) if given.dsn else StartedServer()
    try:
        session = BenchSession(server, settings)
        try:
            name = _open_session(given, session)
            return sum(not _keep(given.results, name, record) for record in _rounds(given, session, cases))
        finally:
            session.close()
    finally:
        server.stop()


def _open_session(given: argparse.Namespace, session: BenchSession) -> str:
    name = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    settings = {k: v for k, v in asdict(session.settings).items() if v not in (None, (), []) and k != "lock"}
    remark = {"remark": given.remark} if given.remark else {}
    facts = {"machine": machine.machine(), "postgres": machine.postgres(session.server), "versions": machine.versions()}
    results.append(
        given.results, {"kind": "session", "session": name, **facts, "settings": settings, "argv": _argv()} | remark
    )
    return name


def _argv() -> list[str]:
    """Return the arguments without those that name places on this machine."""
    places, kept, skip = {"--dsn", "--peers", "--lock", "--results", "--page", "--remark"}, [], False
    for word in sys.argv[1:]:
        if not skip and word.partition("=")[0] not in places:
            kept.append(word)
        skip = word in places
    return kept


def _rounds(given: argparse.Namespace, session: BenchSession, cases: list[Case]) -> Iterator[Record]:
    peers = [Peer(who) for who in given.peer or DEFAULT] if given.peers else []
    harness = Harness(given.peers, session.server, given.lock, given.jobs) if given.peers else None
    for turn in range(1, given.runs + 1):
        for case in cases:
            yield _ours(session, case, turn)
            for peer in peers:
                if harness and case.peer and case.name in (given.peer_case or CASES):
                    yield _theirs(harness, peer, case, turn)
    if harness:
        for peer in peers:
            harness.forget(peer)


def _ours(session: BenchSession, case: Case, turn: int) -> Record:
    head = {"case": case.name, "who": results.US, "round": turn}
    try:
        return head | case.run(session, session.settings.jobs or case.jobs)
    except Exception as error:  # noqa: BLE001 - a run that fails must not end a session of hours
        return head | {"ok": False, "error": f"{type(error).__name__}: {error}", "log": session.log()}


def _theirs(harness: Harness, peer: Peer, case: Case, turn: int) -> Record:
    head = {"case": case.name, "who": peer.who, "round": turn}
    try:
        return head | harness.run(peer, case.peer)
    except Exception as error:  # noqa: BLE001 - as above
        return head | {"ok": False, "error": f"{type(error).__name__}: {error}"}


def _keep(path: Path, session: str, record: Record) -> bool:
    """Append a run to the results and print it; return whether it succeeded."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    results.append(path, {"kind": "run", "session": session, "at": at, **record})
    long = ("per_second", "rss_curve", "quantiles_ms", "config")
    print(json.dumps({k: v for k, v in record.items() if k not in long}), flush=True)
    return bool(record["ok"])


def _publish(given: argparse.Namespace) -> None:
    found = results.read(given.results)
    try:
        drawn = charts.draw(found, given.page.parent / "benchmarks")
    except ImportError:
        print("no charts: they need matplotlib (pip install -e '.[bench]')", file=sys.stderr)
        drawn = []
    commands = [f"python -m tests.bench {shlex.join(session['argv'])} --dsn … --peers …" for session in found.used]
    page.write(given.page, found, drawn, "\n".join(commands))
    print(page.summary(found, _chosen(given)))


if __name__ == "__main__":
    sys.exit(main())
