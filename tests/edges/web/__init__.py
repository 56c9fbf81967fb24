"""Where pgqueue meets others: command line, web, test suites, frameworks, drivers, PgBouncer, demo and bench."""
