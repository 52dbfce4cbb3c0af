"""
Every span-attribute, log-field, header and baggage name that tracebaton writes or reads.

The only file that spells them. OpenTelemetry's own names are the current semantic conventions
(https://opentelemetry.io/docs/specs/semconv/), Sentry's are those of sentry-conventions.
"""

from typing import Final

# The request store on spans, log lines, Sentry tags and in baggage.
CORRELATION_ID: Final = "tracebaton.correlation_id"
USER_ID: Final = "tracebaton.user_id"
TASK_ID: Final = "tracebaton.task.id"
TASK_TYPE: Final = "tracebaton.task.type"
TASK_STATUS: Final = "tracebaton.task.status"
TASK_ATTEMPT: Final = "tracebaton.task.attempt"
#: Prefix of the attribute and baggage name of a custom field of the store.
STORE_PREFIX: Final = "tracebaton."

# Baggage keys: the store on the wire to the queue.
BAGGAGE_PREFIX: Final = "tracebaton."
BAGGAGE_CORRELATION_ID: Final = "tracebaton.correlation_id"
BAGGAGE_USER_ID: Final = "tracebaton.user_id"
BAGGAGE_TASK_ID: Final = "tracebaton.task_id"
SENTRY_BAGGAGE_PREFIX: Final = "sentry-"

# Headers, lower case as they travel in ASGI and in SQS message attributes.
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
TRACERESPONSE: Final = "traceresponse"
BAGGAGE: Final = "baggage"
SENTRY_TRACE: Final = "sentry-trace"
X_CORRELATION_ID: Final = "x-correlation-id"
X_REQUEST_ID: Final = "x-request-id"
AWS_TRACE_HEADER: Final = "AWSTraceHeader"
X_API_KEY: Final = "x-api-key"

# Message attributes of our own beside the trace's.
MESSAGE_SIGNATURE: Final = "tracebaton-signature"
#: Why a message is in quarantine: the code, the sentence, and all there is to know as JSON.
MESSAGE_REASON: Final = "tracebaton-reason"
MESSAGE_DETAIL: Final = "tracebaton-detail"
MESSAGE_QUARANTINE: Final = "tracebaton-quarantine"

# HTTP spans.
#: The answer is that of an earlier request with the same Idempotency-Key.
IDEMPOTENCY_REPLAYED: Final = "tracebaton.idempotency.replayed"
HTTP_ROUTE: Final = "http.route"
HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_STATUS_CODE: Final = "http.response.status_code"
#: The caller left before the answer was complete; nothing failed.
CLIENT_DISCONNECTED: Final = "tracebaton.client.disconnected"
#: The code a WebSocket was closed with (RFC 6455, 7.4).
WEBSOCKET_CLOSE_CODE: Final = "tracebaton.websocket.close_code"
URL_PATH: Final = "url.path"
URL_QUERY: Final = "url.query"
ERROR_TYPE: Final = "error.type"
#: The event of a recorded exception and its attributes.
EXCEPTION: Final = "exception"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
SERVER_ADDRESS: Final = "server.address"
#: Where a client span names its URL, in the stable and in the old conventions.
URL_ATTRIBUTES: Final = ("url.full", "http.url")
#: The old conventions' path with its query.
HTTP_TARGET: Final = "http.target"
#: The request method and the response status in the stable and in the old conventions.
HTTP_METHODS: Final = ("http.request.method", "http.method")
HTTP_STATUS_CODES: Final = ("http.response.status_code", "http.status_code")
DB_SYSTEMS: Final = ("db.system.name", "db.system")

