"""`doctor` compares a schema with what the migrations make of an empty database."""

from pgqueue.doctor.description import described
from tests.statements.description import read

RENEW = "the migrations have changed: run `python -m tests.statements.description` and review the diff"


def test_the_description_of_the_schema_is_what_the_migrations_make(dsn: str) -> None:
    made = read(dsn)
    assert made.version == described().version, RENEW
    assert made.parts == described().parts, RENEW
