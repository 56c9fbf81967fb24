"""The roster: what a look that was too early, jobs that come back, and more lanes than it holds make of it."""

import json
import math
import random
from collections import Counter
from datetime import UTC, datetime

import pytest

from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.turns.claim import Line, by_lane
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
    roster.claimed("default", roster.choose("default", 1), by_lane([job]), 1)
    roster.begin_look()
    roster.ended([job])
    roster.see([seen(flow, 1, room=0)], ALL)
    assert roster.open_queues() == {"default"}
    roster.begin_look()
    roster.see([seen(flow, 1, room=0)], ALL)
    assert roster.open_queues() == set()


def test_a_look_says_how_many_lanes_it_has_opened() -> None:
    roster = Roster()
    flows = [keyed(f"r/{number}") for number in range(4)]
    roster.see([seen(flow, n, room=n > 0) for n, flow in enumerate(flows)], ALL)
    assert roster.opened == 3
    roster.see([seen(flow, n) for n, flow in enumerate(flows)], ALL)
    assert roster.opened == 1
    roster.see([seen(flow, n) for n, flow in enumerate(flows)], ALL)
    assert roster.opened == 0


def test_lanes_beyond_those_that_it_holds_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rosters, "MOST_LANES", 4)
    roster, lanes = Roster(), [seen(keyed(f"r/{number}"), number) for number in range(1, 11)]
    served: set[int] = set()
    for _ in range(500):
        roster.see(lanes, ALL)
        (line, *_) = roster.choose("default", 1)
        served.add(line.lane)
        roster.claimed("default", [line], by_lane([claimed(line.lane, 1, lane=line.lane)]), 1)
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
        roster.claimed("default", lines, by_lane(jobs), len(jobs))
        taken.append(sorted(line.priority for line in lines))
    assert taken[:15] == [[3, 4, 5]] * 15
    assert taken[15] == [1, 2]


def starts(roster: Roster, slots: int, turns: int, weights: dict[str, float]) -> Counter[str]:
    """Let tenants with these weights have so many turns, one job ending at a time; count whose they were."""
    numbers = dict(enumerate(weights, 1))
    roster.see(
        [seen(Flow(share=f"f/{name}"), n, room=10**6)._replace(weight=weights[name]) for n, name in numbers.items()],
        ALL,
    )
    chance, running, had = random.Random(1), list[ClaimedJob](), Counter[str]()
    for turn in range(turns):
        if len(running) == slots:
            roster.left(running.pop(chance.randrange(slots)))
        lines = roster.choose("default", 1)
        job = claimed(turn + 1, 1, lane=lines[0].lane)
        roster.claimed("default", lines, by_lane([job]), 1)
        running.append(job)
        had[numbers[lines[0].lane]] += 1
    return had


@pytest.mark.parametrize("slots", [4, 10, 20])
def test_a_tenant_of_weight_three_has_three_turns_where_another_has_one(slots: int) -> None:
    had = starts(Roster(), slots, 4000, {"heavy": 3.0, "light": 1.0})
    assert 2.8 < had["heavy"] / had["light"] < 3.3


def test_weights_decide_where_there_are_more_tenants_than_slots() -> None:
    had = starts(Roster(), 4, 10_000, {"heavy": 3.0} | {f"t{n}": 1.0 for n in range(40)})
    others = [count for name, count in had.items() if name != "heavy"]
    assert 2.5 < had["heavy"] / (sum(others) / len(others)) < 3.1
    assert max(others) - min(others) <= 2


def test_a_tenant_of_a_small_weight_always_has_a_slot() -> None:
    had = starts(Roster(), 8, 1000, {"heavy": 1000.0, "light": 0.001})
    assert had["light"] > 50


def test_a_tenant_that_comes_late_has_no_claim_on_the_past() -> None:
    roster = Roster()
    starts(roster, 2, 1000, {"early": 1.0, "other": 1.0, "third": 1.0})
    roster.drop_running()
    had = starts(roster, 2, 100, {"early": 1.0, "other": 1.0, "third": 1.0, "late": 1.0})
    assert max(had.values()) - min(had.values()) <= 2


def test_lanes_that_are_alike_share_a_large_claim_evenly_and_the_ones_left_out_come_first_in_the_next() -> None:
    roster = Roster()
    lanes = {number: seen(Flow(share=f"f/{number}"), number, room=10**6) for number in range(1, 1001)}
    roster.see(lanes.values(), ALL)
    first = roster.choose("default", 2000)
    assert [line.most for line in first] == [8] * 250
    jobs = [claimed(10 * line.lane + n, 1, lane=line.lane) for line in first for n in range(line.most)]
    roster.claimed("default", first, by_lane(jobs), 2000)
    assert {line.lane for line in first}.isdisjoint(line.lane for line in roster.choose("default", 2000))


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_lanes_that_are_alike_get_what_they_would_get_one_turn_after_the_other(weight: float) -> None:
    """A lane of another weight is there in vain: it runs so many jobs that it has no turn, but turns are counted."""
    alike, mixed = Roster(), Roster()
    lanes = [seen(Flow(share=f"f/{number}"), number)._replace(weight=weight) for number in range(1, 8)]
    busy = seen(Flow(share="f/busy"), 9)._replace(weight=1.5)
    alike.see(lanes, ALL)
    mixed.see([*lanes, busy], ALL)
    full = [claimed(n, 1, lane=9) for n in range(100)]
    mixed.claimed("default", [Line(9, 0, "[]", 100)], by_lane(full), 100)
    for room in (3, 7, 17, 60):
        found = [[(line.lane, line.most) for line in roster.choose("default", room)] for roster in (alike, mixed)]
        assert found[0] == found[1]


