"""Benchmarks: pgqueue as its users run it; other job queues by their own harness, in the same session.

    python -m tests.bench --case c --case d --runs 3
    python -m tests.bench --all --dsn postgresql://postgres@127.0.0.1/postgres --peers DIR

Each run works on a new database. The measurements are kept as lines of JSON; page and charts are made from those.
"""
