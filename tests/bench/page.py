"""Writes docs/benchmarks.md from the results."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .cases import CASES
from .results import US, Results, Summary
from .targets import TARGETS, Figure, Judgement, compared, judge

# The figures that sum up the runs of a case: each with its heading and its format.
RATE = (("jobs_s", "jobs/s", ",.0f"),)
DRAIN = (*RATE, ("idle_percent", "% of the cores idle", ".0f"))
LATENCY = (("p50_ms", "p50 ms", ".1f"), ("p99_ms", "p99 ms", ".1f"), ("jobs_s", "jobs/s", ",.0f"))
FLOW = (
    ("jobs_s", "jobs/s", ",.0f"), ("first_s", "first tenth/s", ",.0f"), ("last_s", "last tenth/s", ",.0f"),
    ("ratio", "last ÷ first", ".2f"),
)  # fmt: skip
KEYED = (("ratio", "times the cost", ".2f"), ("keyed_us", "µs a job", ",.1f"), ("plain_us", "µs without", ",.1f"))
FIGURES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "c": DRAIN, "c0": DRAIN, "d": DRAIN, "ct": DRAIN, "ct100": DRAIN, "g": DRAIN, "g10": DRAIN,
    "k": KEYED, "k-one": KEYED, "k-lent": KEYED,
    "e": LATENCY, "e1000": LATENCY, "f": FLOW, "f-reader": FLOW, "f-writer": FLOW, "f0": FLOW,
    "l21": (("claim_ms", "ms a claim", ".2f"), ("claim_ms_few", "ms from 10,000", ".2f"), ("ratio", "ratio", ".2f")),
    "w": (("wal_bytes", "bytes a job", ",.0f"), ("wal_bytes_enqueue", "of them to enqueue", ",.0f")),
    **dict.fromkeys(
        ("o-metrics", "o-traced", "o-traced-1ms"),
        (("overhead_percent", "% slower", ".1f"), ("jobs_s", "jobs/s", ",.0f"), ("jobs_s_without", "without", ",.0f")),
    ),
    **dict.fromkeys(
        ("q-loose", "q-fair", "q-tenant", "q-own", "q-behind", "s-chains", "s-sleepers", "s-fanin"),
        (("ratio", "of plain", ".2f"), ("jobs_s", "jobs/s", ",.0f"), ("jobs_s_plain", "plain jobs/s", ",.0f")),
    ),
    "unused": (
        ("ratio", "of before", ".2f"),
        ("jobs_s", "jobs/s", ",.0f"),
        ("jobs_s_before", "jobs/s before", ",.0f"),
    ),
    "s-chain": (("jobs_s", "jobs/s", ",.0f"), ("link_p50_ms", "ms a link, p50", ".2f")),
    "s-group": (
        ("ratio", "of plain", ".2f"),
        ("jobs_s", "jobs/s", ",.0f"),
        ("after_ms", "ms from the last end to the callback", ".1f"),
    ),
    "s-graph": (("insert_ms", "ms", ",.0f"),),
    "s-stream": (("seconds", "s", ".1f"), ("jobs_s", "jobs/s", ",.0f")),
    "s-cascade": (
        ("skipped_ms", "ms until all are skipped", ",.0f"),
        ("resolve_p99_ms", "ms p99 of others", ".1f"),
        ("retry_ms", "ms until a retry has brought all back", ",.0f"),
    ),
    "s-steps": (("steps_s", "steps/s", ",.0f"), ("jobs_s", "jobs/s", ",.0f")),
    "s-step": (("step_ms", "ms a step, p50", ".2f"),),
    "s-replay": (("replay_ms", "ms", ".1f"),),
    "s-signal": LATENCY[:2],
    "q-one": (("jobs_s", "jobs/s", ",.0f"), ("hand_p50_ms", "ms between two, p50", ".2f")),
    "q-rate": (("percent", "% of what is sustained", ".1f"), ("over", "windows over", ".0f")),
    "q-new": (("p50_ms", "p50 ms", ".1f"), ("p99_ms", "p99 ms", ".1f")),
    "q-slots": (
        ("percent", "% of the slots used", ".1f"),
        ("held_percent", "% of them held", ".1f"),
        ("most", "most at once", ".0f"),
        ("hand_percent", "% used by hand", ".1f"),
        ("ratio", "of by hand", ".2f"),
    ),
    "q-pinned": FLOW, "s-pinned": FLOW,
    "q-why": (("why_ms", "ms", ".1f"),),
    "q-lock": (
        ("locks_s", "locks/s", ",.0f"),
        ("lock_us", "µs", ",.0f"),
        ("hand_us", "µs by hand", ",.0f"),
        ("ratio", "times by hand", ".2f"),
    ),
    "m": (("rss_mib", "MiB", ".1f"), ("rss_percent", "± % in the second half", ".2f"), ("jobs_s", "jobs/s", ",.0f")),
    "i": (("cpu_percent", "% CPU", ".2f"), ("statements_s", "statements/s", ".2f"), ("rss_mib", "MiB", ".1f")),
}  # fmt: skip
INTRO = """# Benchmarks

