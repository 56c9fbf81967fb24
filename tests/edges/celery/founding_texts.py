"""The Celery code of the founding texts, as it was written there."""

QUICK_START = """
from celery import Celery
app = Celery("tasks", broker="redis://localhost:6379")
@app.task
def send_email(to: str, subject: str, body: str) -> None:
    # This runs in a background worker
    email_client.send(to, subject, body)
# In your API handler
send_email.delay("user@example.com", "Welcome!", "Thanks for signing up")
"""

RETRIES = '''
from celery import Celery, Task
import requests

app = Celery("tasks", broker="redis://localhost:6379/0",
             backend="redis://localhost:6379/1")

class BaseTaskWithRetry(Task):
    """Base task class with exponential backoff defaults."""
    autoretry_for = (requests.RequestException, ConnectionError)
    retry_backoff = True           # exponential backoff
    retry_backoff_max = 600        # cap at 10 minutes
    retry_jitter = True            # randomize to prevent thundering herd
    max_retries = 5
    acks_late = True               # ack after completion, not receipt
    reject_on_worker_lost = True   # requeue if worker crashes mid-task

@app.task(base=BaseTaskWithRetry, bind=True)
def send_webhook(self, url: str, payload: dict):
    resp = requests.post(url, json=payload, timeout=10)
    resp.raise_for_status()
    return {"status": resp.status_code, "url": url}

@app.task(bind=True, max_retries=3)
def process_payment(self, order_id: str, amount: float):
    """Manual retry with custom backoff intervals."""
    try:
        return payment_gateway.charge(order_id, amount)
    except PaymentGatewayTimeout as exc:
        countdown = [10, 60, 300][self.request.retries]  # 10s, 60s, 300s
        raise self.retry(exc=exc, countdown=countdown)
    except PaymentDeclined:
        return {"status": "declined", "order_id": order_id}  # no retry
'''

CANVAS = """
from celery import chain, chord, group

# Chain: sequential pipeline
pipeline = chain(download_file.s(url), parse_csv.s(), store_results.s())

# Group: parallel fan-out
batch = group(process_image.s(img_id) for img_id in image_ids)

# Chord: parallel + callback when all complete
workflow = chord([analyze_chunk.s(c) for c in chunks], aggregate_results.s())

# Nested: fan-out -> aggregate -> notify
full = chain(
    chord([process_item.s(i) for i in items], merge_results.s()),
    send_notification.s(user_email="admin@example.com"),
)
"""

MORE_CANVAS = """
from celery import chain, group, chord
# Simple chain: A → B → C
workflow = chain(
    extract_data.s(source_id),
    transform_data.s(),
    load_data.s(destination_id),
)
# Parallel execution: A, B, C all at once
parallel = group(
    send_email.s(user_email),
    send_sms.s(user_phone),
    update_analytics.s(event_data),
)
# Chord: Run tasks in parallel, then a callback
# Process all items, then send completion notification
workflow = chord(
    [process_item.s(item_id) for item_id in item_ids],
    send_completion_notification.s(batch_id),
)
workflow.apply_async()
"""

RATE = """
@app.task(rate_limit="10/m")  # 10 per minute per worker
def call_external_api(endpoint: str, params: dict):
    return requests.get(endpoint, params=params).json()
"""

IDEMPOTENT = '''
import hashlib, redis, json

redis_client = redis.Redis()

def make_idempotency_key(task_name: str, args: tuple, kwargs: dict) -> str:
    payload = json.dumps({"task": task_name, "args": args, "kwargs": kwargs},
                         sort_keys=True)
    return f"idem:{hashlib.sha256(payload.encode()).hexdigest()}"

@app.task(bind=True)
def idempotent_charge(self, order_id: str, amount: float):
    """Exactly-once processing via idempotency key."""
    key = make_idempotency_key("charge", (order_id,), {"amount": amount})
    existing = redis_client.get(key)
    if existing:
        return json.loads(existing)
    result = payment_gateway.charge(order_id, amount)
    redis_client.setex(key, 86400, json.dumps(result))  # 24h TTL
    return result
'''

LOCK = '''
from contextlib import contextmanager

@contextmanager
def distributed_lock(key: str, timeout: int = 300):
    """Prevent duplicate job execution with Redis lock."""
    lock_key = f"lock:{key}"
    acquired = redis_client.set(lock_key, "1", nx=True, ex=timeout)
    if not acquired:
        raise JobAlreadyRunning(f"Lock {key} held by another worker")
    try:
        yield
    finally:
        redis_client.delete(lock_key)

@app.task(bind=True)
def sync_user_data(self, user_id: str):
    try:
        with distributed_lock(f"sync:{user_id}", timeout=600):
            fetch_from_external_api(user_id)
            update_local_database(user_id)
    except JobAlreadyRunning:
        return {"status": "skipped", "reason": "already_running"}
'''

DEAD_LETTERS = '''
from celery.signals import task_failure
from datetime import datetime

@task_failure.connect
def on_task_failure(sender=None, task_id=None, exception=None,
                    args=None, kwargs=None, **kw):
    """Route permanently failed tasks to DLQ."""
    if sender.request.retries >= sender.max_retries:
        redis_client.lpush("dlq", json.dumps({
            "task_name": sender.name, "task_id": task_id,
            "args": args, "kwargs": kwargs,
            "exception": str(exception), "failed_at": datetime.utcnow().isoformat(),
        }))

def replay_dead_letters(limit=100):
    """Re-enqueue failed tasks from DLQ."""
    for _ in range(limit):
        entry = redis_client.rpop("dlq")
        if not entry:
            break
        data = json.loads(entry)
        app.send_task(data["task_name"], args=data["args"], kwargs=data["kwargs"])
'''

