"""How a worker runs a claimed job: on the event loop, in a thread, in a child process."""
