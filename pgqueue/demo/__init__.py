"""The demo: a small shop whose jobs commit with its orders, on a Postgres of its own."""
