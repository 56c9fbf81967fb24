"""Tests of tasks in child processes, with real processes and real signals."""