BEAT = """
from celery.schedules import crontab

app.conf.beat_schedule = {
    "cleanup-sessions": {
        "task": "tasks.cleanup_sessions",
        "schedule": crontab(minute=0, hour="*/6"),     # every 6h
    },
    "daily-report": {
        "task": "tasks.generate_report",
        "schedule": crontab(minute=0, hour=8),          # daily 8am
        "args": ("daily",),
    },
    "sync-inventory": {
        "task": "tasks.sync_inventory",
        "schedule": 300.0,                               # every 5min
        "options": {"expires": 280},                     # expire before next
    },
}
"""

QUEUES = """
@app.task(queue="critical")
def process_refund(order_id: str): pass  # high priority

@app.task(queue="default")
def send_email(user_id: str): pass       # normal

@app.task(queue="bulk")
def generate_report(year: int): pass     # low priority

# celery -A tasks worker -Q critical,default,bulk -c 4
# Or dedicated workers: celery -A tasks worker -Q critical -c 8
"""

CONFIGURATION = """
from celery import Celery
app = Celery('myapp')
app.conf.update(
    # Broker
    broker_url='redis://localhost:6379/0',
    result_backend='redis://localhost:6379/1',
    # Serialization
    task_serializer='json',
    result_serializer='json',
    accept_content=['json'],
    # Reliability
    task_acks_late=True, # Ack after completion
    task_reject_on_worker_lost=True,
    # Retry
    task_default_retry_delay=60, # 1 minute
    task_max_retries=3,
    # Queues
    task_queues={
        'high': {'exchange': 'high', 'routing_key': 'high'},
        'default': {'exchange': 'default', 'routing_key': 'default'},
        'low': {'exchange': 'low', 'routing_key': 'low'},
    },
    task_default_queue='default',
    # Monitoring
    worker_send_task_events=True,
    task_send_sent_event=True,
)
@app.task(bind=True, max_retries=3, default_retry_delay=60)
def process_document(self, document_id: int):
    try:
        doc = Document.objects.get(id=document_id)
        result = expensive_processing(doc)
        return result
    except TransientError as e:
        # Retry transient failures
        self.retry(exc=e)
    except PermanentError:
        # Don't retry permanent failures
        raise
"""

SIGNALS = """
from celery.signals import task_prerun, task_postrun, task_failure
@task_prerun.connect
def task_start(task_id, task, *args, **kwargs):
    metrics.increment('celery.task.started', tags={'task': task.name})
@task_postrun.connect
def task_complete(task_id, task, retval, state, *args, **kwargs):
    metrics.increment('celery.task.completed', tags={
        'task': task.name,
        'state': state
    })
@task_failure.connect
def task_failed(task_id, exception, *args, **kwargs):
    metrics.increment('celery.task.failed', tags={'task': task_id})
    alert_on_failure(task_id, exception)
"""

LIMITS = '''
from celery import Celery
app = Celery("tasks", broker="redis://localhost:6379")
# Global configuration
app.conf.update(
    task_time_limit=3600, # Hard limit: 1 hour
    task_soft_time_limit=3000, # Soft limit: 50 minutes
    task_acks_late=True, # Acknowledge after completion
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1, # Don't prefetch too many tasks
)
@app.task(
    bind=True,
    max_retries=3,
    default_retry_delay=60,
    autoretry_for=(ConnectionError, TimeoutError),
)
def process_payment(self, payment_id: str) -> dict:
    """Process payment with automatic retry on transient errors."""
    try:
        result = payment_gateway.charge(payment_id)
        return {"status": "success", "transaction_id": result.id}
    except PaymentDeclinedError as e:
        # Don't retry permanent failures
        return {"status": "declined", "reason": str(e)}
    except TransientError as e:
        # Retry with exponential backoff
        raise self.retry(exc=e, countdown=2 ** self.request.retries * 60)
'''

ORDER = '''
@app.task(bind=True)
def process_order(self, order_id: str) -> None:
    """Process order idempotently."""
    order = orders_repo.get(order_id)
    # Already processed? Return early
    if order.status == OrderStatus.COMPLETED:
        logger.info("Order already processed", order_id=order_id)
        return
    # Already in progress? Check if we should continue
    if order.status == OrderStatus.PROCESSING:
        # Use idempotency key to avoid double-charging
        pass
    # Process with idempotency key
    result = payment_provider.charge(
        amount=order.total,
        idempotency_key=f"order-{order_id}",  # Critical!
    )
    orders_repo.update(order_id, status=OrderStatus.COMPLETED)
'''

DEAD_LETTER_QUEUE = '''
@app.task(bind=True, max_retries=3)
def process_webhook(self, webhook_id: str, payload: dict) -> None:
    """Process webhook with DLQ for failures."""
    try:
        result = send_webhook(payload)
        if not result.success:
            raise WebhookFailedError(result.error)
    except Exception as e:
        if self.request.retries >= self.max_retries:
            # Move to dead letter queue for manual inspection
            dead_letter_queue.send({
                "task": "process_webhook",
                "webhook_id": webhook_id,
                "payload": payload,
                "error": str(e),
                "attempts": self.request.retries + 1,
                "failed_at": datetime.utcnow().isoformat(),
            })
            logger.error(
                "Webhook moved to DLQ after max retries",
                webhook_id=webhook_id,
                error=str(e),
            )
            return
        # Exponential backoff retry
        raise self.retry(exc=e, countdown=2 ** self.request.retries * 60)
'''