Made by `python -m tests.bench` from [results.jsonl](benchmarks/results.jsonl). **Figures belong to one machine and
one day. Compare ratios, not absolutes.** Producers, workers and the server share the cores, over 127.0.0.1. Each
figure is the median of the runs, with the lowest and the highest in brackets.

A job is `noop(i, email)`; its body appends 16 bytes, time and number, to a file. The file counts the bodies that ran,
shows lost and repeated jobs, and gives the times at which bodies began. The worker is `pgqueue work`, as users start
it. *Drain*: from the start of the first body until no job is pending in the store. *Latency*: from before the call
that enqueues to the start of the body, the commit included. *Flow*: a producer keeps 3,000 to 4,000 jobs waiting, for
1,000,000 jobs or 50 s; the rates of the first and the last tenth are compared. `VACUUM ANALYZE` and `CHECKPOINT`
precede every run but the flows. Each run has a new database. Other queues are measured by a harness of their own, by
the same clock and rules, in turn with pgqueue. Their configurations are at the end.
"""
CHARTS = (
    ("drain", "Jobs a second, one process"), ("bulk", "Enqueue in bulk"), ("flow", "Rate over time while jobs flow"),
    ("latency", "Latency"), ("memory", "Memory of the worker"),
)  # fmt: skip
READ = """
## How to read it

- The queues do not keep the same history. graphile-worker deletes finished jobs: compare it with `c0`. pgqueuer deletes
  them and keeps a log, pg-boss and procrastinate keep them. pgqueue in `c` keeps the job and each of its transitions.
- pg-boss calls one handler for a batch of 500 jobs, and one error fails all of them; the others call once a job.
- `a-hand` only writes the row: it writes no transition, does not check for a waiting worker, and validates nothing.
- `k` enqueues equally many jobs with and without a key in one run, in alternating order, and compares the time of the
  calls. A key is one row more, with two indexes, beside a job that is one row and a transition.
- `n` and `n-never` have a worker beside the producers, which runs the jobs. In `n-never` a trigger keeps the worker
  from setting its flag `waiting`. `n-always` and `n-nobody` have no worker: they show the cost of a NOTIFY in each
  commit by itself.
- The claims of `l21` are rolled back, so each finds the same rows. That leaves out dead rows; the flows measure those.
- [profile.md](benchmarks/profile.md) shows where the time of a drained job goes, by statement and by function. It is
  made by `python -m tests.bench.profile`.
- The cores are shared: a drain whose cores are hardly ever idle is at the limit of the machine, and a second process
  can use only the idle share.
- `w` counts all WAL of the server, including the full pages after the checkpoint before the run.
- Statements of an idle worker are counted as transactions, because each of its statements is one. The transactions
  that the database has without a worker are subtracted.
