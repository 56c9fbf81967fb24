"""Each argument that is refused, with its message: one table, for one call, for many, and for tasks by name."""

import dataclasses
import enum
import json
import math
from collections import namedtuple
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PlainSerializer,
    Secret,
    SecretStr,
    SkipValidation,
    computed_field,
    field_serializer,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from typing_extensions import TypedDict

from pgqueue import App, InvalidArguments, InvalidTask
from pgqueue.tasks.hazards import leaves as inside
from tests.conftest import scalar
from tests.harness import Conn
from tests.values.samples import of_kind

FINITE = "is not JSON (pass a finite number, or None)"
NUL = "a NUL character cannot be stored by Postgres (remove it, or pass bytes)"
WRITES_NUL = "it is written with NUL, which Postgres cannot store (for bytes in a model: give it model_config = "
HALF = "a lone surrogate is half a character (decode the text with errors='replace', or pass bytes)"
NAIVE = "a datetime without a timezone (pass an aware one, such as datetime.now(UTC))"
SECRET = "a secret is written as asterisks, and lost (pass the id of where it is kept)"
ROW = "Customer is a row of SQLAlchemy (pass its primary key, and load it in the task)"
UNREAD = "(as JSON says it; pass plain data, or let the type read what it writes)"
CHANGED = "it holds what its type does not allow (it was changed after it was made: make a new one)"
PLAIN = "(pass plain data, such as the id of a row, not an object)"


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2
    NOT_A_NUMBER = math.nan
    NUL = "a\x00b"
    DAY = date(2026, 5, 1)


class Weight(BaseModel):
    kilos: float


class Null(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="null")
    kilos: float | None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class OpenDict(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]  # pydantic's own way to say it


@dataclasses.dataclass(slots=True)
class Box:
    inside: Any


class Login(BaseModel):
    password: SecretStr


class Positive(BaseModel):
    n: int = Field(gt=0)


