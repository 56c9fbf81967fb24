"""Inputs: arguments of a job that are the results of the jobs for which it waited. Its row has no copy of them."""

import json
from dataclasses import asdict
from typing import Any

from pgqueue.codecs import Codec
from pgqueue.error_info import ErrorInfo
from pgqueue.tasks.sealing import open_result, read_error

INPUTS = "$inputs"  # the header with the names of these arguments
_MARK = f'"{INPUTS}":'  # as a key; a value is followed by no colon


class ByReference(Exception):
    """Arguments of this job are results of others, which are read when it runs, and were not read along."""


class ResultsGone(Exception):
    """Results that a job was to get have been deleted."""

    def __init__(self, argument: str, count: int) -> None:
        super().__init__(f"{count} of the results that are {argument!r} are gone: somebody has deleted the jobs")


def has_inputs(headers: str | None) -> bool:
    """Whether a job has arguments that are results of others, by its headers as JSON text."""
    return headers is not None and _MARK in headers


def with_header(headers: str | None, names: list[str]) -> str:
    """Return the headers of a job, JSON text, with the names of its inputs."""
    own = f"{_MARK} {json.dumps(names)}}}"
    return f"{{{own}" if headers in (None, "{}") else f"{headers[:-1]}, {own}"


def with_inputs(codec: Codec | None, text: str, inputs: str) -> str:
    """Return the arguments of a job, JSON text, with its inputs put in.

    `inputs`: JSON, for each argument its `items` in order, whether it is a list, and how many are `gone`. Raises
    ResultsGone, UnknownKey and CannotOpen.
    """
    arguments: dict[str, Any] = json.loads(text)
    for argument in json.loads(inputs):
        if argument.get("gone"):
            raise ResultsGone(argument["name"], argument["gone"])
        values = [value_of(codec, item) for item in argument["items"]]
        arguments[argument["name"]] = values if argument["list"] else values[0]
    return json.dumps(arguments)


def left_out(inputs: str) -> set[str]:
    """Return the names of the arguments that the inputs of a job, JSON, leave to be read page by page."""
    return {argument["name"] for argument in json.loads(inputs) if argument.get("later")}


def value_of(codec: Codec | None, item: Any) -> Any:
    """Return the result of a parent, a list for a group, or how the parent ended where that is asked for."""
    if isinstance(item, list):
        return [value_of(codec, one) for one in item]
    result = open_result(codec, item["task"], item["result"])
    if item["when"] == "s":
        return result
    return {"state": item["state"], "result": result, "error": _error(codec, item["task"], item["error"])}


def _error(codec: Codec | None, task: str, stored: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return an error as it is stored, opened if it is sealed."""
    if codec is None or stored is None:
        return stored
    info = read_error(codec, task, ErrorInfo(stored["type"], stored["message"], stored.get("traceback")))
    return None if info is None else asdict(info)