# Messaging spans.
MESSAGING_SYSTEM: Final = "messaging.system"
AWS_SQS: Final = "aws_sqs"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
MESSAGING_OPERATION_NAME: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
MESSAGING_CONVERSATION_ID: Final = "messaging.message.conversation_id"
MESSAGING_BODY_SIZE: Final = "messaging.message.body.size"
MESSAGING_BATCH_COUNT: Final = "messaging.batch.message_count"
RECEIVE_COUNT: Final = "tracebaton.message.receive_count"
LEASE_LOST: Final = "tracebaton.lease.lost"
QUEUE_DELAY_MS: Final = "tracebaton.queue.delay_ms"
QUEUE_BACKLOG_MS: Final = "tracebaton.queue.backlog_ms"
QUEUE_PREFETCH_MS: Final = "tracebaton.queue.prefetch_ms"

# Messaging metrics.
METRIC_OPERATION_DURATION: Final = "messaging.client.operation.duration"
METRIC_SENT_MESSAGES: Final = "messaging.client.sent.messages"
METRIC_CONSUMED_MESSAGES: Final = "messaging.client.consumed.messages"
METRIC_PROCESS_DURATION: Final = "messaging.process.duration"

# Metrics of telemetry itself, of the SDK's conventions.
METRIC_SPANS_EXPORTED: Final = "otel.sdk.exporter.span.exported"
COMPONENT_NAME: Final = "otel.component.name"

# What the API measures beyond the HTTP conventions.
METRIC_GIVEN_UP: Final = "tracebaton.http.given_up"

# What the worker measures beyond those.
METRIC_QUEUE_TIME: Final = "tracebaton.queue.time"
METRIC_QUEUE_MESSAGES: Final = "tracebaton.queue.messages"
METRIC_QUEUE_AGE: Final = "tracebaton.queue.age"
METRIC_CALLS: Final = "tracebaton.queue.calls"
METRIC_SETTLED: Final = "tracebaton.messages.settled"
METRIC_DRAINED: Final = "tracebaton.messages.drained"
METRIC_TASK_ATTEMPTS: Final = "tracebaton.task.attempts"
METRIC_LEASE_EXTENSIONS: Final = "tracebaton.lease.extensions"
METRIC_LEASE_LATENESS: Final = "tracebaton.lease.lateness"
METRIC_LOOP_BLOCKED: Final = "tracebaton.loop.blocked"
METRIC_POLLER_RESTARTS: Final = "tracebaton.poller.restarts"
QUEUE_STAGE: Final = "tracebaton.queue.stage"
QUEUE_STATE: Final = "tracebaton.queue.state"
LEASE_OUTCOME: Final = "tracebaton.lease.outcome"
OUTCOME: Final = "tracebaton.outcome"

# Sentry.
SENTRY_OP: Final = "sentry.op"
SENTRY_RETRY_COUNT: Final = "messaging.message.retry.count"
SENTRY_RECEIVE_LATENCY: Final = "messaging.message.receive.latency"
OP_HTTP_SERVER: Final = "http.server"
OP_QUEUE_PUBLISH: Final = "queue.publish"
OP_QUEUE_PROCESS: Final = "queue.process"
OP_QUEUE_BATCH: Final = "queue.batch"

# Log fields, in the order they are written.
LOG_FIELDS: Final = (
    "timestamp",
    "level",
    "event",
    "logger",
    "service",
    "trace_id",
    "span_id",
    "correlation_id",
    "user_id",
    "task_id",
    "attempt",
)

