"""Arguments: they come back as they went in; what is refused, with which words; the limits."""

import math
import re
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import NaiveDatetime, SecretStr

from pgqueue import App, InvalidArguments, InvalidOption, InvalidTask
from tests.conftest import drain, scalar
from tests.harness import Conn
from tests.values.samples import (
    Base64File,
    Cat,
    Colour,
    Dog,
    File,
    Flags,
    Line,
    Order,
    Parcel,
    Point,
    Renamed,
    Strict,
    User,
    back,
    of_kind,
    problems,
)

PAGE = (Path(__file__).parents[2] / "docs" / "arguments.md").read_text()
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
AWARE = st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=ZONES)
AMOUNTS = st.decimals(allow_nan=False, allow_infinity=False)
LINES = st.builds(Line, sku=TEXTS, price=AMOUNTS, photo=st.binary())
ORDERS = st.builds(
    Order, id=st.uuids(), lines=st.lists(LINES, max_size=3), due=st.none() | AWARE, by=st.sampled_from(["air", "sea"]),
    colours=st.dictionaries(TEXTS, st.sampled_from(Colour), max_size=3),
)  # fmt: skip
KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "int": (int, st.integers(-(10**300), 10**300)),
    "float": (float, st.floats(allow_nan=False, allow_infinity=False)),
    "bool": (bool, st.booleans()),
    "str": (str, TEXTS),
    "bytes": (bytes, st.binary()),
    "datetime": (datetime, AWARE),
    "date": (date, st.dates()),
    "time": (time, st.times()),
    "timedelta": (timedelta, st.timedeltas(timedelta(days=-9999), timedelta(days=9999))),
    "UUID": (uuid.UUID, st.uuids()),
    "Decimal": (Decimal, AMOUNTS),
    "Enum": (Colour, st.sampled_from(Colour)),
    "Literal": (Literal["a", 1, None], st.sampled_from(["a", 1, None])),
    "optional": (datetime | None, st.none() | AWARE),
    "dataclass": (Line, LINES),
    "model": (Order, ORDERS),
    "model with bytes": (Base64File, st.builds(Base64File, data=st.binary())),
    "list": (list[Order], st.lists(ORDERS, max_size=2)),
    "dict": (dict[str, set[int]], st.dictionaries(TEXTS, st.sets(st.integers()), max_size=3)),
    "model with aliases": (Renamed, st.builds(Renamed, cameCase=st.integers(), Lines=st.lists(LINES))),
    "tagged union": (Cat | Dog, st.builds(Cat, name=TEXTS) | st.builds(Dog, name=TEXTS)),
    "named tuple": (Point, st.builds(Point, x=st.floats(allow_nan=False, allow_infinity=False), at=AWARE)),
    "typed dict": (Parcel, st.fixed_dictionaries({"kilos": AMOUNTS}, optional={"at": AWARE})),
    "flags": (Flags, st.sampled_from(Flags)),
    "keys": (dict[uuid.UUID, dict[date, int]], st.dictionaries(st.uuids(), st.dictionaries(st.dates(), st.integers()))),
    "strict model": (
        Strict,
        st.builds(Strict, id=st.uuids(), raw=st.binary(), of=st.sets(st.integers()).map(frozenset)),
    ),
    "tuple": (tuple[uuid.UUID, bytes], st.tuples(st.uuids(), st.binary())),
}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_type_can_hold_comes_back_equal_and_of_the_same_type(kind: str) -> None:
    annotation, values = KINDS[kind]
    spec = of_kind(annotation).spec

    @settings(max_examples=40, deadline=None, database=None)
    @given(values)
    def check(value: Any) -> None:
        text = spec.coder.encode((value,), {})
        again = spec.coder.decode(text)["v"]
        assert again == value
        assert type(again) is type(value)
        assert "\n" not in text  # packed batches are lines

    check()


def test_what_was_enqueued_is_what_the_function_gets(app: App, conn: Conn) -> None:
    got: list[Any] = []

    @app.task(name="t")
    def t(order: Order, at: datetime, raw: bytes, kind: Literal["x"], note: str | None = None, n: int = 7) -> None:
        got.append((order, at, raw, kind, note, n))

    at = datetime(2026, 5, 1, 12, 0, 0, 5, timezone(timedelta(hours=2)))
    order = Order(id=uuid.UUID(int=5), lines=[Line("ü\\u0000", Decimal("1.10"), b"\x00\xff")], due=at)
    t.enqueue(order, at, b"\x00\xff", "x", note=None)
    drain(app, conn)
    assert got == [(order, at, b"\x00\xff", "x", None, 7)]


