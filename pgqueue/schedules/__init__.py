"""Schedules: plans, policies, and the ticks that they yield. No clock and no database."""