# Event names.
EVENT_HTTP_REQUEST: Final = "http.request"
EVENT_HTTP_ERROR: Final = "http.error"
#: A connection was ended because nothing moved on it.
EVENT_HTTP_GIVEN_UP: Final = "http.given_up"
#: Telemetry itself stumbled; the request went on without it.
EVENT_TELEMETRY_FAILED: Final = "telemetry.failed"
#: Spans go through a provider that the application made before us.
EVENT_TELEMETRY_JOINED: Final = "telemetry.joined"
EVENT_SPOTLIGHT_IDLE: Final = "telemetry.spotlight_without_dsn"
EVENT_SERVICE_READY: Final = "service.ready"
EVENT_SERVICE_NOT_READY: Final = "service.not_ready"
EVENT_SERVICE_ALIVE: Final = "service.alive"
EVENT_SERVICE_NOT_ALIVE: Final = "service.not_alive"
EVENT_SERVICE_STARTED: Final = "service.started"
EVENT_SERVICE_NOT_STARTED: Final = "service.not_started"
EVENT_API_KEYS_UNREADABLE: Final = "api_keys.unreadable"
EVENT_JWKS_UNREADABLE: Final = "jwks.unreadable"
#: A variable that looks like one of ours and that nothing reads.
EVENT_SETTING_UNKNOWN: Final = "setting.unknown"
EVENT_TASK_ENQUEUED: Final = "task.enqueued"
#: The outbox sent what was saved and perhaps never sent, or could not.
EVENT_TASK_RESENT: Final = "task.resent"
EVENT_TASK_NOT_RESENT: Final = "task.not_resent"
#: A running task waits again: the lease of its worker ran out.
EVENT_TASK_REAPED: Final = "task.reaped"
EVENT_TASK_STARTED: Final = "task.started"
#: How far a handler is: at most one a second of each attempt, and 100.
EVENT_TASK_PROGRESS: Final = "task.progress"
EVENT_TASK_SUCCEEDED: Final = "task.succeeded"
EVENT_TASK_RETRIED: Final = "task.retried"
EVENT_TASK_FAILED: Final = "task.failed"
EVENT_TASK_DEAD: Final = "task.dead"
EVENT_TASK_CANCELLED: Final = "task.cancelled"
EVENT_TASK_STORE_FAILED: Final = "task_store.failed"
EVENT_UPKEEP_FAILED: Final = "upkeep.failed"
#: A second copy of a message whose task has ended, or runs elsewhere.
EVENT_TASK_DUPLICATE: Final = "task.duplicate"
#: A FIFO queue dropped the message: its deduplication id was used within five minutes.
EVENT_TASK_DEDUPLICATED: Final = "task.deduplicated"
EVENT_MESSAGE_QUARANTINED: Final = "message.quarantined"
#: A message that cannot be handled stays, because its copy was not confirmed.
EVENT_MESSAGE_NOT_QUARANTINED: Final = "message.not_quarantined"
#: The DLQ watcher cannot look, or must not: tasks of killed workers stay as they are.
EVENT_DLQ_UNWATCHED: Final = "dlq.unwatched"
EVENT_WORKER_DRAINED: Final = "worker.drained"
EVENT_WORKER_FAILURE: Final = "worker.failure"
#: A worker process of ``--processes`` began, or ended by itself.
EVENT_CHILD_STARTED: Final = "child.started"
EVENT_CHILD_ENDED: Final = "child.ended"
#: Something holds up the event loop, and every message with it.
EVENT_LOOP_BLOCKED: Final = "loop.blocked"
#: A poll loop died and was started again, or its receive did not come back.
EVENT_POLLER_RESTARTED: Final = "poller.restarted"
EVENT_POLLER_STALLED: Final = "poller.stalled"
EVENT_LEASE_LOST: Final = "lease.lost"
EVENT_LEASE_EXPIRED: Final = "lease.expired"
EVENT_AUDIT_CALL: Final = "audit.call"
EVENT_AUDIT_SUCCESS: Final = "audit.success"
EVENT_AUDIT_ERROR: Final = "audit.error"
#: The process's name on an audit line, whose ``service`` is the audited one.
SERVICE_NAME: Final = "service_name"

#: The instrumentation scope of our manual spans.
SCOPE: Final = "tracebaton"

#: Paths that answer without credentials, and without detail.
PROBE_PATHS: Final = frozenset({"/livez", "/readyz", "/startupz"})
#: Paths that have neither spans nor metrics nor access-log lines.
QUIET_PATHS: Final = PROBE_PATHS | {"/metrics"}

# Generative AI, for the chat example's call to a model.
RPC_SYSTEM: Final = "rpc.system"
GEN_AI_OPERATION: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
