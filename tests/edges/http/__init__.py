"""Tests of pgqueue.http: requests to a server in the test's process."""
