"""Tasks: which functions can be one, how arguments become JSON by name, and back."""

from __future__ import annotations

import enum
import functools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import psycopg
import pytest
from pydantic import BaseModel

from pgqueue import App, Context, InvalidArguments, InvalidTask, Task, UnknownTask
from pgqueue.tasks.function_names import task_name
from pgqueue.tasks.storable import encode_result
from tests.conftest import shown
from tests.harness import claimed
from tests.values.samples import of_kind


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Line(BaseModel):
    sku: str
    price: Decimal = Decimal("1.10")


@dataclass
class Order:
    id: int
    lines: list[Line] = field(default_factory=list)
    due: date | None = None


class Blob(BaseModel):
    data: bytes


class Reading(BaseModel):
    celsius: float


NOW = datetime(2026, 5, 1, 12, 30, 0, 123456, UTC)
CONTEXT = Context(claimed(7, 1))


@pytest.fixture
def app() -> App:
    """An app that never meets a database."""
    return App("unused")


def problems(task: Task[..., Any], *args: Any, **kwargs: Any) -> str:
    """Why a call is refused."""
    with pytest.raises(InvalidArguments) as refused:
        task.spec.coder.encode(args, kwargs)
    return str(refused.value)


def test_arguments_are_stored_by_name_however_they_were_passed(app: App) -> None:
    @app.task
    def f(a: int, b: str, *, c: bool) -> None: ...

    assert json.loads(f.spec.coder.encode((1, "x"), {"c": True})) == {"a": 1, "b": "x", "c": True}
    assert json.loads(f.spec.coder.encode((), {"c": True, "b": "x", "a": 1})) == {"a": 1, "b": "x", "c": True}


def test_defaults_are_not_stored_and_so_may_change_later(app: App) -> None:
    @app.task
    def f(a: int, b: int = 5, *, c: str | None = "x") -> None: ...

    assert json.loads(f.spec.coder.encode((1,), {})) == {"a": 1}
    assert json.loads(f.spec.coder.encode((1,), {"c": None})) == {"a": 1, "c": None}
    assert f.spec.coder.decode('{"a": 1}') == {"a": 1}


def test_a_task_without_parameters_stores_an_empty_object(app: App) -> None:
    assert app.task(lambda: None).spec.coder.encode((), {}) == "{}"


def test_a_parameter_without_annotation_takes_any_json() -> None:
    assert of_kind(Any).spec.coder.decode(of_kind(Any).spec.coder.encode(({"a": [1, None, "x"]},), {})) == {
        "v": {"a": [1, None, "x"]}
    }


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (datetime, NOW), (date, date(2026, 5, 1)), (timedelta, timedelta(hours=1, microseconds=5)),
        (UUID, UUID(int=5)), (Decimal, Decimal("12345678901234567890.10")), (Colour, Colour.RED), (Level, Level.LOW),
        (bytes, b"plain"), (bytes, bytes(range(256))), (Order, Order(1, [Line(sku="a")], date(2026, 1, 2))),
        (Blob, Blob(data=b"plain")), (Line, Line(sku="ü", price=Decimal("0.3"))), (Literal["a", "b"], "b"),
        (int | None, None), (int | str, "5"), (int | str, 5), (list[Order], [Order(1), Order(2)]),
        (dict[str, Line], {"k": Line(sku="x")}), (tuple[int, str], (1, "x")), (set[int], {1, 2}),
        (dict[int, datetime], {3: NOW}), (bool, True), (float, 0.1), (int, 10**30),
        (str, "日本 \U0001f600 \\u0000 \" ' %s"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_value_comes_back_as_it_went_in(kind: Any, value: Any) -> None:
    task = of_kind(kind)
    back = task.spec.coder.decode(task.spec.coder.encode((value,), {}))["v"]
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("kind", "value", "stored"),
    [(datetime, NOW, "2026-05-01T12:30:00.123456Z"), (Decimal, Decimal("1.10"), "1.10"), (Colour, Colour.RED, "red")],
    ids=["datetime", "decimal", "enum"],
)
def test_sql_sees_plain_json(kind: Any, value: Any, stored: str) -> None:
    assert json.loads(of_kind(kind).spec.coder.encode((value,), {})) == {"v": stored}


def test_what_the_signature_promises_is_what_is_stored() -> None:
    assert of_kind(int).spec.coder.encode(("5",), {}) == '{"v":5}'


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((), {}, "missing a required argument: 'order_id'"),
        ((1, "x", 3), {}, "too many positional arguments"),
        ((1,), {"to": "x", "cc": "y"}, "unexpected keyword argument 'cc'"),
        ((1,), {"order_id": 2, "to": "x"}, "multiple values for argument 'order_id'"),
    ],
)
def test_a_call_that_does_not_fit_says_what_the_task_takes(
    app: App, args: tuple[Any, ...], kwargs: dict[str, Any], said: str
) -> None:
    @app.task(name="send")
    def send(order_id: int, to: str) -> None: ...

    message = problems(send, *args, **kwargs)
    assert message.startswith("cannot call send: ")
    assert said in message
    assert "(order_id: int, to: str)" in message


