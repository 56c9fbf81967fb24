"""docs/comparison.md: it is dated, names its sources, and its ratios are those of the benchmarks."""

import re

from tests.harness import ROOT

PAGE = (ROOT / "docs" / "comparison.md").read_text()
OTHERS = (
    "Celery", "RQ", "Dramatiq", "Huey", "APScheduler", "procrastinate", "pgqueuer", "pg-boss", "graphile-worker",
    "Oban", "River", "GoodJob", "Solid Queue", "Temporal",
)  # fmt: skip


def test_each_of_the_others_has_a_link_and_a_version_and_the_page_a_date() -> None:
    rows = re.search(r"## What they are\n(.*?)\n## ", PAGE, re.DOTALL)
    assert rows is not None
    for name in OTHERS:
        assert re.search(rf"^\|.*\[{name}\]\(https://[^)]+\).*?\| (?:read )?\d", rows[1], re.MULTILINE), name
    assert re.search(r"as they were on \*\*\d+ \w+ 20\d\d\*\*", PAGE)


def test_each_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    for table in re.findall(r"(?:^\|.*\|\n)+", PAGE, re.MULTILINE):
        assert len({row.count("|") for row in table.splitlines()}) == 1, table


def test_the_ratios_are_those_of_the_benchmarks() -> None:
    measured = (ROOT / "docs" / "benchmarks.md").read_text().split("## Other queues")[1]
    ratios = {
        (case, queue): float(ratio)
        for case, queue, ratio in re.findall(r"^\| (\w) \| (\S+) \|.* \| ([\d.]+) \|$", measured, re.MULTILINE)
    }
    said = re.findall(
        r"^\| ([\w-]+)(?:, with batches)? \| (.*?) \| (.*?) \|$", PAGE.split("## How fast")[1], re.MULTILINE
    )
    names = {"graphile-worker": "graphile:batch", "pg-boss": "pgboss"}
    compared = 0
    for queue, *cells in said:
        for case, cell in zip("cb", cells, strict=True):
            found = re.search(r"[\d.]+", cell)
            if found:
                compared += 1
                assert abs(float(found[0]) / ratios[case, names.get(queue, queue)] - 1) < 0.05, (queue, case)
    assert compared == 7