class Counted(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int

    @computed_field  # type: ignore[prop-decorator]  # as pydantic wants it
    @property
    def twice(self) -> int:
        return 2 * self.n


class Excluded(BaseModel):
    n: int = Field(exclude=True)


class German(BaseModel):
    day: datetime

    @field_serializer("day")
    def shown(self, day: datetime) -> str:
        return f"{day:%d.%m.%Y}"


class Tree(BaseModel):
    children: list["Tree"] = []


def changed(model: BaseModel, **values: Any) -> BaseModel:
    """A model that was changed after it was made, which pydantic does not look at."""
    for name, value in values.items():
        setattr(model, name, value)
    return model


def circle() -> list[Any]:
    """A list that contains itself."""
    values: list[Any] = []
    values.append(values)
    return values


def tree(levels: int) -> Tree:
    """A tree with one branch."""
    return Tree() if levels == 1 else Tree(children=[tree(levels - 1)])


Point = namedtuple("Point", "x at")  # one without types
NOON = datetime(2026, 5, 1, 12)
# What, its type, the value and the message, or how it begins.
TABLE: list[tuple[str, Any, Any, str]] = [
    ("nan", float, math.nan, f"v: nan {FINITE}"),
    ("infinite text", float, "1e999", f"v: inf {FINITE}"),
    ("nan in a list", list[float], [1.0, -math.inf], f"v.1: -inf {FINITE}"),
    ("nan in a model", Weight, Weight(kilos=math.nan), f"v.kilos: nan {FINITE}"),
    ("nan that a model writes as null", Null, Null(kilos=math.nan), f"v.kilos: nan {FINITE}"),
    ("nan in an extra field", Open, Open.model_validate({"a": [math.nan]}), f"v.a.0: nan {FINITE}"),
    ("nan as enum", Colour, Colour.NOT_A_NUMBER, f"v: it is written as nan, which {FINITE}"),
    ("nan as enum anywhere", Any, [Colour.NOT_A_NUMBER], f"v.0: it is written as nan, which {FINITE}"),
    ("nan from a serializer", Annotated[float, PlainSerializer(lambda v: math.nan, when_used="json")], 1.0,
     f"v: it is written as nan, which {FINITE}"),
    ("decimal nan", Decimal, Decimal("NaN"), "v: Input should be a finite number"),
    ("decimal nan anywhere", Any, [Decimal("sNaN")], f"v.0: sNaN {FINITE}"),
    ("NUL", str, "a\x00b", f"v: {NUL}"),
    ("NUL in a key", dict[str, int], {"a\x00": 1}, f"v.a\\x00: {NUL}"),
    ("NUL in a path", Path, Path("a\x00"), f"v: {WRITES_NUL}"),
    ("NUL in an enum", Any, [Colour.NUL], f"v.0: {WRITES_NUL}"),
    ("surrogate", str, "\ud800", f"v: {HALF}"),
    ("surrogate in a key", dict[str, int], {"\ud800": 1}, f"v.\\ud800: {HALF}"),
    ("surrogate in a key anywhere", Any, {"\ud800": 1}, f"v: {HALF}"),
    ("naive", datetime, NOON, f"v: {NAIVE}"),
    ("naive in a tuple", Any, Point(1, NOON), f"v.1: {NAIVE}"),
    ("naive key", dict[datetime, int], {NOON: 1}, f"v.2026-05-01 12:00:00: {NAIVE}"),
    ("naive in an extra field", Open, Open.model_validate({"at": NOON}), f"v.at: {NAIVE}"),
    ("naive in an open dict", OpenDict, {"at": NOON}, f"v.at: {NAIVE}"),
    ("row", Any, Customer(id=1), f"v: {ROW}"),
    ("row in a dict", dict[str, Any], {"a": [Customer(id=1)]}, f"v: {ROW}"),
    ("row in an extra field", Open, Open.model_validate({"who": Customer(id=1)}), f"v: {ROW}"),
    ("row in a dataclass with slots", Any, Box(Customer(id=1)), f"v: {ROW}"),
    ("secret", SecretStr, SecretStr("x"), f"v: {SECRET}"),
    ("secret in a model", Login, Login(password=SecretStr("x")), f"v.password: {SECRET}"),
    ("secret of any type", Secret[str], Secret("x"), f"v: {SECRET}"),
    ("secret anywhere", Any, [Secret(5)], f"v.0: {SECRET}"),
    ("secret as key", Any, {SecretStr("k"): 1}, f"v.**********: {SECRET}"),
    ("generator", Any, (n for n in [1]), "v: generator can be read only once (pass a list)"),
    ("iterator", Any, {"a": [iter([1])]}, "v: list_iterator can be read only once (pass a list)"),
    ("object", Any, object(), f"v: Unable to serialize unknown type: <class 'object'> {PLAIN}"),
    ("circle", Any, circle(),
     f"v: Error serializing to JSON: ValueError: Circular reference detected (id repeated) {PLAIN}"),
    ("deep", Tree, tree(101), "arguments: nested 203 deep (at most 200: flatten the data)"),
    ("digits", int, 10**4000, "arguments: a number of more than 4000 digits (pass it as a text)"),
    ("changed model", Weight, changed(Weight(kilos=1), kilos="x"), f"v: {CHANGED}"),
    ("model changed out of bounds", Positive, changed(Positive(n=1), n=-1),
     f"v.n: Input should be greater than 0 {UNREAD}"),
    ("not validated", SkipValidation[int], "x", f"v: {CHANGED}"),
    ("field that is not written", Excluded, Excluded(n=1), f"v.n: Field required {UNREAD}"),
    ("field that is not read", Counted, Counted(n=1), f"v.twice: Extra inputs are not permitted {UNREAD}"),
    ("serializer", German, German(day=datetime(2026, 5, 1, tzinfo=UTC)),
     f"v.day: Input should be a valid datetime or date, invalid character in year {UNREAD}"),
    ("tuple as key", dict[tuple[int, int], int], {(1, 2): 3}, f"v.1,2.[key]: Input should be a valid array {UNREAD}"),
    ("enum as key", dict[Literal[1, 2], int], {1: 1}, f"v.1.[key]: Input should be 1 or 2 {UNREAD}"),
    ("date as enum", Colour, Colour.DAY,
     f"v: Input should be 'red', 2, nan, 'a\\x00b' or datetime.date(2026, 5, 1) {UNREAD}"),
    ("literal bytes", Literal[b"a"], b"a", f"v: Input should be b'a' {UNREAD}"),
    ("parsed JSON", Json[list[int]], "[1]", f"v: JSON input should be string, bytes or bytearray {UNREAD}"),
    ("wrong type", int, "x", "v: Input should be a valid integer, unable to parse string as an integer"),
]  # fmt: skip
PARTS = ("kind", "value", "said")
BY_NAME = [row[1:] for row in TABLE if row[1] is Any]


@pytest.mark.parametrize(PARTS, [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_an_argument_is_refused_by_its_name_and_with_a_remedy(kind: Any, value: Any, said: str) -> None:
    spec = of_kind(kind).spec
    with pytest.raises(InvalidArguments) as one:
        spec.coder.encode((value,), {})
    (problem,) = one.value.problems
    assert problem.startswith(said)
    problem.encode()  # it can be printed
    with pytest.raises(InvalidArguments) as many:
        list(spec.coder.encode_many([{"v": value}]))
    assert many.value.problems == [f"call 0: {problem}"]


@pytest.mark.parametrize(PARTS, BY_NAME, ids=[row[0] for row in TABLE if row[1] is Any])
def test_so_it_is_for_a_task_by_name(dsn: str, conn: Conn, kind: Any, value: Any, said: str) -> None:
    with psycopg.connect(dsn) as borrowed:
        with pytest.raises(InvalidArguments) as refused:
            App(dsn).using(borrowed).enqueue("elsewhere", {"v": value})
        assert refused.value.problems[0].startswith(said)
        assert borrowed.execute("select 1").fetchone() == (1,)
    assert scalar(conn, "select count(*) from pgqueue.job") == 0


def test_what_is_refused_among_many_leaves_none_of_them(dsn: str, conn: Conn) -> None:
    app = App(dsn)
    task = app.task(name="t")(lambda v: None)
    for value in (Colour.NOT_A_NUMBER, Open.model_validate({"at": NOON}), {SecretStr("k"): 1}):
        with pytest.raises(InvalidArguments, match="call 1: v"):
            task.using(conn).enqueue_many([{"v": 1}, {"v": value}, {"v": 2}])
    assert scalar(conn, "select count(*) from pgqueue.job") == 0


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.binary(max_size=4), st.dates(),
    st.datetimes(), st.datetimes(timezones=st.timezones()), st.times(), st.timedeltas(), st.uuids(),
    st.complex_numbers(), st.decimals(allow_nan=False), st.sampled_from(Colour),
    st.sampled_from([Decimal("NaN"), Path("a\x00"), SecretStr("x"), Secret(5), "NaN", "\\u0000", "\ufffd"]),
)  # fmt: skip
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(LEAVES, inner, max_size=3)
        | st.builds(Box, inner)
        | inner.map(lambda value: Open.model_validate({"a": value}))
    ),
    max_leaves=5,
)


