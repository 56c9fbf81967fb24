"""Tests of the edges: command line, web, test suites, frameworks, drivers, PgBouncer, demo and bench."""
