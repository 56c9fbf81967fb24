"""Text from tasks, rows and callers acts on no terminal and forges no line of a log."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import pgqueue
from pgqueue.printable import one_line, printable, printable_json
from pgqueue.process.logs import LOGGERS, JsonFormatter, OwnLogger, TextFormatter

ACTING = [*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), *map(chr, range(0x202A, 0x202F))]
ACTING += [*map(chr, range(0x2066, 0x206A)), *"\u061c\u200b\u200e\u200f\u2028\u2029\ufeff\ud800\U000e0041"]
PLAIN = "Zoë paid 5 €\xa0at 7, 日本\u3000語 \u0645\u06cc\u200c\u062e 👨\u200d👩 [/x] [red]"
LOG = logging.getLogger("pgqueue.worker")


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    return LOG.makeRecord(LOG.name, logging.ERROR, "file.py", 1, message, args, None, extra=extra)


@pytest.fixture
def written() -> Iterator[list[logging.LogRecord]]:
    """The records that reach a handler of the app."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Keep()
    logging.getLogger().addHandler(handler)
    yield records
    logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("safe", [printable, one_line])
def test_characters_that_act_are_escaped_and_others_stay(safe: Callable[[str], str]) -> None:
    for character in ACTING:
        if safe is one_line or character not in "\n\t":
            assert safe(f"a{character}b") == "a" + ascii(character)[1:-1] + "b"
    assert safe(PLAIN) == PLAIN


def test_line_feeds_stay_on_a_terminal_and_not_in_a_log() -> None:
    assert printable("a\n\tb\r\n") == "a\n\tb\\r\n"
    assert one_line("a\n\tb\r\n") == "a\\n\\tb\\r\\n"


@pytest.mark.parametrize("value", [*ACTING, PLAIN])
def test_json_for_a_terminal_has_the_same_value(value: str) -> None:
    text = printable_json(json.dumps({"key": [value]}, ensure_ascii=False, indent=2))
    assert json.loads(text) == {"key": [value]}
    assert text == printable(text)


def test_a_record_is_one_line_whatever_its_parts_are() -> None:
    line = TextFormatter().format(
        record("job %s\n%s", "t\n2026-11-28 ERROR forged", "\x1b[2J", job=" [job 1 t\nforged]")
    )
    assert "\n" not in line
    assert "\x1b" not in line


def test_lines_of_a_traceback_begin_as_no_record_does() -> None:
    try:
        raise ValueError("bad\n2026-11-28 12:00:00,000 ERROR pgqueue: forged \x1b[2J")
    except ValueError as error:
        failed = record("failed", job="")
        failed.exc_info = (ValueError, error, error.__traceback__)
    first, *others = TextFormatter().format(failed).split("\n")
    assert first.endswith("failed")
    assert all(line.startswith("  ") for line in others)
    assert "\x1b" not in "".join(others)


def test_a_json_line_keeps_what_extra_gave() -> None:
    circle: list[Any] = []
    circle.append(circle)
    line = JsonFormatter().format(record("paid %s", "\x9bx", order=7, level="own", job_id=3, odd={1, 2}, circle=circle))
    found = json.loads(line)
    assert "\x9b" not in line
    assert (found["message"], found["order"], found["job_id"]) == ("paid \x9bx", "7", "3")
    assert found["level"] == "error"
    assert json.loads(JsonFormatter().format(record("paid", order=7)))["order"] == 7


def test_pgqueues_own_records_are_safe_for_every_handler(written: list[logging.LogRecord]) -> None:
    LOG.error("job %d %s", 1, "t\nforged\x1b[2J")
    assert written[0].getMessage() == "job 1 t\\nforged\\x1b[2J"


def test_a_database_error_in_a_record_shows_no_row(written: list[logging.LogRecord]) -> None:
    LOG.error("cannot write: %s", psycopg.DataError("refused\nDETAIL:  Failing row contains (4111-1111)."))
    assert written[0].getMessage() == "cannot write: refused"


def test_a_log_handler_that_raises_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("disk full")

    handler = Broken()
    logging.getLogger().addHandler(handler)
    try:
        LOG.error("job %s", "t\nx")
    finally:
        logging.getLogger().removeHandler(handler)
    assert "a log handler raised RuntimeError; the record: job t\\nx\n" in capsys.readouterr().err


def test_every_logger_of_pgqueue_is_its_own_kind() -> None:
    used = {name for name in logging.root.manager.loggerDict if name == "pgqueue" or name.startswith("pgqueue.")}
    assert pgqueue.__name__ in used
    assert used <= set(LOGGERS)
    assert all(type(logging.getLogger(name)) is OwnLogger for name in LOGGERS)
