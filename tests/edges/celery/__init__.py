"""Tests of pgqueue.celery: Celery's names over pgqueue."""