def test_as_many_lanes_as_slots_are_free_have_a_turn() -> None:
    roster = Roster()
    lanes = {number: seen(Flow(share=f"f/{number}"), number, room=10**6) for number in range(1, 1001)}
    roster.see(lanes.values(), ALL)
    assert [line.most for line in roster.choose("default", 2000, 2000)] == [2] * 1000
    assert [line.most for line in roster.choose("default", 2000, 400)] == [5] * 400


def test_a_worker_keeps_a_rate_of_its_own_though_no_job_of_it_waits_for_a_while() -> None:
    roster, flow = Roster(), keyed("r")
    paced = seen(flow, 1, room=1000)._replace(paced='[["r", 1, 3600]]')
    roster.see([paced], ALL)
    lines = roster.choose("default", 4)
    assert [line.most for line in lines] == [1]
    roster.claimed("default", lines, by_lane([claimed(7, 1, lane=1)]), 4)
    roster.see([], ALL)
    roster.see([paced], ALL)
    assert roster.choose("default", 4) == []


def given(roster: Roster, lines: list[Line], jobs: dict[int, int]) -> None:
    """Tell the roster that a claim from these lanes has brought so many jobs of each."""
    asked = sum(line.most for line in lines)
    found = [claimed(100 * line.lane + n, 1, lane=line.lane) for line in lines for n in range(jobs[line.lane])]
    roster.claimed("default", lines, by_lane(found), asked)


def many(*, room: int = 5) -> list[SeenLane]:
    """As many lanes as make a claim a large one, each with a bucket of its own."""
    return [seen(keyed(f"r/{number}"), number, room=room) for number in range(1, 101)]


def one_of_each(roster: Roster, asked: int = 400) -> None:
    """Claim four jobs of each lane, of which each has one."""
    lines = roster.choose("default", asked)
    given(roster, lines, {line.lane: 1 for line in lines})


def test_an_end_opens_no_lane_of_many_whose_bucket_had_room_for_more_jobs_than_it_had() -> None:
    roster = Roster()
    roster.see(many(), ALL)
    one_of_each(roster)
    assert not roster.ended([claimed(100, 1, lane=1)])
    assert roster.open_queues() == set()
    roster.see(many(), ALL)
    assert roster.open_queues() == {"default"}


def test_an_end_opens_a_lane_of_many_whose_bucket_was_full() -> None:
    roster = Roster()
    roster.see(many(room=1), ALL)
    one_of_each(roster)
    assert roster.open_queues() == set()
    assert roster.ended([claimed(100, 1, lane=1)])


def test_an_end_opens_the_one_lane_of_a_bucket_whose_room_other_workers_may_have_taken() -> None:
    roster = Roster()
    roster.see(many()[:1], ALL)
    one_of_each(roster)
    assert roster.open_queues() == set()
    assert roster.ended([claimed(100, 1, lane=1)])


def test_an_end_during_a_claim_asks_for_another_one() -> None:
    roster, flow = Roster(), keyed("r")
    roster.see([seen(flow, 1)], ALL)
    lines = roster.choose("default", 1)
    assert roster.ended([claimed(7, 1, lane=1)])
    given(roster, lines, {1: 0})
    assert roster.open_queues() == {"default"}
    assert not roster.ended([claimed(8, 1, lane=1)])  # it is open, and no claim is under way


def test_an_end_opens_the_lanes_that_share_a_bucket_however_much_room_it_had() -> None:
    roster = Roster()
    roster.see([*many(), seen(keyed("r/1"), 101, room=5)], ALL)
    one_of_each(roster, asked=404)
    assert roster.ended([claimed(100, 1, lane=1)])


def test_a_lane_of_many_that_gave_nothing_may_have_been_locked_and_an_end_opens_it() -> None:
    roster = Roster()
    roster.see(many(), ALL)
    one_of_each(roster, asked=100)
    given(roster, roster.choose("default", 400), dict.fromkeys(range(1, 101), 0))
    assert roster.open_queues() == set()
    assert roster.ended([claimed(100, 1, lane=1)])


def test_a_large_claim_asks_more_lanes_where_each_has_a_job_and_fewer_where_they_have_many() -> None:
    roster, lanes = Roster(), [seen(keyed(f"r/{number}"), number, room=5) for number in range(1, 1001)]
    roster.see(lanes, ALL)
    lines = roster.choose("default", 800)
    assert (len(lines), lines[0].most) == (200, 4)
    given(roster, lines, {line.lane: 1 for line in lines})
    lines = roster.choose("default", 800)
    assert (len(lines), lines[0].most) == (400, 2)
    given(roster, lines, {line.lane: 2 for line in lines})
    assert len(roster.choose("default", 800)) == 200