def test_every_wrong_argument_is_named_at_once(app: App) -> None:
    @app.task(name="send")
    def send(order_id: int, order: Order) -> None: ...

    message = problems(send, "x", {"id": 1, "lines": [{"sku": 5}]})
    assert "order_id: Input should be a valid integer" in message
    assert "order.lines.0.sku: Input should be a valid string" in message


def test_a_refusal_does_not_repeat_the_value(app: App) -> None:
    @app.task
    def login(token: int) -> None: ...

    assert "hunter2" not in problems(login, "hunter2")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize(
    ("kind", "wrap"),
    [
        (float, lambda x: x), (float | None, lambda x: x), (Any, lambda x: x), (list[float], lambda x: [1.0, x]),
        (Any, lambda x: {"a": [[x]]}), (Reading, lambda x: Reading(celsius=x)), (Any, lambda x: Reading(celsius=x)),
    ],
    ids=["float", "optional", "any", "list", "nested any", "model", "model in any"],
)  # fmt: skip
def test_a_number_that_json_lacks_is_refused_and_never_becomes_null(
    kind: Any, wrap: Callable[[float], Any], bad: float
) -> None:
    message = problems(of_kind(kind), wrap(bad))
    assert "v" in message
    assert "finite" in message


@pytest.mark.parametrize("value", ["a\x00b", {"a\x00": 1}, [["\x00"]], "\ud800", {"\ud800": 1}, ["\udfff"]], ids=ascii)
def test_text_that_postgres_cannot_hold_is_refused_by_name(value: Any) -> None:
    assert "cannot call task: v" in problems(of_kind(Any), value)


@pytest.mark.parametrize("value", [object(), lambda: None, sys, [object()], {"a": {"b": object()}}], ids=shown)
def test_an_object_is_refused_with_what_to_pass_instead(value: Any) -> None:
    assert "pass plain data, such as the id of a row" in problems(of_kind(Any), value)


def test_a_structure_that_contains_itself_is_refused() -> None:
    knot: list[Any] = []
    knot.append(knot)
    assert "v:" in problems(of_kind(Any), knot)


def test_a_stored_argument_is_validated_again_when_it_runs() -> None:
    with pytest.raises(ValueError, match="valid integer"):
        of_kind(int).spec.coder.decode('{"v": "x"}')
    with pytest.raises(ValueError, match="Extra inputs"):
        of_kind(int).spec.coder.decode('{"v": 1, "w": 2}')


def test_context_is_given_and_not_asked_of_the_caller(app: App) -> None:
    @app.task
    def f(ctx: Context, n: int) -> tuple[int, int]:
        return ctx.job_id, n

    assert f.spec.coder.encode((5,), {}) == '{"n":5}'
    assert f.spec.call({"n": 5}, CONTEXT) == (7, 5)
    assert "unexpected keyword argument 'ctx'" in problems(f, n=5, ctx=CONTEXT)


def test_context_may_be_keyword_only(app: App) -> None:
    @app.task
    def f(n: int, *, ctx: Context, m: int = 2) -> tuple[int, int, int]:
        return n, ctx.job_id, m

    assert f.spec.call({"n": 5}, CONTEXT) == (5, 7, 2)


