"""A user's own codec: how it is used, and what a job keeps if it fails."""

from typing import Any

import pytest

from pgqueue import ConfigError, Context
from pgqueue.events import WorkerStarted
from tests.conftest import drain, scalar
from tests.harness import Conn
from tests.values.codec.leaks import SECRET, Make, dump, leaky_tasks, run_leaky_tasks


class Grumpy:
    """A codec that quotes what it was given when it fails."""

    def __init__(self) -> None:
        self.broken = False

    def seal(self, plain: bytes, about: bytes) -> str:
        if self.broken:
            raise ValueError(f"cannot seal {plain!r}")
        return f"x{plain.hex()}.{about.hex()}"

    def open(self, sealed: str, about: bytes) -> bytes:
        plain, of = sealed[1:].split(".")
        if self.broken or bytes.fromhex(of) != about:
            raise ValueError(f"cannot open {bytes.fromhex(plain)!r}")
        return bytes.fromhex(plain)


def test_a_codec_of_ones_own(make: Make, conn: Conn) -> None:
    app = make(Grumpy())
    jobs = run_leaky_tasks(app, conn)
    assert SECRET not in dump(conn)
    assert app.get(jobs["retries"]).result == SECRET
    assert app.get(jobs["dies"]).errors[0].message == f"no {SECRET}"


@pytest.mark.parametrize("name", ["returns", "dies", "cancels"])
def test_a_codec_that_fails_loses_the_words_but_not_the_outcome(make: Make, conn: Conn, name: str) -> None:
    codec = Grumpy()
    app = make(codec)
    leaky_tasks(app)

    @app.middleware
    async def breaks(ctx: Context, call_next: Any) -> None:
        await call_next()
        codec.broken = True

    job = app.enqueue(name, {"word": SECRET})
    drain(app, conn)
    codec.broken = False
    ended = app.get(job.id)
    assert ended.state == {"returns": "succeeded", "dies": "failed", "cancels": "cancelled"}[name]
    error = ended.attempts[0].error
    assert error is not None
    assert (error.type, error.message) == (
        "pgqueue.CannotSeal",
        "the codec raised ValueError: the result or error is not kept",
    )
    assert SECRET not in dump(conn)


def test_a_codec_that_fails_to_open_says_nothing_of_what_it_quotes(make: Make, conn: Conn) -> None:
    app = make(codec := Grumpy())
    app.task(name="t", max_attempts=2, retry=[0.01])(lambda word: word)
    job = app.enqueue("t", {"word": SECRET})
    app.on(WorkerStarted)(lambda _: setattr(codec, "broken", True))
    drain(app, conn)
    codec.broken = False
    assert next((error.type, error.message) for error in app.get(job.id).errors) == (
        "pgqueue.CannotOpen",
        "Grumpy.open() raised ValueError",
    )
    assert SECRET not in dump(conn)


@pytest.mark.parametrize("sealed", [b"x", "two words", "", "ü", "a\nb"], ids=repr)
def test_a_codec_that_gives_no_plain_text_is_refused_before_anything_is_written(
    make: Make, conn: Conn, sealed: Any
) -> None:
    class Odd(Grumpy):
        def seal(self, plain: bytes, about: bytes) -> str:
            return sealed  # type: ignore[no-any-return]

    with pytest.raises(ConfigError, match=r"Odd\.seal\(\) gave no text of printable ASCII"):
        make(Odd()).enqueue("t", {"word": SECRET})
    assert scalar(conn, "select count(*) from pgqueue.job") == 0
