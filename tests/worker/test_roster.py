"""The roster: what a look that was too early, jobs that come back, and more lanes than it holds make of it."""

import json
import math
from datetime import UTC, datetime

import pytest

from pgqueue.jobs.flow import Flow
from pgqueue.queries.turns.look import SeenLane
from pgqueue.worker.claiming import roster as rosters
from pgqueue.worker.claiming.roster import Roster
from tests.harness import claimed
from tests.statements.turns import keyed

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALL = [("default", -(2**63), 2**63)]


def seen(flow: Flow, number: int, *, room: int = 1) -> SeenLane:
    """A lane as a look has found it: with a due job, and full if it has no room."""
    text = json.dumps(flow.header())
    opens = None if room else math.inf
    return SeenLane("default", number, 0, text, NOW, number, -1.0, room, opens, None, None, None)


def test_a_lane_is_open_whose_bucket_a_job_has_left_while_the_look_was_under_way() -> None:
    roster, flow = Roster(), keyed("r")
    roster.see([seen(flow, 1)], ALL)
    job = claimed(7, 1, lane=1)
    roster.claimed("default", roster.choose("default", 1), [job], 1)
    roster.begin_look()
    roster.ended([job])
    roster.see([seen(flow, 1, room=0)], ALL)
    assert roster.open_queues() == {"default"}
    roster.begin_look()
    roster.see([seen(flow, 1, room=0)], ALL)
    assert roster.open_queues() == set()


def test_lanes_beyond_those_that_it_holds_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rosters, "MOST_LANES", 4)
    roster, lanes = Roster(), [seen(keyed(f"r/{number}"), number) for number in range(1, 11)]
    served: set[int] = set()
    for _ in range(500):
        roster.see(lanes, ALL)
        (line, *_) = roster.choose("default", 1)
        served.add(line.lane)
        roster.claimed("default", [line], [claimed(line.lane, 1, lane=line.lane)], 1)
        roster.left(claimed(line.lane, 1))
    assert served == set(range(1, 11))


def test_one_claim_in_sixteen_takes_a_job_of_the_lane_that_has_waited_longest_whatever_its_priority() -> None:
    roster = Roster()
    lanes = [seen(keyed(f"r/{number}"), number, room=1000)._replace(priority=number) for number in range(1, 6)]
    roster.see(lanes, ALL)
    taken: list[list[int]] = []
    for turn in range(16):
        lines = roster.choose("default", 2)
        best = max(lines, key=lambda line: line.priority)
        jobs = [claimed(100 * turn + n, 1, lane=best.lane) for n in range(best.most)]
        for job in jobs:
            job.priority = best.priority
        roster.claimed("default", lines, jobs, len(jobs))
        taken.append(sorted(line.priority for line in lines))
    assert taken[:15] == [[3, 4, 5]] * 15
    assert taken[15] == [1, 2]
