"""When a look at the lanes of metered jobs is due again: looks may take a twentieth of the time."""

import asyncio
import json
import math
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgqueue.jobs.flow import Flow
from pgqueue.queries.turns.claim import ClaimedTurns, by_lane
from pgqueue.queries.turns.look import SeenLane
from pgqueue.worker.claiming import roster as rosters
from pgqueue.worker.claiming import turn_claims
from pgqueue.worker.claiming.turn_claims import TurnClaims
from tests.harness import QUERIES, WORKER, claimed
from tests.statements.turns import keyed
from tests.worker.test_roster import ALL, seen

MANY, FEW = 0.014, 0.001  # seconds that a look takes which sees as many lanes as it may, and one of a single lane


class Lanes:
    """A database with as many lanes as one look sees, and a clock that goes on by what looks take."""

    def __init__(self, many: float = MANY) -> None:
        self.now, self._many = 100.0, many
        self._lanes = [seen(Flow(share=f"f/{number}"), number) for number in range(50)]

    async def run(self, query: Any) -> list[SeenLane] | ClaimedTurns:
        """Answer a look; to a claim, that all jobs are gone."""
        if "room" in query.params:
            return ClaimedTurns((), {})
        (after,) = query.params["after"]
        found = [lane for lane in self._lanes if lane.number > after]
        self.now += FEW if len(found) == 1 else self._many
        return found


def looker(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> TurnClaims:
    """The part of a worker that looks."""
    monkeypatch.setattr(turn_claims, "MOST_SEEN", 50)
    monkeypatch.setattr(turn_claims, "monotonic", lambda: lanes.now)
    slots = SimpleNamespace(queues=("default",), wants_jobs=True, room=lambda: 1000, ahead=0)
    app = SimpleNamespace(rules=())
    core = SimpleNamespace(queries=QUERIES, identity=SimpleNamespace(id=WORKER), slots=slots, app=app)
    return TurnClaims(cast(Any, lanes), cast(Any, core), cast(Any, SimpleNamespace(metered_found=list)))


def test_looks_take_a_twentieth_where_each_second_one_sees_a_single_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = Lanes()
    claims = looker(lanes, monkeypatch)
    spent, began = 0.0, lanes.now
    for number in range(20):
        claims.want_look()
        lanes.now += claims.look_in()
        before = lanes.now
        asyncio.run(claims.look(busy=True))
        if number > 1:  # the first ones open the lanes, and so are well spent
            spent += lanes.now - before
        else:
            began = lanes.now
    assert spent < (lanes.now - began) / 15


def test_a_look_that_took_very_long_is_followed_by_another_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = Lanes(many=30.0)
    claims = looker(lanes, monkeypatch)
    for _ in range(5):
        asyncio.run(claims.look(busy=True))
        claims.want_look()
        assert claims.look_in() <= turn_claims.REST_SECONDS
        lanes.now += turn_claims.REST_SECONDS


def test_it_looks_at_once_when_all_known_lanes_have_given_what_they_had_and_there_are_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lanes = Lanes(many=30.0)
    claims = looker(lanes, monkeypatch)
    for _ in range(3):  # the third sees all lanes again and opens none, and so a pause is due
        claims.want_look()
        lanes.now += claims.look_in()
        asyncio.run(claims.look(busy=True))
    assert 1 < claims.look_in() < math.inf

    assert asyncio.run(claims.claim("default", 1000)) == []
    assert claims.look_in() == pytest.approx(turn_claims.LOOK_SECONDS)


def test_it_looks_for_no_more_lanes_while_it_knows_many_that_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rosters, "MOST_LANES", 60)
    lanes = Lanes()
    claims = looker(lanes, monkeypatch)
    claims.want_look()
    lanes.now += claims.look_in()
    asyncio.run(claims.look(busy=True))
    assert len(claims.roster) == 50
    assert claims.look_in() == math.inf


class LanesOfTwoKinds:
    """A database with a lane whose jobs keep places while they wait, and one whose jobs keep none."""

    def __init__(self, kept: int) -> None:
        self.asked: list[tuple[str | None, int, int]] = []  # of each claim: what is kept, its room and its slots
        self._answers = [[claimed(number, 1, lane=1) for number in range(kept)], [claimed(90, 1, lane=2)]]

    async def run(self, query: Any) -> ClaimedTurns:
        """Answer a claim."""
        self.asked.append((query.params.get("kepts"), query.params["room"], query.params["slots"]))
        jobs = self._answers[len(self.asked) - 1]
        return ClaimedTurns(jobs, by_lane(jobs))


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_what_jobs_that_go_on_leave_of_the_room_others_have_in_the_same_claim(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = LanesOfTwoKinds(kept)
    slots = SimpleNamespace(queues=("default",), wants_jobs=True, room=lambda: 4, ahead=0)
    core = SimpleNamespace(
        queries=QUERIES, identity=SimpleNamespace(id=WORKER), slots=slots, app=SimpleNamespace(rules=())
    )
    claims = TurnClaims(cast(Any, lanes), cast(Any, core), cast(Any, SimpleNamespace(metered_found=list)))
    flow = keyed("line", "stripe")
    keeps = json.dumps({**flow.header(), "kept": ["line"]})
    claims.roster.see([seen(flow, 1, room=9)._replace(flow=keeps), seen(keyed("stripe"), 2, room=9)], ALL)

    jobs = asyncio.run(claims.claim("default", 4))
    others = kept < 4
    assert [job.id for job in jobs] == [*range(kept), *([90] if others else [])]
    assert lanes.asked == [('["line"]', 4, 4), *([(None, 4 - kept, 4 - kept)] if others else [])]
