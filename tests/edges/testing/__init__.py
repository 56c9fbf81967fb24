"""Tests of pgqueue.testing, used as a user's test suite uses it."""
