from celery import Task, shared_task
from celery.utils.log import get_task_logger

logger = get_task_logger(__name__)


class Postman(Task):
    autoretry_for = (ConnectionError,)
    retry_backoff = True
    max_retries = 3

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        logger.warning("mail %s waits: %s", task_id, exc)


@shared_task(bind=True, base=Postman, default_retry_delay=1)
def send_mail(self, *readers, subject, **more):
    if self.request.retries == 0:
        raise ConnectionError("the post office is closed")
    return {"to": list(readers), "subject": subject}
