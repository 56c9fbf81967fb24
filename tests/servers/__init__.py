"""The tests on every Postgres at hand: `python -m tests.servers`."""