def test_the_page_says_what_is_refused_and_in_which_words(dsn: str, app: App, conn: Conn) -> None:
    @app.task(name="send")
    def send(order_id: int, weight: float = 1.0, extra: Any = None) -> None: ...

    @app.task(name="remind")
    def remind(at: datetime) -> None: ...

    @app.task(name="upload")
    def upload(file: File) -> None: ...

    @app.task(name="bill")
    def bill(lines: dict[tuple[int, int], int]) -> None: ...

    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    table = re.findall(r"^\| `(.*)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(table) == 22
    with psycopg.connect(dsn) as borrowed:
        names = {
            "send": send.using(borrowed), "remind": remind.using(borrowed), "upload": upload.using(borrowed),
            "bill": bill.using(borrowed),
            "app": app.using(borrowed), "row": User(id=1), "deep": deep, "math": math, "Decimal": Decimal,
            "datetime": datetime, "SecretStr": SecretStr, "File": File,
        }  # fmt: skip
        for call, why in table:
            with pytest.raises(InvalidArguments) as refused:
                eval(call, names)
            assert "; ".join(refused.value.problems) == why, call
        assert borrowed.execute("select 1").fetchone() == (1,)
        borrowed.commit()
    assert scalar(conn, "select count(*) from pgqueue.job") == 0


def test_the_python_of_the_page_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "docs/arguments.md", "exec"), {"__name__": "page"})


@pytest.mark.parametrize(
    ("kind", "value", "at"),
    [
        (datetime, datetime(2026, 1, 1), "v"), (datetime, "2026-01-01T00:00:00", "v"),
        (datetime | None, datetime(2026, 1, 1, 1, 1, 1, 5), "v"),
        (list[datetime], [datetime.now(UTC), datetime.min], "v.1"),
        (Any, {"a": [datetime(2026, 1, 1)]}, "v.a.0"), (dict[datetime, int], {datetime(2026, 1, 1): 1}, "v.2026"),
        (Order, Order(id=uuid.uuid4(), lines=[], due=datetime(2026, 1, 1)), "v.due"),
    ],
    ids=["plain", "text", "optional", "list", "any", "key", "model"],
)  # fmt: skip
def test_a_time_without_a_zone_is_refused_by_name(kind: Any, value: Any, at: str) -> None:
    message = problems(of_kind(kind), value)
    assert f"task: {at}" in message
    assert "without a timezone (pass an aware one" in message


def test_text_that_looks_like_a_time_is_text() -> None:
    assert back(Any, ["2026-01-01T00:00:00", datetime(2026, 1, 1, tzinfo=UTC)])[0] == "2026-01-01T00:00:00"
    assert back(str, "2026-01-01T00:00:00") == "2026-01-01T00:00:00"


def test_a_parameter_that_wants_no_zone_is_refused_where_it_is_registered() -> None:
    with pytest.raises(InvalidTask, match="'v' takes a datetime without a timezone"):
        of_kind(NaiveDatetime)


def test_the_size_is_limited_by_the_app_and_by_the_task(dsn: str) -> None:
    app = App(dsn, max_args_bytes=20)
    small = app.task(name="small")(lambda v: None)
    large = app.task(name="large", max_args_bytes=30)(lambda v: None)
    assert len(small.spec.coder.encode(("x" * 12,), {})) == 20
    assert "21 bytes of JSON (at most 20: " in problems(small, "x" * 13)
    assert len(large.spec.coder.encode(("x" * 22,), {})) == 30
    assert "(at most 30: " in problems(large, "x" * 23)
    with pytest.raises(InvalidArguments, match="at most 20"):
        app.enqueue("elsewhere", {"v": "x" * 13})
    assert "22 bytes" in problems(small, "üüü" * 2 + "x" * 2)


@pytest.mark.parametrize("size", [0, -1, 1.5, "1", True, 10**9])
def test_a_size_that_cannot_be_one_is_refused(size: Any) -> None:
    with pytest.raises(InvalidOption, match="max_args_bytes="):
        App("unused", max_args_bytes=size)
    with pytest.raises(InvalidOption, match="max_args_bytes="):
        of_kind(int, max_args_bytes=size)


def test_depth_is_limited_and_brackets_in_texts_do_not_count() -> None:
    deep: Any = 1
    for _ in range(199):
        deep = {"a": deep}
    assert back(Any, deep) == deep
    assert "nested 201 deep (at most 200" in problems(of_kind(Any), [deep])
    assert back(Any, "[" * 500) == "[" * 500


@pytest.mark.parametrize("data", [b"\xff", b"a\x00b"], ids=["no utf-8", "NUL"])
def test_bytes_that_a_model_cannot_write_are_refused_and_not_by_postgres(dsn: str, data: bytes) -> None:
    app = App(dsn)
    upload = app.task(name="upload")(lambda v: None)
    with psycopg.connect(dsn) as borrowed:
        with pytest.raises(InvalidArguments, match=r"v.*: .*bytes in a model.*ser_json_bytes='base64'"):
            upload.using(borrowed).enqueue(File(data=data))
        upload.using(borrowed).enqueue("\\u0000 is no NUL")
        assert scalar(borrowed, "select args->>'v' from pgqueue.job") == "\\u0000 is no NUL"
