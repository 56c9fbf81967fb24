"""Checking a code base for Celery: what moves as it is, what changes its meaning, what has no place. Nothing is run."""

from pgqueue.celery.checking.finding import Finding, Kind, Review
from pgqueue.celery.checking.project import review

__all__ = ["Finding", "Kind", "Review", "review"]
