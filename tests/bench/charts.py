"""SVG charts, from the results. They need matplotlib: the extra `bench`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .results import US, Results

Draw = Callable[[Results, Any], bool]
OURS, THEIRS = "#336791", "#9aa5b1"
SHADES = ("#336791", "#c8553d", "#5b8e7d", "#b08900")


def _bars(results: Results, axes: Any, bars: list[tuple[str, str, str]], metric: str) -> bool:
    """Draw horizontal bars with a whisker from the lowest to the highest run."""
    found = [(label, results.summary(case, metric, who), who) for label, case, who in bars]
    shown = [(label, summary, who) for label, summary, who in reversed(found) if summary]
    for at, (_, summary, who) in enumerate(shown):
        whisker = [[summary.median - summary.low], [summary.high - summary.median]]
        axes.barh(at, summary.median, color=OURS if who == US else THEIRS, xerr=whisker, ecolor="#333333", capsize=3)
        axes.annotate(f" {summary.median:,.0f}", (summary.high, at), va="center", fontsize=9)
    axes.set_yticks(range(len(shown)), [label for label, _, _ in shown])
    axes.margins(x=0.15)
    axes.set_xlabel("jobs/s")
    return bool(shown)


def drain(results: Results, axes: Any) -> bool:
    """Draw the drains of all queues."""
    ours = [("pgqueue", "c", US), ("pgqueue, nothing kept", "c0", US), ("pgqueue, threads", "ct", US)]
    return _bars(results, axes, [*ours, *((who, "c", who) for who in results.peers("c"))], "jobs_s")


def bulk(results: Results, axes: Any) -> bool:
    """Draw the bulk enqueues of all queues, and COPY."""
    ours = [("pgqueue", "b", US), ("bare COPY", "b-copy", US)]
    return _bars(results, axes, [*ours, *((who, "b", who) for who in results.peers("b"))], "jobs_s")


def flow(results: Results, axes: Any) -> bool:
    """Draw the rate in each second of a flow: the last run of each kind."""
    names = {"f": "not pinned", "f-reader": "pinned by a reader", "f-writer": "pinned by a writer", "f0": "no VACUUM"}
    shown = {
        label: run[-1]["per_second"] for case, label in names.items() if (run := _with(results, case, "per_second"))
    }
    for (label, rates), shade in zip(shown.items(), SHADES, strict=False):
        axes.plot(range(len(rates)), rates, label=label, color=shade)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("jobs/s")
    _legend(axes, shown)
    return bool(shown)


def latency(results: Results, axes: Any) -> bool:
    """Draw the share of jobs that had begun after each time in milliseconds: the last run of each kind."""
    names = {"e": "20 jobs/s", "e1000": "1,000 jobs/s"}
    found = {label: _with(results, case, "quantiles_ms") for case, label in names.items()}
    shown = {label: runs[-1] for label, runs in found.items() if runs}
    for (label, run), shade in zip(shown.items(), SHADES, strict=False):
        points = [(milliseconds, 100 * float(share)) for share, milliseconds in run["quantiles_ms"].items()]
        axes.plot(*zip(*points, strict=True), label=label, color=shade, marker=".")
    if shown:
        axes.set_xscale("log")
    axes.set_xlabel("ms from before the call to the start of the body")
    axes.set_ylabel("% of jobs")
    _legend(axes, shown)
    return bool(shown)


def memory(results: Results, axes: Any) -> bool:
    """Draw the memory of the worker by jobs done, for each run."""
    runs = _with(results, "m", "rss_curve")
    for run in runs:
        axes.plot(*zip(*run["rss_curve"], strict=True), color=OURS)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("jobs done")
    axes.set_ylabel("resident MiB")
    return bool(runs)


CHARTS: dict[str, Draw] = {"drain": drain, "bulk": bulk, "flow": flow, "latency": latency, "memory": memory}


def _with(results: Results, case: str, metric: str) -> list[dict[str, Any]]:
    return [run for run in results.runs(case) if run.get(metric)]


def _legend(axes: Any, shown: object) -> None:
    if shown:
        axes.legend(frameon=False)


def draw(results: Results, directory: Path) -> list[str]:
    """Draw the charts that have results; return their names. Raises ImportError without matplotlib.

    The same results give the same bytes.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "pgqueue"
    drawn = []
    directory.mkdir(parents=True, exist_ok=True)
    for name, fill in CHARTS.items():
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        if fill(results, axes):
            figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
            drawn.append(name)
    return drawn
