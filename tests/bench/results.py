"""The results: lines of JSON that are appended, read back and reduced to medians."""

import json
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]
US = "pgqueue"


def append(path: Path, record: Record) -> None:
    """Add one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


@dataclass(frozen=True)
class Summary:
    """A figure over the runs of one session: the median, the lowest, the highest, and how many runs."""

    median: float
    low: float
    high: float
    runs: int


class Results:
    """The runs of a file. For each case and queue the last session that has runs of it counts. For a comparison of two
    cases or queues the last session that has both counts (`together`)."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records
        self.sessions: dict[str, Record] = {r["session"]: r for r in records if r["kind"] == "session"}
        self._runs: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for record in records:
            if record["kind"] == "run":
                self._add(record)

    def _add(self, record: Record) -> None:
        runs = self._runs[record["case"], record["who"]]
        if runs and runs[0]["session"] != record["session"]:
            runs.clear()
        runs.append(record)

    @property
    def used(self) -> list[Record]:
        """The sessions that have runs that count, the oldest first."""
        names = {runs[0]["session"] for runs in self._runs.values()}
        return [self.sessions[name] for name in sorted(names)]

    def runs(self, case: str, who: str = US) -> list[Record]:
        """Return the runs that count."""
        return list(self._runs.get((case, who), []))

    def peers(self, case: str) -> list[str]:
        """Return the other queues that have runs of a case."""
        return [who for name, who in self._runs if name == case and who != US]

    def failed(self) -> list[Record]:
        """Return the runs that failed, or in which not each job ran exactly once."""
        return [run for runs in self._runs.values() for run in runs if not run.get("ok")]

    def summary(self, case: str, metric: str, who: str = US) -> Summary | None:
        """Reduce a figure to its median; None if no run has it."""
        values = [float(run[metric]) for run in self.runs(case, who) if run.get(metric) is not None]
        if not values:
            return None
        return Summary(statistics.median(values), min(values), max(values), len(values))

    def together(self, *keys: tuple[str, str]) -> "Results | None":
        """Return the last session that has runs of all these cases and queues; None if there is none."""
        having: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for record in self._records:
            if record["kind"] == "run":
                having[record["session"]].add((record["case"], record["who"]))
        shared = [session for session, found in having.items() if found.issuperset(keys)]
        return Results([r for r in self._records if r["session"] == shared[-1]]) if shared else None


def read(path: Path) -> Results:
    """Read a file of results; an empty one if there is none."""
    lines = path.read_text().splitlines() if path.exists() else []
    return Results([json.loads(line) for line in lines])
