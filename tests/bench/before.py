"""What features cost a drain that uses none of them: plain jobs now, against the release from before these features."""

import io
import subprocess
import tarfile
from pathlib import Path

from .drain import emptied, filled
from .processes import ROOT
from .results import Record
from .session import BenchSession

BEFORE = "f06a698"  # schema 0014: it knows neither limits nor workflows nor steps


def unused(session: BenchSession, n: int) -> Record:
    """Drain plain jobs by the release before, by this one, by this one again and by the one before.

    Each drain has the schema, the worker and the producer of its release, so a drift of the machine meets both alike.
    """
    rates: dict[bool, list[float]] = {False: [], True: []}
    record: Record = {}
    before = _unpacked(session.directory / "before")
    for now in (False, True, True, False):
        with session.with_code_of(ROOT if now else before):
            database = session.fresh()
            filled(session, database, "noop", n)
            with session.timed():
                record = emptied(session, database, n, session.options())
        if not record["ok"]:
            return record
        rates[now].append(n / record["seconds"])
    then, today = (len(found) / sum(1 / rate for rate in found) for found in (rates[False], rates[True]))
    return record | {"jobs_s": round(today, 1), "jobs_s_before": round(then, 1), "ratio": round(today / then, 3)}


def _unpacked(folder: Path) -> Path:
    """Unpack the tree of the release before. Raises SystemExit where git does not have it, as in a shallow clone."""
    tree = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True)
    if tree.returncode:
        raise SystemExit(f"this needs commit {BEFORE}, which git does not have here: {tree.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(tree.stdout)) as packed:
        packed.extractall(folder, filter="data")
    return folder
