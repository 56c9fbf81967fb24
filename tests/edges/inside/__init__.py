"""Tests of workers and schedulers inside processes that serve something else."""
