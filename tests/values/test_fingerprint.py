"""Fingerprints: errors of one cause have the same one, and no others."""

import re
from collections.abc import Callable

import pytest

from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.fingerprint import fingerprint


def info(message: str, kind: str = "shop.CardRefused", traceback: str | None = None) -> ErrorInfo:
    return ErrorInfo(kind, message, traceback)


def group(message: str, **other: str) -> str:
    return fingerprint(info(message, **other), "exhausted")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("order 17 not found", "order 230948 not found"),
        ("user 6f1e2a34-1111-4222-8333-0123456789ab gone", "user 00000000-0000-4000-8000-000000000001 gone"),
        ("no key 'alice'", "no key 'bob'"),
        ('no key "alice \\" x"', 'no key "b"'),
        ("cannot open /var/data/7/a.csv", "cannot open /srv/b.csv"),
        ("mail to ann@example.org bounced", "mail to b.c@example.com bounced"),
        ("10.0.0.1:5432 refused", "192.168.7.20:5432 refused"),
        ("object at 0x7f12ab refused", "object at 0x55aa refused"),
        ("commit 9fceb02d0ae598e95dc970b74767f19372d61af8 is missing", "commit 0123456789abcdef0123 is missing"),
        ("took 1.5 s at 2026-01-01", "took 12,000 s at 2027-12-31"),
    ],
)
def test_what_varies_does_not_count(one: str, other: str) -> None:
    assert group(one) == group(other)


def test_words_and_classes_count() -> None:
    assert len({group("card refused"), group("card expired"), group("card refused", kind="shop.CardExpired")}) == 3
    assert re.fullmatch("[0-9a-f]{16}", group("x"))


def raised_in(function: Callable[[], None]) -> ErrorInfo:
    try:
        function()
    except ValueError as error:
        return ErrorInfo.of(error)
    raise AssertionError


def test_the_innermost_own_frame_counts_without_its_line() -> None:
    def a() -> None:
        raise ValueError("no")

    def b() -> None:
        raise ValueError("no")

    traceback = raised_in(a).traceback or ""
    moved = re.sub(r"line (\d+)", lambda found: f"line {int(found[1]) + 40}", traceback)
    inner = '  File "/venv/lib/python3.12/site-packages/requests/api.py", line 1, in get\n'
    library = traceback.replace(", in a\n", f", in a\n{inner}")
    first = fingerprint(info("no", traceback=traceback), None)
    assert first == fingerprint(info("no", traceback=moved), None) == fingerprint(info("no", traceback=library), None)
    assert first != fingerprint(info("no", traceback=raised_in(b).traceback), None)


def test_a_sealed_message_does_not_count_but_its_class_does() -> None:
    sealed = {fingerprint(info(message), None, sealed=True) for message in ("card of ann", "card of bob")}
    assert len(sealed) == 1
    assert fingerprint(info("x", kind="Other"), None, sealed=True) not in sealed


def test_a_dead_letter_without_an_error_is_grouped_by_its_reason() -> None:
    assert fingerprint(None, "crashed") == fingerprint(None, "crashed") != fingerprint(None, "rejected")


def test_a_message_of_any_length_is_read_in_no_time() -> None:
    assert group("a" * 1000 + "b" * 10**6) == group("a" * 1000 + "c")
    assert len({group("'" * 1000), group("/a" * 500), group("1:" * 500), group("a.b@" * 250)}) <= 4
