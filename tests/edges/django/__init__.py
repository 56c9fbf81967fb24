"""Django: the backend for its tasks, manage.py, and pgqueue's tables by `migrate`."""
