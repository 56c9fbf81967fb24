"""Where the DSN of an app comes from: a text, the environment, or functions that each new connection asks again."""

from collections.abc import Callable
from typing import TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue.config import find_dsn
from pgqueue.db.embedded import PREFIX
from pgqueue.errors import InvalidOption

GivenDsn: TypeAlias = str | Callable[[], str]
GivenPassword: TypeAlias = Callable[[], str]


class DsnSource:
    """A DSN as users give it, and the function that gives its password where it has none.

    The functions may be called at any time, in any thread, and several times at once.
    """

    def __init__(self, dsn: GivenDsn | None, password: GivenPassword | None = None) -> None:
        if password is not None and not callable(password):
            raise InvalidOption("password=… cannot be used: give a function that returns it, or write it in the DSN")
        self._given = dsn
        self._password = password

    @property
    def changes(self) -> bool:
        """Whether a new connection has to ask again."""
        return self._password is not None or (self._given is not None and not isinstance(self._given, str))

    @property
    def known(self) -> str:
        """What is known of the DSN without asking a function; empty where a function gives all of it."""
        given = self._given
        return find_dsn(given) if given is None or isinstance(given, str) else ""

    def read(self) -> str:
        """Return the DSN as it is now. Raises ConfigError without one, and psycopg's OperationalError where a function
        of the user's fails: to a process that is as if the server were out of reach, for it may work again."""
        given = self._given
        if given is None or isinstance(given, str):
            dsn = self.known
        elif (dsn := find_dsn(_answer("dsn", given))).startswith(PREFIX):
            raise psycopg.OperationalError("the function of App(dsn=…) returned an embedded: one: give that as a text")
        if self._password is None or dsn.startswith(PREFIX) or conninfo_to_dict(dsn).get("password"):
            return dsn
        return make_conninfo(dsn, password=_answer("password", self._password))


def _answer(what: str, function: Callable[[], str]) -> str:
    """Return what a function of the user's gives. No message has its answer, nor the words of its error."""
    try:
        answer = function()
    except Exception as error:  # whatever it is, the process goes on and asks again
        raise psycopg.OperationalError(f"the function of App({what}=…) raised {type(error).__name__}") from error
    if not isinstance(answer, str) or not answer:
        raise psycopg.OperationalError(
            f"the function of App({what}=…) returned {type(answer).__name__}: let it return a text that is not empty"
        )
    return answer
