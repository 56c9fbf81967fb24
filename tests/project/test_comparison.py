"""docs/comparison.md: it is dated, names its sources, and its ratios are those of the benchmarks."""

import re

import pytest

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


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def test_the_page_says_when_work_belongs_in_a_job_and_when_it_does_not() -> None:
    """The three kinds of work that the founding texts name, and at least as many reasons against a job."""
    text = section("When work belongs in a job")
    assert re.findall(r"^- \*\*(.+?)\*\*", text, re.MULTILINE)[:3] == ["slow", "unreliable", "scheduled"]
    against = text[text.index("It is not worth it when") :]
    assert len(re.findall(r"\bwhen\b", against)) >= 4


def test_each_of_the_others_is_the_better_choice_for_somebody() -> None:
    said = dict(
        re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", section("When another one is the better choice"), re.MULTILINE)
    )
    reasons = [said[name] for name in OTHERS]
    assert all(len(reason.split()) >= 8 for reason in reasons)
    assert len(set(reasons)) == len(OTHERS)
    assert not any(re.search(r"\b(never|nobody|no one)\b", reason) for reason in reasons), (
        "a reason against is none for it"
    )


@pytest.mark.parametrize(
    "page", ["README.md", "docs/README.md", "docs/start.md", "docs/start-fastapi.md", "docs/start-django.md"]
)
def test_who_begins_is_led_to_the_page(page: str) -> None:
    """A reader of the first pages finds out when not to take pgqueue, by a link that leads there."""
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([\w./-]*comparison\.md)(#[\w-]+)?\)", text)
    assert links, page
    anchors = {f"#{title.lower().replace(' ', '-')}" for title in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)}
    for path, anchor in links:
        assert ((ROOT / page).parent / path).resolve() == ROOT / "docs" / "comparison.md"
        assert not anchor or anchor in anchors


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
