"""The names of OpenTelemetry's semantic conventions that pgqueue uses, of version 1.44: all of them stand here alone.

The messaging conventions are in development, and were changed twice in 2026.
"""

from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
SCOPE: Final = "pgqueue"

# Attributes of the conventions
SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
MESSAGE_ID: Final = "messaging.message.id"
MESSAGE_COUNT: Final = "messaging.batch.message_count"
CLIENT_ID: Final = "messaging.client.id"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"

# Their values: no well-known system is a queue in Postgres, so the name is ours
PGQUEUE: Final = "pgqueue"
SEND: Final = "send"
PROCESS: Final = "process"
REDRIVE: Final = "redrive"

# Attributes of our own
TASK: Final = "pgqueue.task"
ATTEMPT: Final = "pgqueue.attempt"
MAX_ATTEMPTS: Final = "pgqueue.max_attempts"
OUTCOME: Final = "pgqueue.outcome"
WAIT_SECONDS: Final = "pgqueue.wait_seconds"
OPERATION: Final = "pgqueue.operation"
SCHEDULE: Final = "pgqueue.schedule"

# Metrics of the conventions, and the recommended boundaries of their histograms
CONSUMED: Final = "messaging.client.consumed.messages"
OPERATION_DURATION: Final = "messaging.client.operation.duration"
PROCESS_DURATION: Final = "messaging.process.duration"
DURATION_BOUNDARIES: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
