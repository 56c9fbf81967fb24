"""Tests of the SQL: what each statement does, what it promises under locks, and what it costs on any history."""
