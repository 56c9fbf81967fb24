"""Tests of what callers do: enqueueing, keys, options, cancelling, waiting, results."""
