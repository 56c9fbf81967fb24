"""pgqueue.testing, as a user's test suite meets it."""
