"""Queues in one worker: shares of its slots, slots for each queue, and strict order as before."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgqueue import App
from pgqueue.errors import InvalidOption
from pgqueue.jobs.served_queues import ServedQueue, read_served_queues, slots_of, with_limits
from pgqueue.worker import Worker, WorkerSettings
from pgqueue.worker.shares import MOST_OWED
from pgqueue.worker.slots import Slots
from tests.harness import claimed

MANY = 10**6


class Model:
    """A worker in pure Python: jobs wait in queues, claims take them as the statement does, and jobs end."""

    def __init__(self, total: int, shares: Mapping[str, int], limits: Mapping[str, int] = {}) -> None:
        self.slots = Slots(total, list(shares), limits, shares)
        self.due: Counter[str] = Counter()
        self.began: Counter[str] = Counter()

    def claim(self) -> Counter[str]:
        """Claim once, and begin what came."""
        room, rooms = self.slots.room(), self.slots.room_by_queue()
        division = self.slots.divide(rooms, room)
        came: Counter[str] = Counter()
        for queue, most, skip in division.portions:
            came[queue] += max(min(most, self.due[queue] - skip, room - came.total()), 0)
            assert came[queue] <= rooms[queue]
        begun = self.began.total()
        jobs = [replace(claimed(begun + number, 1), queue=queue) for number, queue in enumerate(came.elements())]
        self.slots.settle(division, jobs)
        for job in jobs:
            self.slots.add_waiting(job)
            assert self.slots.begin_next() is not None
        self.due -= came
        self.began += came
        return came

    def end(self, choose: Callable[[int], int]) -> None:
        """End one of the running jobs."""
        running = sorted(self.slots.running, key=lambda running: running.job.id)
        self.slots.free(running[choose(len(running))])

    def end_of(self, queue: str) -> None:
        """End a running job of a queue."""
        self.slots.free(next(running for running in self.slots.running if running.job.queue == queue))

    @property
    def running(self) -> Counter[str]:
        return Counter(running.job.queue for running in self.slots.running)


CHANCE = st.integers(0, 2**32).map(Random)
SHARES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 20), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(SHARES, st.integers(1, 12), st.integers(1, 6), st.booleans(), CHANCE)
def test_while_all_queues_have_jobs_each_has_its_share_of_slots_and_of_beginnings(
    shares: dict[str, int], total: int, batch: int, equally_long: bool, chance: Random
) -> None:
    """Jobs that take equally long: at any time within two claims of the share. Others: within the slots."""
    order: list[str] = []
    model = Model(total, shares)
    model.due.update(dict.fromkeys(shares, MANY))
    parts = {queue: share / sum(shares.values()) for queue, share in shares.items()}
    for _ in range(120):
        order += model.claim().elements()
        assert model.running.total() == total
        for queue, part in parts.items():
            assert model.running[queue] <= ceil(part * total - 1e-9)
            if equally_long:
                assert abs(model.began[queue] - model.began.total() * part) <= max(3, 2 * batch)
        for _ in range(min(batch, total)):
            if equally_long:
                model.end_of(order.pop(0))
            else:
                model.end(lambda running: chance.randrange(running))


@settings(max_examples=100, deadline=None)
@given(SHARES, st.integers(1, 12), st.dictionaries(st.sampled_from("abc"), st.integers(1, 5)), CHANCE)
def test_no_slot_is_idle_while_a_job_waits_and_no_queue_starves(
    shares: dict[str, int], total: int, limits: dict[str, int], chance: Random
) -> None:
    model = Model(total, shares, {queue: limit for queue, limit in limits.items() if queue in shares})
    waits = dict.fromkeys(shares, 0)  # jobs of others that begin while a queue has due jobs and less than its slots
    for _ in range(200):
        for queue in shares:
            if chance.random() < 0.2:
                model.due[queue] += chance.randint(1, 2 * total)
        came = model.claim()
        free = total - model.running.total()
        for queue, share in shares.items():
            running, part = model.running[queue], share / sum(shares.values())
            assert not free or not model.due[queue] or running >= limits.get(queue, MANY), "a slot is idle"
            has_enough = not model.due[queue] or running >= min(limits.get(queue, MANY), part * total)
            waits[queue] = 0 if came[queue] or has_enough else waits[queue] + came.total()
            assert waits[queue] <= (len(shares) + MOST_OWED) / part + total
        for _ in range(chance.randint(0, total)):
            if model.slots.running:
                model.end(lambda running: chance.randrange(running))


def test_jobs_that_take_long_crowd_nobody_out() -> None:
    """The jobs of `bulk` never end: it has its slots and no more."""
    model = Model(10, {"critical": 9, "bulk": 1})
    model.due.update(critical=MANY, bulk=MANY)
    for _ in range(200):
        model.claim()
        assert model.running["bulk"] == 1
        model.end_of("critical")


def test_a_queue_gets_all_slots_while_the_others_have_no_job_and_gives_back_what_frees() -> None:
    model = Model(9, {"critical": 6, "default": 3})
    model.due["default"] = MANY
    assert model.claim() == Counter(default=9)
    model.due["critical"] = MANY
    for _ in range(6):
        model.end_of("default")
        assert model.claim() == Counter(critical=1)
    model.end_of("default")
    assert model.claim() == Counter(default=1)


def test_who_had_no_jobs_has_saved_nothing() -> None:
    model = Model(1, {"a": 1, "b": 1})
    model.due["a"] = MANY
    for _ in range(100):
        model.claim()
        model.end(lambda _: 0)
    model.due["b"] = MANY
    began = Counter[str]()
    for _ in range(20):
        began += model.claim()
        model.end(lambda _: 0)
    assert began == {"a": 10, "b": 10}


def test_a_pattern_has_one_share_which_its_queues_divide_evenly() -> None:
    slots = Slots(100, ["critical", "tenant-*"], {}, {"critical": 1, "tenant-*": 1})
    slots.serve(["tenant-1", "tenant-2"])
    portions = slots.divide(slots.room_by_queue(), 100).portions
    assert portions[:3] == [("critical", 50, 0), ("tenant-1", 25, 0), ("tenant-2", 25, 0)]
    slots.serve(["tenant-2"])
    portions = slots.divide(slots.room_by_queue(), 100).portions
    assert [(portion.queue, portion.room) for portion in portions[:2]] == [("critical", 50), ("tenant-2", 50)]


def test_what_a_full_scan_has_set_aside_counts_for_no_queue() -> None:
    slots = Slots(8, ["a", "b"], {}, {"a": 3, "b": 1})
    slots.reserve(4)
    portions = slots.divide(slots.room_by_queue(), 4).portions
    assert [(portion.queue, portion.room) for portion in portions[:2]] == [("a", 3), ("b", 1)]


def test_without_shares_the_portions_are_the_queues_in_order() -> None:
    slots = Slots(8, ["a", "b"], {"b": 2})
    assert slots.divide(slots.room_by_queue(), 8).portions == [("a", 8, 0), ("b", 2, 0)]


@pytest.mark.parametrize(
    ("text", "queues"),
    [
        ("critical, default", [ServedQueue("critical"), ServedQueue("default")]),
        ("critical:6,default:3", [ServedQueue("critical", 6), ServedQueue("default", 3)]),
        ("critical:8c,bulk:2c", [ServedQueue("critical", None, 8), ServedQueue("bulk", None, 2)]),
        ("critical:6:8c,tenant-*:2c:1", [ServedQueue("critical", 6, 8), ServedQueue("tenant-*", 1, 2)]),
        ("tenant:acme:2", [ServedQueue("tenant:acme", 2)]),
        ("tenant:42", [ServedQueue("tenant:42")]),
        ("tenant:42:3", [ServedQueue("tenant:42", 3)]),
    ],
)
def test_the_text_of_queues_says_their_shares_and_slots(text: str, queues: list[ServedQueue]) -> None:
    assert read_served_queues(text, ["tenant:42"]) == queues
    assert read_served_queues(",".join(map(str, queues)), ["tenant:42"]) == queues


@pytest.mark.parametrize(
    "text",
    ["critical:0", "critical:1001", "critical:1.5", "critical:-1", "critical:6:3", "critical:2c:3c", "critical:0c",
     "critical:8C", "critical:", "critical:50%", "tenant:42:1:2", "critical:6,critical:3"],
)  # fmt: skip
def test_a_number_that_is_neither_is_no_part_of_a_name(text: str) -> None:
    with pytest.raises(InvalidOption, match=r"share of 1 to 1000.*critical:8c|twice"):
        read_served_queues(text)


def test_in_code_a_name_that_looks_like_a_share_is_refused_unless_something_else_names_it(app: App) -> None:
    with pytest.raises(InvalidOption, match=r"'critical:6' may be meant.*shares=\{'critical': …\}"):
        Worker(app, WorkerSettings(queues=["critical:6"]))
    Worker(app, WorkerSettings(queues=["tenant:42"], limits={"tenant:42": 8}))
    Worker(app, WorkerSettings(queues=["tenant:42"], shares={"tenant:42": 1}))


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"a": 6}, "'b' has no share, and 'a' has one.*b:1"),
        ({"a": 6, "b": 0}, "b:0 .* give 1 to 1000"),
        ({"a": 6, "b": 1, "c": 2}, "names queue 'c'.* serves a, b"),
        ({"a": True, "b": 1}, "a:True"),
    ],
)
def test_shares_that_cannot_be_used_are_refused(app: App, shares: dict[str, int], words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        Worker(app, WorkerSettings(queues=["a", "b"], shares=shares))


def test_a_worker_that_is_told_the_slots_of_each_queue_has_their_sum() -> None:
    assert slots_of(read_served_queues("critical:8c,bulk:2c")) == 10
    assert slots_of(read_served_queues("critical:8c,bulk")) == 8
    assert slots_of(read_served_queues("critical:2c,tenant-*:2c")) == 8


def test_a_queue_is_limited_once() -> None:
    assert with_limits(read_served_queues("a:6:2c,b:1"), {"b": 3}) == {"a": 2, "b": 3}
    with pytest.raises(InvalidOption, match="'a' is limited twice"):
        with_limits(read_served_queues("a:2c"), {"a": 3})