def is_storable(value: Any) -> bool:
    """Whether Postgres takes what JSON text says."""
    leaves = [leaf for _, leaf in inside(value)]
    texts, numbers = "".join(x for x in leaves if isinstance(x, str)), [x for x in leaves if isinstance(x, float)]
    texts.encode()  # no half characters
    return "\x00" not in texts and all(map(math.isfinite, numbers))


@settings(max_examples=200, deadline=None, database=None)
@given(ANYTHING)
def test_whatever_is_not_refused_can_be_stored_and_read(value: Any) -> None:
    spec = of_kind(Any).spec
    text: str | None = None
    problems: Sequence[str] = ()
    try:
        text = spec.coder.encode((value,), {})
    except InvalidArguments as refused:
        problems = refused.problems
    if text is None:
        assert all(problem.startswith("v") for problem in problems)
        assert [together for _, together, _ in spec.coder.blocks.encode([{"v": value}])] == [None]
    else:
        assert is_storable(json.loads(text))
        assert spec.coder.decode(text)["v"] == json.loads(text)["v"]


@pytest.mark.parametrize("option", [{"alias": "w"}, {"validation_alias": "w"}, {"exclude": True}], ids=str)
@pytest.mark.filterwarnings("ignore::pydantic.warnings.UnsupportedFieldAttributeWarning")
def test_a_parameter_that_is_not_stored_under_its_name_is_refused_where_it_is_registered(option: Any) -> None:
    with pytest.raises(InvalidTask, match="parameter 'v' has an alias, or is excluded"):
        of_kind(Annotated[int, Field(**option)])


def test_a_function_that_yields_is_refused_for_a_call_would_not_run_it() -> None:
    def numbers(n: int) -> Iterable[int]:
        yield n

    async def later(n: int) -> AsyncIterator[int]:
        yield n

    for function in (numbers, later):
        with pytest.raises(InvalidTask, match=r"it yields, so a call would not run it: return a list"):
            App("unused").task(function)


def test_a_parameter_that_can_be_read_only_once_is_refused_where_it_is_registered() -> None:
    with pytest.raises(InvalidTask, match=r"annotated .*Iterable.*, which can be read only once: take a list"):
        of_kind(list[Iterable[int]])
