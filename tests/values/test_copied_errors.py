"""Each error survives a copy and a pickle with its message and all that it holds, as a child process sends it."""

import copy
import inspect
import pickle
from typing import Any

import pytest

from pgqueue import errors
from pgqueue.error_info import ErrorInfo
from pgqueue.errors import PgqueueError
from tests.values.test_lifecycle import NOW

COUNTS = dict.fromkeys(["job_id", "token", "depth", "max_depth", "missing", "workflow", "waited"], 7)
VALUES: dict[str, Any] = COUNTS | {
    "problems": ["n: is no number"],
    "expires_at": NOW,
    "error": ErrorInfo("ValueError", "no", ""),
    "job": (7, "t", "failed", "exhausted", None),
}
CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, PgqueueError)]


def made(kind: type[PgqueueError]) -> PgqueueError:
    if "__init__" not in {name for each in kind.__mro__ if issubclass(each, PgqueueError) for name in vars(each)}:
        return kind("what was wrong")
    return kind(*(VALUES.get(name, name) for name in list(inspect.signature(kind.__init__).parameters)[1:]))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_is_copied_and_pickled_whole(kind: type[PgqueueError]) -> None:
    error = made(kind)
    error.add_note("seen by Ann")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(again), str(again), again.args) == (kind, str(error), error.args)
        assert vars(again) == vars(error)