def args_task(*ids: int) -> None: ...
def kwargs_task(**ids: int) -> None: ...
def positional_task(a: int, /) -> None: ...
def positional_context_task(ctx: Context, /, a: int) -> None: ...
def context_args_task(*ctx: Context) -> None: ...
def two_contexts_task(ctx: Context, other: Context) -> None: ...
def optional_context_task(n: int, ctx: Context | None = None) -> None: ...
def connection_task(conn: psycopg.Connection[Any]) -> None: ...
def undefined_task(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def undefined_attribute_task(a: sys.nowhere) -> None: ...  # type: ignore[name-defined]
def undefined_inside_task(a: list["Nowhere"]) -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037
def broken_annotation_task(a: int) -> None: ...


broken_annotation_task.__annotations__ = {"a": "list["}


@pytest.mark.parametrize(
    "function",
    [args_task, kwargs_task, positional_task, positional_context_task, context_args_task, two_contexts_task,
     optional_context_task, connection_task, undefined_task, undefined_attribute_task, undefined_inside_task,
     broken_annotation_task],
    ids=lambda function: function.__name__,
)  # fmt: skip
def test_a_signature_that_cannot_be_stored_by_name_is_refused_where_it_is_written(
    app: App, function: Callable[..., Any]
) -> None:
    with pytest.raises(InvalidTask, match=rf"task {task_name(function)}: "):
        app.task(function)
    assert app.tasks.names() == []


@pytest.mark.parametrize("thing", [5, "send", int, functools.partial(print, 1)], ids=str)
def test_what_is_no_function_with_a_name_and_a_signature_is_refused(app: App, thing: Any) -> None:
    with pytest.raises(InvalidTask):
        app.task(thing)


@pytest.mark.parametrize("name", ["x" * 201, "a\x00b", "\ud800"], ids=["too long", "NUL", "surrogate"])
def test_a_name_that_no_job_could_carry_is_refused_where_it_is_given(app: App, name: str) -> None:
    with pytest.raises((InvalidTask, ValueError), match="200 printable characters"):
        app.task(name=name)(lambda: None)


def test_a_method_is_refused_where_it_is_written_and_a_staticmethod_is_not(app: App) -> None:
    with pytest.raises(InvalidTask, match="it is a method, and a worker has no object to call it on"):

        class Mailer:
            @app.task
            def send(self, to: str) -> None: ...

    class Other:
        @staticmethod
        @app.task
        def send(to: str) -> None: ...

    assert [name.rpartition("not.")[2] for name in app.tasks.names()] == ["Other.send"]


def test_a_script_inside_a_package_names_its_tasks_as_an_import_would(tmp_path: Path) -> None:
    script = tmp_path / "shop" / "mail" / "tasks.py"
    script.parent.mkdir(parents=True)
    for folder in (script.parent, script.parent.parent):
        (folder / "__init__.py").touch()
    script.write_text("import pgqueue\napp = pgqueue.App()\n@app.task\ndef send() -> None: ...\nprint(send.name)\n")
    for command in ([script], ["-m", "shop.mail.tasks"]):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == "shop.mail.tasks.send\n"


def test_parameters_may_be_called_like_the_inside_of_a_model(app: App) -> None:
    @app.task
    def f(schema: int, json: int, copy: int, model_config: int, validate: int, args: int, kwargs: int, name: int,
          task: int, cls: int, self_: int, _private: int) -> None: ...  # fmt: skip

    values = dict.fromkeys(f.spec.coder.signature.parameters, 1)
    assert len(values) == 12
    assert f.spec.coder.decode(f.spec.coder.encode((), values)) == values


def test_two_functions_cannot_share_a_name(app: App) -> None:
    app.task(name="send")(lambda: None)
    with pytest.raises(InvalidTask, match=r"two functions are named task 'send': .*test_tasks\.py:\d+ .*name="):
        app.task(name="send")(lambda: 1)


def test_registering_the_same_function_again_is_no_conflict(app: App) -> None:
    app.task(args_free)
    app.task(args_free)
    assert app.tasks.names() == ["tests.values.test_tasks.args_free"]


def args_free() -> None: ...


def test_a_task_is_named_after_its_module_and_function() -> None:
    def inner() -> None: ...

    assert task_name(args_free) == "tests.values.test_tasks.args_free"
    assert task_name(inner) == "tests.values.test_tasks.test_a_task_is_named_after_its_module_and_function.inner"


def test_a_module_run_as_a_script_is_named_as_when_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def send() -> None: ...

    main = type(sys)("__main__")
    main.__file__ = "/srv/app/shop.py"
    monkeypatch.setitem(sys.modules, "__main__", main)
    send.__module__, send.__qualname__ = "__main__", "send"
    assert task_name(send) == "shop.send"


def test_an_unknown_task_is_named_with_those_that_are_known(app: App) -> None:
    app.task(name="b")(lambda: None)
    app.task(name="a")(lambda: None)
    with pytest.raises(UnknownTask, match=r"no task named 'c' is registered \(known: a, b\)"):
        app.tasks["c"]


def test_a_task_called_runs_the_function_here_and_now(app: App) -> None:
    @app.task
    def double(n: int) -> int:
        """Twice as much."""
        return 2 * n

    assert double(4) == 8
    assert (double.__name__, double.__doc__) == ("double", "Twice as much.")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, None), (5, "5"), ({"a": Decimal("1.1")}, '{"a":"1.1"}'), (Line(sku="a"), '{"sku":"a","price":"1.10"}'),
     ([NOW], '["2026-05-01T12:30:00.123456Z"]'), ("NaN", '"NaN"')],
    ids=str,
)  # fmt: skip
def test_a_result_becomes_json(value: Any, text: str | None) -> None:
    assert encode_result(value) == (text, None)


@pytest.mark.parametrize(
    "value",
    [object(), math.nan, {"a": [math.inf]}, "\x00", {"\x00": 1}, "\ud800", Reading(celsius=math.nan)],
    ids=lambda value: ascii(value)[:20],
)
def test_a_result_that_cannot_be_stored_says_why(value: Any) -> None:
    text, error = encode_result(value)
    assert text is None
    assert error is not None
    assert error.message
    assert not error.message.startswith(":")
