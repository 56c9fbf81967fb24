"""Tests of values: arguments, plans, ticks, retries, codecs. Most of them need no database."""
