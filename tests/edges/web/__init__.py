"""Tests of pgqueue.web."""
