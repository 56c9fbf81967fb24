from celery.schedules import crontab
from kombu import Queue

CELERY_BROKER_URL = "amqp://guest:guest@localhost//"
CELERY_RESULT_BACKEND = "rpc://"
CELERY_TASK_SERIALIZER = "json"
CELERY_TIMEZONE = "Europe/Vienna"
CELERY_TASK_QUEUES = (Queue("default"), Queue("mail"))
CELERY_TASK_ROUTES = {"library.mails.*": {"queue": "mail"}}
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_CONCURRENCY = 4
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BEAT_SCHEDULE = {
    "reminders": {"task": "library.loans.tasks.remind", "schedule": crontab(minute=30, hour=7), "args": (14,)},
    "inventory": {
        "task": "library.loans.tasks.inventory",
        "schedule": crontab(minute=0, hour=6, day_of_month="1-7", day_of_week="sat"),
        "options": {"expires": 3600},
    },
}
