"""Tests of what runs jobs: worker, children, threads and supervisor, also under faults."""
