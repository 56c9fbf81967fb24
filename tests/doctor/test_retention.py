"""Retention that is off, and days that nothing empties."""

from pgqueue import App
from tests.doctor.looks import found, provoked
from tests.harness import Conn


def test_a_general_rule_that_keeps_for_ever_is_found_with_who_set_it(app: App) -> None:
    assert found(app, "retention-off") == []  # also dead letters are kept for ever by default
    app.pruning.set("succeeded", None, by="alice")
    assert provoked(app, "retention-off").what == "retention of succeeded is for ever, set by alice"
    app.pruning.unset("succeeded")
    app.pruning.set("succeeded", None, task="audit.*")
    assert found(app, "retention-off") == []


def test_an_old_day_that_nothing_has_emptied_is_found_until_it_is_pruned(app: App, conn: Conn) -> None:
    bounds = "from ('2026-01-01 00:00:00+00') to ('2026-01-02 00:00:00+00')"
    conn.execute(
        f"create table pgqueue.transition_20260101 partition of pgqueue.transition for values {bounds};"
        "insert into pgqueue.transition (job_id, at, to_state) values (1, '2026-01-01 12:00:00+00', 'pending')".encode()
    )
    finding = provoked(app, "retention-late")
    assert finding.what.startswith("partition transition_20260101 of transition, 0.0 MB, is older than every rule")
    assert finding.remedy == "pgqueue prune"
    assert str(finding.since).startswith("2026-01-09 00:00:00")  # a week after its end
    app.pruning.run()
    assert found(app, "retention-late") == []
