"""The SQL itself: what each statement does, promises under locks, and costs on any history."""
