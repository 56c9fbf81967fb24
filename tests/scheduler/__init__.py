"""Tests of what makes jobs of plans: schedules as rows, their verbs, and the schedulers that fire them."""
