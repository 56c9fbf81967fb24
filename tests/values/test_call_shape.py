"""How the calls of functions of any signature are stored, and what is read back."""

from typing import Any

import pytest

from pgqueue.tasks.call_shape import CallShape


def call(a: int, b: int, c: int = 3, *, d: int = 4) -> None: ...


def call_of_any(first: int, /, *args: Any, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("args", "kwargs", "stored", "positional"),
    [
        ((1, 2), {"d": 5}, {"a": 1, "b": 2, "d": 5}, 2),
        ((), {"b": 2, "a": 1}, {"a": 1, "b": 2}, 0),
        ((1, 2, 3), {}, {"a": 1, "b": 2, "c": 3}, 3),
    ],
)
def test_a_call_comes_back_as_it_was_given(
    args: tuple[int, ...], kwargs: dict[str, int], stored: dict[str, int], positional: int
) -> None:
    shape = CallShape.of(call)
    assert shape.stored(args, kwargs) == (stored, positional)
    assert shape.given(stored, str(positional)) == (args, kwargs)


@pytest.mark.parametrize("header", [None, "", "-1", "two", {"a": 1}])
def test_without_a_number_in_the_header_all_come_by_name(header: object) -> None:
    assert CallShape.of(call).given({"a": 1, "b": 2}, header) == ((), {"a": 1, "b": 2})


def test_a_parameter_that_is_newer_than_the_job_moves_no_argument_to_another() -> None:
    def call(a: int, new: int = 0, b: int = 0) -> None: ...

    assert CallShape.of(call).given({"a": 1, "b": 2}, "2") == ((1,), {"b": 2})


def test_what_has_no_name_is_stored_as_args_and_kwargs() -> None:
    shape = CallShape.of(call_of_any)
    assert shape.stored((1, 2), {"x": 3}) == ({"args": [1, 2], "kwargs": {"x": 3}}, 0)
    assert shape.given({"args": [1, 2], "kwargs": {"x": 3}}) == ((1, 2), {"x": 3})
    assert shape.given({"result": 0, "args": [1]}) == ((0, 1), {})
    with pytest.raises(TypeError, match="missing a required"):
        shape.stored((), {})


def test_the_shape_of_a_function_is_made_once() -> None:
    assert CallShape.of(call, 1) is CallShape.of(call, 1)
    assert CallShape.of(call, 1).names == ("b", "c")