"""


def page(results: Results, charts: Iterable[str], command: str) -> str:
    """Return the whole page. `charts` are the names of those that were drawn."""
    parts = [INTRO, _where(results), _targets(results), _own(results), _peers(results), _charts(set(charts)), READ]
    parts += [_failed(results), _repeat(command), _configurations(results)]
    return "\n".join(part.strip("\n") + "\n" for part in parts if part)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], right: int) -> str:
    """Return a table whose columns from `right` on are numbers."""
    rule = ["---" if k < right else "--:" for k in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def _where(results: Results) -> str:
    lines = []
    for session in results.used:
        facts: dict[str, dict[str, Any]] = {
            part: session[part] for part in ("machine", "postgres", "versions", "settings")
        }
        described = (f"**{part}** " + ", ".join(f"{k} {v}" for k, v in known.items()) for part, known in facts.items())
        remark = f" **Remark:** {session['remark']}" if session.get("remark") else ""
        lines.append(f"- {session['session']}: " + "; ".join(described) + "." + remark)
    return "## Where\n\n" + "\n".join(lines)


def _targets(results: Results) -> str:
    judgements = [judge(results, target) for target in TARGETS]
    known = [judgement.reached for judgement in judgements if judgement.reached is not None]
    rows = [_judgement_row(results, judgement) for judgement in judgements]
    head = ("", "what", "measured", "against", "ratio or figure", "target", "reached")
    summary = (
        f"{sum(known)} of {len(known)} measured targets are reached; {len(judgements) - len(known)} were not measured."
    )
    return f"## Targets\n\n{summary}\n\n" + _table(head, rows, 7)


def _judgement_row(results: Results, judgement: Judgement) -> tuple[str, ...]:
    target, value = judgement.target, judgement.value
    reached = {None: "not measured", True: "yes", False: "**no**"}[judgement.reached]
    shown = "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    mixed = " (another session)" if judgement.mixed else ""
    results = compared(results, target) or results
    against = "" if target.against is None else _named(target.against) + ": " + _shown(results, target.against)
    case = CASES[target.figure.case]
    return case.name, case.what, _shown(results, target.figure), against + mixed, shown, target.text, reached


def _named(figure: Figure) -> str:
    return figure.case if figure.who == US else f"{figure.who} {figure.case}"


def _shown(results: Results, figure: Figure) -> str:
    formats = {metric: form for metric, _, form in FIGURES.get(figure.case, RATE)}
    return _spread(results.summary(figure.case, figure.metric, figure.who), formats[figure.metric])


def _spread(summary: Summary | None, form: str) -> str:
    if summary is None:
        return "-"
    return f"{summary.median:{form}} ({summary.low:{form}} to {summary.high:{form}})"


def _own(results: Results) -> str:
    rows = []
    for name, case in CASES.items():
        runs = results.runs(name)
        if runs:
            figures = FIGURES.get(name, RATE)
            medians = "; ".join(f"{_spread(results.summary(name, m), form)} {head}" for m, head, form in figures)
            options = next((run["worker"] for run in runs if run.get("worker")), "")
            rows.append(
                (
                    name,
                    case.what,
                    f"{runs[0].get('jobs', 0):,}",
                    str(len(runs)),
                    medians,
                    f"`{options}`" * bool(options),
                )
            )
    return "## All cases of pgqueue\n\n" + _table(
        ("", "what", "jobs", "runs", "median (lowest to highest)", "worker"), rows, 6
    )


def _peers(results: Results) -> str:
    rows = []
    for name in CASES:
        for who in results.peers(name):
            runs = results.runs(name, who)
            figures = FIGURES.get(name, RATE)
            found = [(results.summary(name, metric, who), head, form) for metric, head, form in figures]
            medians = "; ".join(f"{_spread(summary, form)} {head}" for summary, head, form in found if summary)
            both = results.together((name, US), (name, who)) or results
            ours, theirs = both.summary(name, "jobs_s"), both.summary(name, "jobs_s", who)
            times = f"{ours.median / theirs.median:.2f}" if ours and theirs and theirs.median and name[0] != "e" else ""
            rows.append((name, who, f"{runs[0].get('jobs', 0):,}", str(len(runs)), medians, times))
    head = ("", "queue", "jobs", "runs", "median (lowest to highest)", "pgqueue ÷ it")
    return "## Other queues\n\n" + _table(head, rows, 5) if rows else ""


def _charts(drawn: set[str]) -> str:
    shown = [f"### {title}\n\n![{title}](benchmarks/{name}.svg)" for name, title in CHARTS if name in drawn]
    return "## Charts\n\n" + "\n\n".join(shown) if shown else ""


def _failed(results: Results) -> str:
    rows = [
        f"- {run['case']}, {run['who']}, run {run['round']}: "
        + str(run.get("error") or run.get("note") or _counts(run))
        for run in results.failed()
    ]
    return "## Runs with something wrong\n\n" + "\n".join(rows) if rows else ""


def _counts(run: dict[str, Any]) -> str:
    known = ("jobs", "sent", "bodies", "distinct", "pending", "finished")
    return ", ".join(f"{name} {run[name]}" for name in known if name in run)


def _repeat(command: str) -> str:
    return (
        "## Repeat it\n\nWithout `--dsn` a server of the session's own is started; peers need one that listens on TCP. "
        f"Databases named `pgqueue_bench…` and `peer_…` are dropped and made anew.\n\n```\n{command}\n```\n\n"
        "Page and charts again from what was measured: `python -m tests.bench --page-only`."
    )


def _configurations(results: Results) -> str:
    found: dict[str, str] = {}
    for name in CASES:
        for who in results.peers(name):
            for run in results.runs(name, who):
                if "config" in run:
                    found[who] = f"{run['version']}: {run['config']}"
    lines = [f"- **{who}** {config}" for who, config in found.items()]
    return "## Configuration of the others\n\n" + "\n".join(lines) if lines else ""


def summary(results: Results, names: Iterable[str]) -> str:
    """Return the medians of some cases, a line each, to be printed after a session."""
    lines = []
    for name in names:
        if runs := results.runs(name):
            figures = "; ".join(
                f"{_spread(results.summary(name, metric), form)} {head}"
                for metric, head, form in FIGURES.get(name, RATE)
            )
            lines.append(f"{name}: {CASES[name].what}; {len(runs)} runs of {runs[0].get('jobs', 0):,}: {figures}")
            lines += [
                _judged(judge(results, target))
                for target in TARGETS
                if target.figure == Figure(name, target.figure.metric)
            ]
    return "\n".join(lines)


def _judged(found: Judgement) -> str:
    reached = {True: "reached", False: "missed", None: "not measured"}[found.reached]
    against = f" of {found.target.against.who} {found.target.against.case}" if found.target.against else ""
    return f"  target: {found.target.figure.metric} {found.target.text}{against}: {reached}"


def write(path: Path, results: Results, charts: Iterable[str], command: str) -> None:
    """Write the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(results, charts, command))
