"""When a look at the lanes of metered jobs is due again: looks may take a twentieth of the time."""

import asyncio
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
from tests.worker.test_roster import seen

MANY, FEW = 0.014, 0.001  # seconds that a look takes which sees as many lanes as it may, and one of a single lane


class Lanes:
    """A database with as many lanes as one look sees, and a clock that goes on by what looks take."""

    def __init__(self, many: float = MANY, *, keyed_apart: bool = False) -> None:
        self.now, self.gives, self._many = 100.0, 0, many
        flows = [keyed(f"r/{number}") if keyed_apart else Flow(share=f"f/{number}") for number in range(50)]
        self._lanes = [seen(flow, number, room=5) for number, flow in enumerate(flows)]

    async def run(self, query: Any) -> list[SeenLane] | ClaimedTurns:
        """Answer a look; to a claim, so many jobs of each lane as it `gives`."""
        if "room" in query.params:
            jobs = [claimed(lane.number, 1, lane=lane.number) for lane in self._lanes for _ in range(self.gives)]
            return ClaimedTurns(jobs, by_lane(jobs))
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


def test_it_looks_at_once_when_most_known_lanes_are_spent_and_there_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = Lanes(many=30.0, keyed_apart=True)
    claims = looker(lanes, monkeypatch)
    monkeypatch.setattr(rosters, "MANY_LANES", 10)
    _look_until_a_pause_is_due(lanes, claims)
    lanes.gives = 1  # of each lane, though its bucket has room for five
    assert len(asyncio.run(claims.claim("default", 1000))) == 50
    assert claims.look_in() == pytest.approx(turn_claims.LOOK_SECONDS)


def test_lanes_that_gave_nothing_end_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = Lanes(many=30.0, keyed_apart=True)
    claims = looker(lanes, monkeypatch)
    monkeypatch.setattr(rosters, "MANY_LANES", 10)
    _look_until_a_pause_is_due(lanes, claims)
    assert asyncio.run(claims.claim("default", 1000)) == []
    assert claims.look_in() > 1


def _look_until_a_pause_is_due(lanes: Lanes, claims: TurnClaims) -> None:
    for _ in range(3):  # the third look sees all lanes again and opens none
        claims.want_look()
        lanes.now += claims.look_in()
        asyncio.run(claims.look(busy=True))
    assert 1 < claims.look_in() < math.inf


def test_it_looks_for_no_more_lanes_while_it_knows_many_that_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rosters, "MOST_LANES", 60)
    lanes = Lanes()
    claims = looker(lanes, monkeypatch)
    claims.want_look()
    lanes.now += claims.look_in()
    asyncio.run(claims.look(busy=True))
    assert len(claims.roster) == 50
    assert claims.look_in() == math.inf
