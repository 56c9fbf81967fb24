"""Arguments of many calls, validated and written by the block: what comes out is what one after the other gives."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field, PlainSerializer, SecretStr

from pgqueue import App, InvalidArguments, Task
from pgqueue.tasks import hazards
from pgqueue.tasks.block_coder import BLOCK, BlockCoder
from pgqueue.tasks.storable import MAX_ARGS_BYTES, MAX_DEPTH, MAX_DIGITS
from tests.conftest import scalar, shown
from tests.harness import Conn
from tests.values.samples import of_kind


class Level(IntEnum):
    LOW = 1


class Line(BaseModel):
    sku: str
    weight: float = 1.0


@dataclass
class Order:
    id: int
    lines: list[Line]


class Aliased(BaseModel):
    sku: str = Field("a", alias="v", coerce_numbers_to_str=True)


def shouting(text: str) -> str:
    """Refuse what is not said loudly."""
    if not text.isupper():
        raise RuntimeError("say it louder")
    return text


def alike(task: Task[..., Any], calls: list[dict[str, Any]]) -> tuple[Any, Any]:
    """What many calls at once give, and the same calls one by one: JSON, or what was said against it."""

    def outcome(texts: Iterator[str]) -> Any:
        try:
            return json.loads(f"[{','.join(texts)}]")
        except InvalidArguments as error:
            return error.problems
        except RuntimeError as error:
            return str(error)

    def one_by_one() -> Iterator[str]:
        for at, call in enumerate(calls):
            try:
                yield task.spec.coder.encode((), call)
            except InvalidArguments as error:
                raise InvalidArguments("task", [f"call {at}: {problem}" for problem in error.problems]) from None

    return outcome(text for _, text in task.spec.coder.encode_many(calls)), outcome(one_by_one())


def deep(levels: int) -> Any:
    """A list in a list in a list."""
    return [] if levels == 1 else [deep(levels - 1)]


VALUES: list[tuple[Any, Any]] = [
    (int, 5), (int, "5"), (int, True), (int, Level.LOW), (int, 10**30), (int, "x"), (int, None),
    (int, int("9" * (MAX_DIGITS - 1))), (Any, int("9" * MAX_DIGITS)), (list[int], [1, 2]), (list[int], [1, "x"]),
    (int | None, None), (int | str, "5"), (float, 0.1), (float, math.nan), (float | None, math.inf),
    (list[float], [1.0, -math.inf]), (Any, {"a": [[math.nan]]}), (Line, Line(sku="a", weight=math.nan)),
    (Any, Line(sku="a", weight=math.inf)), (str, "NaN"), (str, "Infinity, null and **"), (str, "\x00"),
    (str, "\\u0000"), (str, "\ud800"), (Any, {"a\x00": 1}), (str, "},{"), (str, '"],["'), (str, "é\n\t\u2028"),
    (dict[str, Any], {"a": None}), (dict[str, int], {"a": 1}),
    (Any, deep(MAX_DEPTH - 2)), (Any, deep(MAX_DEPTH + 2)), (Any, {"}" * 9: deep(MAX_DEPTH + 2), "{" * 300: 1}),
    (Any, [[["[" * 500]]]), (SecretStr, SecretStr("hunter2")), (Any, SecretStr("hunter2")), (Any, object()),
    (bytes, bytes(range(256))), (Order, Order(1, [Line(sku="a")])), (Decimal, Decimal("1.10")), (UUID, UUID(int=5)),
    (datetime, datetime(2026, 5, 1, tzinfo=UTC)), (date, date(2026, 5, 1)), (timedelta, timedelta(hours=1)),
    (Literal["a", 1, None], "a"), (set[int], {1, 2}), (tuple[int, str], (1, "x")), (bool, "yes"),
    (Annotated[str, AfterValidator(shouting)], "LOUD"), (Annotated[str, AfterValidator(shouting)], "quiet"),
    (Annotated[float, PlainSerializer(lambda v: None)], 1.0), (Annotated[int, Field(gt=3)], 2),
    (Aliased, {"v": 1}), (dict[str, int], {"\ud800": 1}), (str, "\ufffd"), (dict[tuple[int, int], int], {(1, 2): 3}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=shown)
def test_many_calls_give_what_each_gives_alone(kind: Any, value: Any) -> None:
    together, apart = alike(of_kind(kind), [{"v": value}] * 3)
    assert together == apart


@pytest.mark.parametrize(
    "call",
    [{}, {"v": 1, "w": 2}, {"w": 1}, {1: 2}, [("v", 1)], None, 5, "v", {"v": 1} | {"self": 2}],
    ids=shown,
)
def test_a_call_that_does_not_fit_is_refused_with_the_same_words(call: Any) -> None:
    task = of_kind(int)
    together, apart = alike(task, [{"v": 1}, call])
    assert together == apart
    assert together[0].startswith("call 1: ")


class Lazy(Mapping[str, Any]):
    """A subclass of dict."""

    def __getitem__(self, name: str) -> Any:
        return {"v": 7}[name]

    def __iter__(self) -> Iterator[str]:
        return iter(["v"])

    def __len__(self) -> int:
        return 1


class Loud(dict[str, Any]):
    """A subclass of dict."""


def test_any_mapping_will_do() -> None:
    task = of_kind(int)
    assert list(task.spec.coder.encode_many([Lazy(), Loud(v=8), {"v": 9}])) == [
        (1, '{"v":7}'),
        (1, '{"v":8}'),
        (1, '{"v":9}'),
    ]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ANYTHING, max_size=5))
def test_whatever_the_values_many_calls_give_what_each_gives_alone(values: list[Any]) -> None:
    together, apart = alike(of_kind(Any), [{"v": value} for value in values])
    assert together == apart


def test_plain_calls_are_written_by_the_block() -> None:
    task = of_kind(int | None)
    blocks = list(task.spec.coder.encode_many({"v": n if n % 2 else None} for n in range(2 * BLOCK + 1)))
    assert [count for count, _ in blocks] == [BLOCK, BLOCK, 1]
    assert [call["v"] for _, text in blocks for call in json.loads(f"[{text}]")][:4] == [None, 1, None, 3]


def test_a_block_is_looked_through_once_for_times_without_a_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[bytes] = []

    class Pattern:
        def search(self, text: bytes) -> None:
            looks.append(text)

    monkeypatch.setattr(hazards, "_NAIVE", Pattern())
    blocks = list(of_kind(datetime).spec.coder.encode_many([{"v": datetime(2026, 5, 1, tzinfo=UTC)}] * BLOCK))
    assert ([count for count, _ in blocks], len(looks)) == ([BLOCK], 1)


def test_calls_of_nested_data_are_written_by_the_block() -> None:
    task = of_kind(Any)
    blocks = list(task.spec.coder.encode_many({"v": {"lines": [{"a": [1, "}]"]}] * 3}} for _ in range(BLOCK)))
    assert [count for count, _ in blocks] == [BLOCK]


def test_blocks_of_big_calls_are_halved_until_each_is_small() -> None:
    task, text = of_kind(str), "x" * (MAX_ARGS_BYTES // 4)
    blocks = list(task.spec.coder.encode_many({"v": text} for _ in range(10)))
    assert sum(count for count, _ in blocks) == 10
    assert max(len(block) for _, block in blocks) <= MAX_ARGS_BYTES


def test_a_call_too_big_is_named_among_small_ones() -> None:
    with pytest.raises(InvalidArguments, match=f"call 2: arguments: {MAX_ARGS_BYTES + 8} bytes of JSON"):
        list(of_kind(str).spec.coder.encode_many([{"v": ""}, {"v": ""}, {"v": "x" * MAX_ARGS_BYTES}]))


def test_a_block_that_may_hold_something_wrong_is_left_to_the_coder_of_single_calls() -> None:
    many = of_kind(int).spec.coder.blocks
    assert isinstance(many, BlockCoder)
    assert [text for _, text, _ in many.encode([Lazy()])] == [None]


@pytest.mark.parametrize("conn_kind", ["own", "borrowed"])
def test_calls_from_a_generator_land_in_their_order_with_their_options(
    dsn: str, app: App, conn: Conn, conn_kind: str
) -> None:
    @app.task(name="count", tags=["a"])
    def count(n: int, note: str | None = None) -> None: ...

    calls: Iterator[dict[str, Any]] = ({"n": n} | ({"note": "NaN"} if n == 700 else {}) for n in range(1500))
    target = count.using(priority=3, delay=60) if conn_kind == "own" else count.using(conn, priority=3, delay=60)
    ids = target.enqueue_many(calls)
    rows = conn.execute("select id from pgqueue.job order by (args->>'n')::int").fetchall()
    assert [row[0] for row in rows] == ids
    odd = "priority <> 3 or tags <> '{a}' or phase <> 'scheduled' or run_at - created_at <> interval '60 s'"
    assert scalar(conn, f"select count(*) from pgqueue.job where {odd}") == 0
    assert scalar(conn, "select count(*) from pgqueue.transition") == 1500
