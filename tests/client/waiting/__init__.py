"""Tests of waiting for jobs."""
