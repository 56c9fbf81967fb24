"""Values as Celery's JSON carries them: what JSON cannot say goes as a marked object and comes back as it was."""

import base64
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

_TYPE, _VALUE = "__type__", "__value__"
_WRITE: tuple[tuple[type, str, Callable[[Any], Any]], ...] = (  # a datetime is a date, too, so it stands first
    (datetime, "datetime", datetime.isoformat),
    (date, "date", date.isoformat),
    (time, "time", time.isoformat),
    (Decimal, "decimal", str),
    (UUID, "uuid", lambda value: {"hex": value.hex}),
    (bytes, "base64", lambda value: base64.b64encode(value).decode()),
)
_READ: dict[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda value: UUID(value["hex"]),
    "bytes": str.encode,
    "base64": base64.b64decode,
}


def written(value: Any, place: str) -> Any:
    """Return a value as JSON has it. Raises TypeError, which names the place, for what neither can carry."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [written(each, f"{place}.{at}") for at, each in enumerate(value)]
    if isinstance(value, Mapping):
        return {_key(name, place): written(each, f"{place}.{name}") for name, each in value.items()}
    for kind, mark, write in _WRITE:
        if isinstance(value, kind):
            return {_TYPE: mark, _VALUE: write(value)}
    if type(value).__module__.startswith("django.utils.functional"):  # a lazy text
        return str(value)
    raise TypeError(
        f"{place}: {type(value).__name__} is no JSON: give plain data, such as the id of a row, or a list instead of a "
        "set; pydantic=True in @app.task takes models"
    )


def read(value: Any) -> Any:
    """Return a value that `written` has written."""
    if isinstance(value, list):
        return [read(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TYPE, _VALUE} and value[_TYPE] in _READ:
        return _READ[value[_TYPE]](value[_VALUE])
    return {name: read(each) for name, each in value.items()}


def _key(name: Any, place: str) -> str:
    if isinstance(name, str):
        return name
    if name is None or isinstance(name, bool):
        return {None: "null", True: "true", False: "false"}[name]
    if isinstance(name, (int, float)):
        return str(name)
    raise TypeError(f"{place}: a key of type {type(name).__name__} is no JSON: give texts as keys")
