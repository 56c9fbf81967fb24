"""Django's tasks: `django.tasks` from Django 6.0 on, before that the package django-tasks, which has the same names."""

import django

if django.VERSION >= (6, 0):
    from django.tasks import base, exceptions, signals
    from django.tasks import task_backends as task_backends
    from django.tasks.backends.base import BaseTaskBackend as BaseTaskBackend
    from django.utils.json import normalize_json as normalize_json
else:
    from django_tasks import base, exceptions, signals
    from django_tasks import task_backends as task_backends
    from django_tasks.backends.base import BaseTaskBackend as BaseTaskBackend
    from django_tasks.utils import normalize_json as normalize_json

Task, TaskContext, TaskError, TaskResult = base.Task, base.TaskContext, base.TaskError, base.TaskResult
InvalidTask = exceptions.InvalidTask if django.VERSION >= (6, 0) else exceptions.InvalidTaskError
Status = base.TaskResultStatus
TaskResultDoesNotExist, TaskResultMismatch = exceptions.TaskResultDoesNotExist, exceptions.TaskResultMismatch
task_enqueued, task_started, task_finished = signals.task_enqueued, signals.task_started, signals.task_finished
