"""What callers do: enqueue, read, cancel, wait for jobs, and manage schedules."""
