"""Workflows: graphs of jobs as values."""
